"""GPUs here are names: no test needs one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fgp_workflow.gpu_slot import POLL_SECONDS, Locks, visible_gpus

ROOT = Path(__file__).parents[1]
WRAPPER = [sys.executable, "-m", "fgp_workflow.gpu_slot"]
JOB = 'echo "$1 $CUDA_VISIBLE_DEVICES" >> started; while [ ! -e "end$1" ] && [ -d . ]; do sleep 0.02; done'
SNAKEFILE = """
rule all:
    input: expand("{number}.done", number=range(4))

rule job:
    output: "{number}.done"
    resources: gpu=1
    shell:
        "python -m fgp_workflow.gpu_slot --slots 2 -- sh -c 'echo {wildcards.number} $CUDA_VISIBLE_DEVICES >> started;"
        " while [ $(wc -l < started) -lt 4 ]; do sleep 0.02; done; touch {output}'"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with GPUs 0 and 1 as far as `nvidia-smi` says, in an empty folder."""
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$*" = "--query-gpu=index --format=csv,noheader" ] && printf "0\\n1\\n"\n')
    program.chmod(0o755)
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "workflow")]))
    monkeypatch.setenv("FGP_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(folder)
    jobs = Jobs()
    yield jobs
    for process in jobs.processes.values():
        process.kill()
        process.wait()


class Jobs:
    """Jobs that run until they are told to end."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, *names: str, flags: tuple[str, ...] = ()) -> None:
        for name in names:
            command = [*WRAPPER, *flags, "--", "sh", "-c", JOB, "job", name]
            with open(f"{name}.log", "w") as log:
                self.processes[name] = subprocess.Popen(command, stderr=log)

    def started(self) -> dict[str, str]:
        """GPU of every job that has started."""
        return dict(line.split() for line in Path("started").read_text().splitlines()) if Path("started").exists() else {}

    def wait_for(self, number: int) -> Counter:
        """Wait until so many jobs have started; return the jobs by GPU."""
        until(lambda: len(self.started()) >= number)
        assert len(self.started()) == number
        return Counter(self.started().values())

    def wait_for_queue(self, *names: str) -> None:
        """Wait until each of these jobs says that it waits."""
        until(lambda: all(Path(f"{name}.log").read_text().startswith("gpu_slot: waiting for a") for name in names))

    def end(self, *names: str) -> None:
        for name in names:
            Path(f"end{name}").touch()
            assert self.processes[name].wait(20) == 0


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_eight_jobs_over_two_gpus(machine):
    names = [str(number) for number in range(8)]
    machine.start(*names, flags=("--slots", "2"))
    assert machine.wait_for(4) == {"0": 2, "1": 2}
    first = list(machine.started())
    machine.wait_for_queue(*(set(names) - set(first)))
    machine.end(*first)
    assert machine.wait_for(8) == {"0": 4, "1": 4}
    machine.end(*(set(names) - set(first)))
    assert all(Path(f"{name}.log").read_text().count("\n") == (name not in first) for name in names)


def test_a_killed_holder_frees_its_slot(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-a/1/0")
    machine.start("holder")
    machine.wait_for(1)
    machine.start("next")
    machine.wait_for_queue("next")
    machine.processes["holder"].send_signal(signal.SIGKILL)
    assert machine.wait_for(2) == {"MIG-GPU-a/1/0": 2}
    machine.end("next")


def test_alone_waits_for_the_jobs_of_a_gpu_and_keeps_others_off(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    machine.start("first", flags=("--slots", "3"))
    machine.wait_for(1)
    machine.start("alone", flags=("--alone",))
    machine.wait_for_queue("alone")
    machine.start("late", flags=("--slots", "3"))
    machine.wait_for_queue("late")
    machine.end("first")
    machine.wait_for(2)
    time.sleep(2 * POLL_SECONDS)
    assert list(machine.started()) == ["first", "alone"]
    machine.end("alone")
    machine.wait_for(3)
    machine.end("late")


def test_alone_takes_a_gpu_without_jobs(machine):
    machine.start("first")
    machine.wait_for(1)
    machine.start("alone", flags=("--alone",))
    machine.wait_for(2)
    assert set(machine.started().values()) == {"0", "1"}
    machine.end("first")
    machine.start("second")
    machine.wait_for(3)
    assert machine.started()["second"] == machine.started()["first"]
    machine.end("alone", "second")


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_jobs_keeps_the_limits(seed, tmp_path):
    """`Locks` in one process, against a literal account of who holds what."""
    draw = random.Random(seed)
    gpus = [str(number) for number in range(draw.randint(1, 3))]
    jobs: list[tuple[str, int]] = []
    alone: dict[str, int] = {}
    for _ in range(60):
        action, slots = draw.choice(["share", "share", "share", "alone", "end"]), draw.randint(1, 3)
        counts = Counter({gpu: 0 for gpu in gpus})
        counts.update(gpu for gpu, _ in jobs)
        if action == "share":
            expected = min((counts[gpu] for gpu in gpus if gpu not in alone), default=slots)
            taken = Locks(tmp_path, gpus).share(slots)
            assert (taken is None) == (expected >= slots)
            if taken:
                assert taken[0] not in alone
                assert counts[taken[0]] == expected
                jobs.append(taken)
        elif action == "alone":
            idle = [gpu for gpu in gpus if gpu not in alone and not counts[gpu]]
            locks = Locks(tmp_path, gpus)
            taken = locks.alone()
            assert (taken and taken[0]) == (idle[0] if idle else None)
            if taken:
                alone[taken[0]] = taken[1]
            else:
                open_gpus = [gpu for gpu in gpus if gpu not in alone]
                assert list(locks._reserved) == open_gpus[:1]
                for lock in locks._reserved.values():
                    os.close(lock)
        elif held := [*jobs, *alone.items()]:
            gpu, lock = draw.choice(held)
            os.close(lock)
            jobs = [job for job in jobs if job != (gpu, lock)]
            alone = {name: other for name, other in alone.items() if other != lock}
    for _, lock in [*jobs, *alone.items()]:
        os.close(lock)


@pytest.mark.parametrize(
    ("named", "gpus"),
    [
        ("1", ["1"]),
        ("GPU-5ab, MIG-GPU-5ab/1/0,", ["GPU-5ab", "MIG-GPU-5ab/1/0"]),
        ("1,0,1", ["1", "0"]),
        ("2,-1,0", ["2"]),
        ("", []),
        ("NoDevFiles", []),
        (None, ["0", "1"]),
    ],
)
def test_visible_gpus(named, gpus, machine, monkeypatch):
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*WRAPPER, *words], capture_output=True, text=True, timeout=20)


def test_without_any_gpu(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refused = run("--", "echo", "ran")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("gpu_slot: error: no GPU found: CUDA_VISIBLE_DEVICES names none")
    done = run("--optional", "--alone", "--", "echo", "--", "ran")
    assert (done.returncode, done.stdout) == (0, "-- ran\n")
    assert not Path(os.environ["FGP_GPU_LOCKS"]).exists()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", os.devnull)
    assert "nvidia-smi lists none" in run("--", "true").stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("true",), "unrecognized arguments: true"),
        ((), "error: give the command to run after --"),
        (("--", "no-such-program"), "error: no-such-program: cannot be run (No such file or directory)"),
        (("--slots", "0", "--", "true"), "0: give 1 at least"),
    ],
)
def test_wrong_command_lines(words, message, machine):
    refused = run(*words)
    assert refused.returncode != 0
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


def test_exit_status_and_gpu_of_the_command(machine):
    done = run("--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "0\n", "")


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o777), lambda path: (path.rmdir(), path.symlink_to(path.parent))])
def test_a_folder_that_others_can_write_to_is_refused(spoil, machine):
    folder = Path(os.environ["FGP_GPU_LOCKS"])
    folder.mkdir(mode=0o700)
    spoil(folder)
    assert f"error: {folder}: not a folder that only you can write to" in run("--", "true").stderr


def test_jobs_of_a_batch_system_do_not_meet(machine, monkeypatch):
    monkeypatch.delenv("FGP_GPU_LOCKS")
    monkeypatch.setenv("TMPDIR", str(Path.cwd()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for job in ("7", "8"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        machine.start(job)
    assert machine.wait_for(2) == {"0": 2}
    machine.end("7", "8")
    assert {path.name for path in Path.cwd().glob("fgp-gpu-*")} == {f"fgp-gpu-{os.getuid()}-{job}" for job in ("7", "8")}


def test_snakemake_runs_jobs_through_it(machine):
    """Each job ends when all four have started: two a GPU at once."""
    Path("Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--cores", "4", "--resources", "gpu=4", "--quiet", "all"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Counter(machine.started().values()) == {"0": 2, "1": 2}


def test_it_starts_without_the_libraries():
    code = (
        "import sys, fgp_workflow.gpu_slot; print(sorted({'torch', 'numpy', 'yaml', 'pydantic', 'baselines'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
