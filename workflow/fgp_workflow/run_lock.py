"""One run of Snakemake at a time in a results folder, from whatever checkout it is started.

Snakemake's own lock lies in the checkout and outlives a killed process. This one is a lock (flock) on `.lock` in the results
folder, which the kernel frees when the process ends, however it ends.
"""

import fcntl
import os
import socket
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake_interface_executor_plugins.workflow import WorkflowExecutorInterface

NAME = ".lock"
_HELD: dict[Path, int] = {}


def hold(workflow: WorkflowExecutorInterface, folder: Path) -> None:
    """Lock a results folder, which is made if need be, until this process ends; do nothing with `--nolock`.

    To be called in `onstart`: runs that make nothing (dry runs, `--report`, `--unlock`) and processes of single jobs never come
    there, and no output has been removed yet. Where the file system has no locks, a warning says so.

    Raises:
        WorkflowError: another process holds the lock.
    """
    place = folder.resolve()
    if not workflow.execution_settings.lock or place in _HELD:
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        file = os.open(place / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkflowError(_refusal(folder, file)) from None
        _HELD[place] = file
        os.truncate(file, 0)
        os.write(file, _holder().encode())
    except OSError as error:
        logger.warning(f"{folder / NAME}: {error.strerror}; see to it yourself that no other run works in {folder}")


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, started {time.strftime('%Y-%m-%d %H:%M:%S')} in {Path.cwd()}\n"


def _refusal(folder: Path, file: int) -> str:
    holder = os.read(file, os.fstat(file).st_size).decode(errors="replace").strip() or "not known which"
    os.close(file)
    return (
        f"{folder}: another run is at work in this folder ({holder}), and each would remove what the other has made. "
        "Wait for its end or stop it, then run the same command again; or give this one another `run` in its configuration. "
        "--nolock goes on all the same."
    )
