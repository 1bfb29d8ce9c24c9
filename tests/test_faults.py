"""Full and read-only disks, too little memory, broken images, diverging training, failing jobs: a clear message, no half file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fault_cases import CASES, RECIPE
from PIL import Image
from test_workflow import TINY, Project
from test_workflow_methods import HEADER, SCORE

from fgp import cli
from fgp.errors import FgpError
from fgp.files import atomic

HERE = Path(__file__).parent
TOY = HEADER.format(label="Toy criterion", facts='needs=frozenset({"weights"})') + SCORE
NAMESPACE = ["unshare", "--mount", *["--map-root-user"] * (os.geteuid() != 0)]


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def can_mount(folder: Path) -> None:
    """Skip the test where a tmpfs cannot be mounted."""
    mount = ["mount", "-t", "tmpfs", "none", str(folder)]
    refused = subprocess.run([*NAMESPACE, *mount], capture_output=True, text=True, check=False)
    if refused.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {refused.stderr.strip()}")


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """(case, fault) -> exit status, stderr, files left, of every command that writes onto a full and a read-only disk."""
    folder = tmp_path_factory.mktemp("faults")
    can_mount(folder)
    command = [*NAMESPACE, sys.executable, str(HERE / "fault_cases.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {(case, fault): rest for case, fault, *rest in json.loads(done.stdout)}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "reason"), [("full", "No space left on device"), ("read-only", "Read-only file system")])
@pytest.mark.parametrize("case", CASES)
def test_a_disk_that_takes_nothing(disks, case, fault, reason):
    status, said, left = disks[case, fault]
    assert status == 1
    assert "Traceback" not in said
    message = said.splitlines()[-1]
    out = re.search(r"disk/out\S*", CASES[case][0])[0]
    assert re.fullmatch(rf"\w+: error: {out}\S*: .*{reason}.*", message)
    assert left == ["filler"]


def _write_half(path: Path, error: Exception) -> None:
    with atomic(path) as aside:
        aside.write_text("half")
        raise error


def test_other_errors_pass_through_and_leave_nothing(tmp_path):
    for error in (ValueError("bug"), OSError(5, "Input/output error", "/source/image.png"), FgpError("x (os error 28)")):
        with pytest.raises(type(error)) as caught:
            _write_half(tmp_path / "out", error)
        assert caught.value is error
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_only_files_are_replaced(tmp_path, kind):
    (os.mkdir if kind == "folder" else os.mkfifo)(tmp_path / "out")
    with pytest.raises(FgpError, match="out: is there, but not a file"), atomic(tmp_path / "out"):
        pytest.fail("was asked for something to write")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _fail(monkeypatch, error: Exception, subcommand: str) -> int:
    def run(_):
        raise error

    monkeypatch.setattr(f"fgp.cli.{subcommand}.run", run)
    words = {
        "data": "--source digits --out x",
        "score": "--data x --weights x --method l1 --seed 0 --out x",
        "train": f"--data x --network vgg16 --out x {RECIPE}",
        "measure": "--data x --weights a=x --out x",
    }
    return cli.main([subcommand, *words[subcommand].split()])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(5, "Input/output error", "image.png"), "image.png: Input/output error"),
        (PermissionError(13, "Permission denied", "two\nlines"), "two lines: Permission denied"),
        (OSError(28, "No space left on device"), "the operating system: No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, error, message):
    assert _fail(monkeypatch, error, "data") == 1
    assert capsys.readouterr().err == f"fgp: error: {message}\n"


def _memory_errors():
    import numpy as np
    import torch

    enforce = (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
    )
    yield MemoryError()
    yield np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("uint8"))
    yield torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ...")
    yield RuntimeError(enforce)
    yield RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize(
    ("subcommand", "lower"),
    [("data", "--train-limit"), ("score", "scoring.batch_size"), ("train", "--batch-size"), ("measure", "latency.batch_sizes")],
)
def test_out_of_memory_says_what_to_lower(monkeypatch, capsys, subcommand, lower):
    for error in _memory_errors():
        assert _fail(monkeypatch, error, subcommand) == 1
        said = capsys.readouterr().err
        assert said.startswith("fgp: error: out of memory (")
        assert lower in said
        assert said.count("\n") == 1


def test_a_bug_shows_its_traceback(monkeypatch):
    with pytest.raises(RuntimeError, match="size mismatch"):
        _fail(monkeypatch, RuntimeError("size mismatch"), "data")


@pytest.mark.slow
def test_memory_really_runs_out(digits, tmp_path):
    code = """if True:
        import re, resource, sys, torch
        import fgp.cli, fgp.data, fgp.models
        fgp.save(fgp.models.build("vgg16", 10, 1 / 16), "dense.safetensors")
        used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
        sys.exit(fgp.cli.main(sys.argv[1:]))
    """
    words = ["measure", "--data", str(digits), "--weights", "dense/unpruned=dense.safetensors", "--batch-sizes", "1000000"]
    words += ["--device", "cpu", "--threads", "1", "--out", "latency.json"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"^fgp: error: out of memory \(.*\); lower --batch-sizes .*\n\Z", done.stderr, re.M), done.stderr
    assert _files(tmp_path) == ["dense.safetensors"]


def test_a_diverging_training_writes_nothing(digits, tmp_path, capsys):
    words = f"train --data {digits} --network vgg16 --width 0.0625 {RECIPE} --lr 1e30".split()
    files = [word for name in ("out", "curve", "metrics") for word in (f"--{name}", str(tmp_path / name))]
    assert cli.main([*words, *files]) == 1
    assert re.search(r"fgp: error: .*training diverged.*\n\Z", capsys.readouterr().err)
    assert not _files(tmp_path)


@pytest.mark.parametrize("broken", [b"", b"text", None], ids=["empty", "text", "truncated"])
def test_a_broken_image_in_the_middle_is_named(tmp_path, capsys, broken):
    for split in ("train", "test"):
        for label in ("a", "b", "c"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for i in range(4):
                Image.effect_noise((16, 16), 50).save(tmp_path / "set" / split / label / f"{i}.png")
    image = tmp_path / "set/train/b/2.png"
    image.write_bytes(image.read_bytes()[:150] if broken is None else broken)
    out = tmp_path / "out"
    words = f"data --source folder:set --root {tmp_path} --size 8 --out {out / 'set.safetensors'}"
    assert cli.main(words.split()) == 1
    assert re.fullmatch(rf"fgp: error: {image}: unreadable image .*\n", capsys.readouterr().err)
    assert not _files(out)


FAILING = """
rule all:
    input: "fine.txt", "wrong.txt", "killed.txt"

rule fine:
    output: "fine.txt"
    shell: "touch {output}"

rule wrong:
    output: "wrong.txt"
    log: "wrong.log"
    shell: "echo epoch 1; printf 'epoch 1\\nfgp: error: x: broken; mend it\\nbye\\n' > {log}; exit 1"

rule killed:
    output: "killed.txt"
    log: "killed.log"
    shell: "echo epoch 1 > {log}; kill -9 $$"
"""


def test_the_summary_says_why_jobs_failed(tmp_path):
    (tmp_path / "Snakefile").write_text(FAILING)
    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "1", "--logger", "fgp", "--keep-going"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert (tmp_path / "fine.txt").exists()
    summary = done.stderr.split(" 2 failed\n")[-1].splitlines()
    assert sorted(summary) == [
        "    failed: killed: killed without a word, most likely for lack of memory (log: killed.log)",
        "    failed: wrong: fgp: error: x: broken; mend it (log: wrong.log)",
    ]


@pytest.mark.slow
def test_a_failing_cell_stops_its_dependants_only(tmp_path):
    project = Project(tmp_path)
    figures = {"fig3a": {"task": "digits-vgg16", "k": [0.4]}}
    project.configure({**TINY, "methods": ["fgp", "toy"], "figures": figures})
    toy, run = tmp_path / "baselines/toy.py", tmp_path / "results/tiny"
    toy.write_text(TOY.replace("    import torch\n", '    import torch\n\n    raise ValueError("toy breaks")\n'))
    failed = project.snakemake("all_tables", "all_figures", "--cores", "2")
    assert failed.returncode == 1
    others = ["dense/unpruned", "fgp/count-0.40", "fgp/cumulative-0.40", "fgp/macs-0.5000"]
    metrics = {name: run / f"digits-vgg16/seed0/{name}/metrics.json" for name in others}
    assert sorted(metrics.values()) == sorted(run.rglob("metrics.json")), failed.stderr
    assert not list((run / "digits-vgg16/seed0/toy").rglob("*.*"))
    assert not any((run / name).exists() for name in ("cells.csv", "tables/table1.md", "figures/fig3a.png"))
    said = failed.stderr
    assert "1 of 5 cells are missing; the failed jobs say why:\n    digits-vgg16/seed0/toy/macs-0.5000\n" in said
    assert re.search(r"\n    failed: score digits-vgg16 seed 0 toy: ValueError: toy breaks \(log: \S+\)\n", said)
    again = re.search(r"run the same command again.*\n    snakemake (.*)\n", said)[1]
    after = re.search(r"\n    snakemake (partial_tables .*)\n", said)[1]

    done = _snakemake(project, after)
    assert done.returncode == 0, done.stderr
    made = _files(run / "partial")
    assert made == [
        "cells.csv",
        "figures/fig3a.pdf",
        "figures/fig3a.png",
        *(f"tables/table{n}.{e}" for n in "13" for e in ("csv", "html", "md", "tex")),
    ]
    assert "(incomplete: 1 of 5 cells missing)" in (run / "partial/tables/table1.md").read_text()
    assert "incomplete" not in (run / "partial/tables/table3.md").read_text()
    assert "results/tiny/partial/tables/table1.md" in done.stderr
    assert "toy/macs-0.5000/metrics.json" in (run / "logs/partial_tables.log").read_text()

    toy.write_text(TOY)
    before = {path: path.stat().st_mtime_ns for path in metrics.values()}
    done = _snakemake(project, again)
    assert done.returncode == 0, done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in metrics.values()}
    assert "incomplete" not in (run / "tables/table1.md").read_text()
    assert (run / "figures/fig3a.png").exists()


def _snakemake(project: Project, line: str) -> subprocess.CompletedProcess:
    words = line.split()
    cut = words.index("--configfile")  # the project names its own
    return project.snakemake(*words[:cut])
