"""A SLURM of one node with two fake GPUs on this machine, for tests: Debian's packages, started by hand, no systemd.

munge has a key and a socket of its own. Only `slurm.conf` and `gres.conf` lie outside the given folder, as the commands inside a
SLURM job look for them in /etc/slurm.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "squeue": "slurm-client", "munged": "munge"}
ETC = Path("/etc/slurm")
MARK = "# written by the tests in tests/cluster; removed when they end\n"
SLURM_CONF = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={slurmctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0
KillWait=2
ReturnToService=2
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES
"""
GRES_CONF = "NodeName=localhost Name=gpu File={folder}/gpu[0-1]\n"


class NoPackagesError(Exception):
    """What a test needs of the system is not to be had on this machine; the message says why."""


class NoSlurmError(NoPackagesError):
    """No SLURM can be started on this machine; the message says why."""


def install(packages: Mapping[str, str] = PACKAGES) -> None:
    """Install Debian's packages, {command: package}, whose command is missing; by default SLURM and munge.

    Raises:
        NoPackagesError: not root, no apt, or the packages cannot be had.
    """
    missing = sorted(package for command, package in packages.items() if not shutil.which(command))
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoPackagesError(f"{', '.join(missing)} not installed, and no apt-get to install with, or not as root")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    for preparation in ([], ["apt-get", "update", "--quiet"]):
        if preparation:
            subprocess.run(preparation, env=environment, capture_output=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return
    raise NoPackagesError(f"{' '.join(command)} failed: {done.stderr.strip()}")


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Run the cluster; one at a time on a machine.

    Raises:
        NoSlurmError: another SLURM is configured here, or a daemon does not start.
    """
    with (
        open(Path(tempfile.gettempdir()) / "fgp-test-slurm.lock", "w") as lock,
        tempfile.TemporaryDirectory(prefix="fgp-slurm-") as name,
        contextlib.ExitStack() as stack,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(name)
        folder.chmod(0o755)
        stack.enter_context(_configuration(folder))
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munged = ["munged", "--foreground", *(f"--{flag}={folder}/munge.{end}" for flag, end in files.items())]
        for daemon in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]):
            stack.enter_context(_daemon(daemon, folder / f"{daemon[0]}.out"))
        deadline = time.monotonic() + 30
        while _output("sinfo", "--noheader", "--format=%T") != "idle":
            if time.monotonic() > deadline:
                logs = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(folder.glob("*.out")))
                raise NoSlurmError(f"the node is not idle after 30 s\n{logs}")
            time.sleep(0.1)
        stack.callback(_end_jobs)
        yield


def jobs() -> dict[str, str]:
    """Return the pending and running jobs: id -> the comment that the executor plugin gives them (rule and wildcards)."""
    return dict(line.split("|") for line in _output("squeue", "--noheader", "--format=%i|%k").splitlines())


def cancel(*identifiers: str) -> None:
    """Cancel jobs and wait until they are gone."""
    subprocess.run(["scancel", *identifiers], check=True)
    while set(identifiers) & set(jobs()):
        time.sleep(0.1)


def processes(words: str) -> dict[str, str]:
    """Return SLURM's job id -> CUDA_VISIBLE_DEVICES of the running processes whose command line starts with `words`."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().startswith(words):
                values = dict(word.partition("=")[::2] for word in (folder / "environ").read_bytes().decode().split("\0"))
                if "SLURM_JOB_ID" in values:
                    found[values["SLURM_JOB_ID"]] = values.get("CUDA_VISIBLE_DEVICES", "none")
    return found


@contextlib.contextmanager
def _configuration(folder: Path) -> Iterator[None]:
    """Write SLURM's two files; take them away at the end."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        facts = {"folder": folder, "slurmctld_port": one.getsockname()[1], "slurmd_port": other.getsockname()[1]}
    for name in ("state", "spool"):
        (folder / name).mkdir()
    try:
        for name in ("gpu0", "gpu1"):
            os.mknod(folder / name, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        raise NoSlurmError("the fake GPUs are device nodes, and this machine (a container?) allows none") from None
    existed = ETC.exists()
    files = {ETC / "slurm.conf": SLURM_CONF, ETC / "gres.conf": GRES_CONF}
    for path in files:
        if path.exists() and not path.read_text().startswith(MARK):
            raise NoSlurmError(f"{path} exists and is not ours: this machine has a SLURM of its own")
    ETC.mkdir(exist_ok=True)
    try:
        for path, text in files.items():
            path.write_text(MARK + text.format(**facts))
        yield
    finally:
        for path in files:
            path.unlink(missing_ok=True)
        if not existed:
            ETC.rmdir()


@contextlib.contextmanager
def _daemon(command: list[str], log: Path) -> Iterator[None]:
    """Run a daemon in the foreground; stop it at the end."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_jobs() -> None:
    if left := jobs():
        cancel(*left)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
