"""Run a command on a GPU that has room for it: `python -m fgp_workflow.gpu_slot [--slots N] [--alone] -- COMMAND ...`

Snakemake counts GPUs but never says which one a job may use. This waits for a free slot, sets CUDA_VISIBLE_DEVICES to that GPU
and becomes the command (docs/gpus.md). A slot is a lock on a file that the command inherits, so the kernel frees it when the
command ends, however it ends. The files lie in one folder a user and machine: several runs of Snakemake share the GPUs.
"""

import argparse
import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fgp.errors import FgpError

POLL_SECONDS = 0.2
NO_DEVICE = ("-1", "NoDevFiles")
BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
"""Set by schedulers that give each of their jobs GPUs of its own, which may all be called 0."""


def visible_gpus() -> list[str]:
    """Return the GPUs to choose from: the entries of CUDA_VISIBLE_DEVICES where it is set, else the indices of `nvidia-smi`."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return _installed()
    entries = [entry.strip() for entry in named.split(",") if entry.strip()]
    end = next((place for place, entry in enumerate(entries) if entry in NO_DEVICE), len(entries))
    return list(dict.fromkeys(entries[:end]))


def _installed() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return [line.strip() for line in done.stdout.splitlines() if line.strip().isdigit()] if done.returncode == 0 else []


def locks_folder() -> Path:
    """Return the folder of the lock files, made on first use: $FGP_GPU_LOCKS, or one below the temporary folder.

    Raises:
        FgpError: another user could write to it.
    """
    job = next((f"-{os.environ[name]}" for name in BATCH_JOBS if name in os.environ), "")
    default = Path(tempfile.gettempdir(), f"fgp-gpu-{os.getuid()}{job}")
    folder = Path(os.environ.get("FGP_GPU_LOCKS") or default)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise FgpError(f"{folder}: no folder for the locks of GPUs ({error.strerror}); set FGP_GPU_LOCKS to another") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise FgpError(f"{folder}: not a folder that only you can write to; set FGP_GPU_LOCKS to one that is")
    return folder


class Locks:
    """The lock files of some GPUs.

    `<gpu>.slot<N>` is held by a job on that GPU, `<gpu>.alone` by the job that runs, or waits to run, alone on it. Whoever looks
    at them or takes one holds `mutex`.
    """

    def __init__(self, folder: Path, gpus: Sequence[str]) -> None:
        """`gpus` are entries of CUDA_VISIBLE_DEVICES."""
        self._folder = folder
        self._gpus = {gpu: re.sub(r"[^\w-]", "_", gpu) for gpu in gpus}
        self._reserved: dict[str, int] = {}

    def share(self, slots: int) -> tuple[str, int] | None:
        """Take a slot of the GPU with the fewest jobs.

        Returns:
            the GPU and the descriptor of the lock; None where every GPU has `slots` jobs, or one that runs or waits to run alone.
        """
        with self._mutex():
            jobs = {gpu: self._jobs(gpu) for gpu in self._gpus if not self._held(f"{self._gpus[gpu]}.alone")}
            gpu = min(jobs, key=jobs.get, default=None)
            if gpu is None or jobs[gpu] >= slots:
                return None
            free = (self._lock(f"{self._gpus[gpu]}.slot{slot}") for slot in range(slots))
            return gpu, next(lock for lock in free if lock is not None)

    def alone(self) -> tuple[str, int] | None:
        """Take a GPU without any job.

        Where every GPU has jobs, one of them is kept from getting more until this object takes a GPU or its process ends.

        Returns:
            the GPU and the descriptor of the lock, or None.
        """
        with self._mutex():
            for gpu in self._gpus:
                if not self._jobs(gpu) and (lock := self._reserve(gpu)) is not None:
                    return gpu, lock
            if not self._reserved:
                any(self._reserve(gpu) is not None for gpu in self._gpus)
            return None

    def _reserve(self, gpu: str) -> int | None:
        if gpu not in self._reserved and (lock := self._lock(f"{self._gpus[gpu]}.alone")) is not None:
            self._reserved[gpu] = lock
        return self._reserved.get(gpu)

    def _jobs(self, gpu: str) -> int:
        return sum(self._held(file.name) for file in self._folder.glob(f"{self._gpus[gpu]}.slot*"))

    def _held(self, name: str) -> bool:
        lock = self._lock(name)
        if lock is not None:
            os.close(lock)
        return lock is None

    def _lock(self, name: str, kind: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int | None:
        """Return a descriptor with the lock of a file, not inherited by other processes; None where another holds it."""
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    @contextmanager
    def _mutex(self) -> Iterator[None]:
        lock = self._lock("mutex", fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(lock)


def wait(locks: Locks, slots: int, alone: bool) -> tuple[str, int]:
    """Return a GPU and the descriptor of its lock as soon as one has room; say once on stderr that it waits."""
    said = False
    while (taken := locks.alone() if alone else locks.share(slots)) is None:
        if not said:
            _say("waiting for a GPU without other jobs" if alone else f"waiting for a slot: {slots} jobs a GPU, or one alone")
            said = True
        time.sleep(POLL_SECONDS)
    return taken


def main(argv: Sequence[str] | None = None) -> int:
    """Become the command; return an exit status only where that is not possible."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args, command = _parser().parse_args(words[:end]), words[end + 1 :]
    try:
        if not command:
            raise FgpError("give the command to run after --")
        _run(args, command)
    except FgpError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fgp_workflow.gpu_slot",
        usage="%(prog)s [--slots N] [--alone] [--optional] -- COMMAND ...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--slots", type=_count, default=1, metavar="N", help="most jobs on a GPU (default: 1)")
    parser.add_argument("--alone", action="store_true", help="wait for a GPU without jobs, and keep others off it")
    parser.add_argument("--optional", action="store_true", help="where there is no GPU, run the command all the same")
    return parser


def _run(args: argparse.Namespace, command: Sequence[str]) -> None:
    gpus = visible_gpus()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"], lock = wait(Locks(locks_folder(), gpus), args.slots, args.alone)
        os.set_inheritable(lock, True)
    elif not args.optional:
        raise FgpError(
            "no GPU found: CUDA_VISIBLE_DEVICES names none, or is not set and nvidia-smi lists none; "
            "set CUDA_VISIBLE_DEVICES, or `device: cpu` in the configuration"
        )
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise FgpError(f"{command[0]}: cannot be run ({error.strerror})") from None


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 at least")
    return value


def _say(line: str) -> None:
    print(f"gpu_slot: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
