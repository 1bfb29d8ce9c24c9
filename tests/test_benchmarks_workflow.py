import csv
from pathlib import Path

import pytest
import torch
from test_workflow import TINY, Project

from benchmarks import workflow
from benchmarks.__main__ import main
from fgp.errors import FgpError
from fgp.files import write_sealed
from fgp.scoring.files import save_scores

CELL = "digits-vgg16/seed0"
RULES = {
    "data": "[Sat Nov 21 16:00:02 2026]|Job 1: prepare digits|[Sat Nov 21 16:00:06 2026]",
    "budgets": "[Sat Nov 21 16:00:06 2026]|Job 2: budgets of digits-vgg16|[Sat Nov 21 16:00:10 2026]",
    "train": "[Sat Nov 21 16:00:10 2026]|Job 3: train digits-vgg16 seed 0 dense|[Sat Nov 21 16:00:29 2026]",
    "sparse_training": "[Sat Nov 21 16:00:29 2026]|Job 4: sparse training|[Sat Nov 21 16:00:41 2026]",
    "gradual": "[Sat Nov 21 16:00:29 2026]|Job 5: prune while training|[Sat Nov 21 16:00:39 2026]",
    "score": "[Sat Nov 21 16:00:41 2026]|Job 6: score digits-vgg16 seed 0 fgp|[Sat Nov 21 16:00:46 2026]",
    "prune": "[Sat Nov 21 16:00:46 2026]|Job 7: prune digits-vgg16 seed 0 fgp macs-0.5|[Sat Nov 21 16:00:49 2026]",
    "finetune": "[Sat Nov 21 16:00:49 2026]|Job 8: fine-tune|[Sat Nov 21 16:01:05 2026]",
    "scratch": "[Sat Nov 21 16:00:49 2026]|Job 9: train digits-vgg16 seed 0 scratch-e|[Sat Nov 21 16:00:58 2026]",
    "measure": "[Sat Nov 21 16:01:05 2026]|Job 10: measure|[Sat Nov 21 16:01:10 2026]",
    "collect": "[Sat Nov  7 09:59:59 2026]|Job 11: collect the cells|[Sat Nov  7 10:00:01 2026]",
    "table": "[Sat Nov 21 16:01:12 2026]|Job 12: table 1|[Sat Nov 21 16:01:13 2026]",
    "all": "[Sat Nov 21 16:01:13 2026]|localrule all:|    input: results/small/a|    jobid: 13|[Sat Nov 21 16:01:13 2026]",
}
SECONDS = {"data": 3, "train": 20, "sparse_training": 12, "gradual": 10, "score": 5, "finetune": 16, "scratch": 9, "measure": 5}
CURVES = {
    "dense/unpruned/curve.csv": (8, 6),
    "slimming/sparse/curve.csv": (9,),
    "group-fisher/macs-0.5/gradual_curve.csv": (7,),
    "group-fisher/macs-0.5/curve.csv": (4,),
    "fgp/macs-0.5/curve.csv": (1, 3),
    "scratch-e/macs-0.5/curve.csv": (5,),
}


def log(rules: dict[str, str], elapsed: str = "0:01:40.000000") -> str:
    lines = ["Provided cores: 4"]
    for job, (rule, text) in enumerate(rules.items(), start=1):
        lines += [*text.split("|"), f"Finished jobid: {job} (Rule: {rule})"]
    return "\n".join([*lines, f"{len(rules)} of {len(rules)} steps (100%) done", f"Elapsed time: {elapsed}", ""])


@pytest.fixture
def small(tmp_path):
    """The records of a finished run on four cores, 100 s long, two threads a job."""
    run = tmp_path / "results/small"
    logs = tmp_path / ".snakemake/log"
    for folder in (run, logs):
        folder.mkdir(parents=True)
    (run / "cells.csv").touch()
    for rule, seconds in SECONDS.items():
        (run / "benchmarks" / rule).mkdir(parents=True)
        (run / "benchmarks" / rule / "job.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:00\n")
    for name, epochs in CURVES.items():
        path = run / CELL / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("epoch,seconds\n" + "".join(f"1,{seconds}\n" for seconds in epochs))
    write_sealed(run / CELL / "dense/unpruned/metrics.json", {"provenance": {"threads": 2}})
    for method, images in (("fgp", 50), ("dcfp", 0)):
        path = run / CELL / method / "scores.safetensors"
        save_scores(path, {"conv": torch.ones(2)}, seconds=2.5, images=images)
    (logs / "1.log").write_text(log({"all": RULES["all"]}))
    (logs / "2.log").write_text(log(RULES))
    (logs / "3.log").write_text(log(RULES).replace("steps (100%) done", "steps (99%) done"))
    return run


def read(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the benchmark's CSV by what they are of."""
    with open(path, newline="") as file:
        return {row["what"]: row for row in csv.DictReader(file)}


def test_shares_of_a_run(small, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["workflow", "--parts", "demo", "--run", str(small), "--out", str(out)]) == 0
    rows = read(out)
    seconds = {
        "training": 2 * (14 + 9 + 7 + 8 + 5),
        "scoring": 2 * 2.5,
        "rest of the jobs train": 2 * (20 - 14),
        "rest of the jobs sparse_training": 2 * (12 - 9),
        "rest of the jobs gradual": 2 * (10 - 7),
        "rest of the jobs score": 2 * (5 - 2.5),
        "rest of the jobs prune": 2 * 3,
        "rest of the jobs finetune": 2 * (16 - 8),
        "rest of the jobs scratch": 2 * (9 - 5),
        "measure": 4 * 5,
        "data": 3,
        "budgets": 4,
        "collection, tables, figures, report": 2 + 1,
        "idle": 400 - 2 * (20 + 12 + 10 + 5 + 3 + 16 + 9) - 4 * 5 - 3 - 4 - 3,
        "outside training and scoring": 400 - 86 - 5,
    }
    assert {what: float(row["seconds"]) for what, row in rows.items()} == seconds
    assert {what: float(row["share"]) for what, row in rows.items()} == {
        what: pytest.approx(value / 400, abs=1e-4) for what, value in seconds.items()
    }
    whole = rows["outside training and scoring"]
    assert (whole["target"], whole["within"], whole["jobs"], whole["cores"]) == ("0.25", "no", "13", "4")
    assert rows["collection, tables, figures, report"]["jobs"] == "3"
    assert "| demo | measure | 1 | 20.0 |" in capsys.readouterr().out


@pytest.mark.slow
def test_the_records_of_a_real_run(tmp_path):
    """Every second of a small run is accounted for, by the names of the rules that there are."""
    project = Project(tmp_path)
    project.configure({**TINY, "methods": ["fgp", "slimming", "scratch-e"], "figures": {}})
    done = project.snakemake("all_tables", "--cores", "2")
    assert done.returncode == 0, done.stderr
    run, out = project.folder / "results/tiny", tmp_path / "out.csv"
    assert main(["workflow", "--parts", "demo", "--run", str(run), "--out", str(out)]) == 0
    rows = read(out)
    parts = {what: float(row["seconds"]) for what, row in rows.items() if what != "outside training and scoring"}
    rest = ("train", "sparse_training", "score", "prune", "finetune", "scratch")
    named = {"training", "scoring", *(f"rest of the jobs {rule}" for rule in rest), "measure", "data", "budgets", "idle"}
    assert set(parts) == named | {"collection, tables, figures, report"}
    assert sum(parts.values()) == pytest.approx(2 * float(rows["outside training and scoring"]["wall_seconds"]), abs=1)
    assert all(parts[f"rest of the jobs {rule}"] > 0 for rule in rest if rule != "prune")
    epochs = sum(float(row["seconds"]) for path in run.rglob("*curve.csv") for row in csv.DictReader(path.open()))
    assert parts["training"] == pytest.approx(epochs, abs=0.1)
    assert [rows[f"rest of the jobs {rule}"]["jobs"] for rule in rest] == ["1", "1", "2", "4", "4", "1"]


@pytest.mark.parametrize(("elapsed", "seconds"), [("0:01:40.5", 100.5), ("2:00:00", 7200), ("1 day, 1:00:01", 90001)])
def test_wall_clock_in_the_log(elapsed, seconds):
    assert workflow.parse_log(log(RULES, elapsed)).seconds == seconds


def test_a_run_that_is_missing_or_unfinished(small, tmp_path, capsys):
    for run in (tmp_path / "results/none", small):
        (small / "cells.csv").unlink(missing_ok=True)
        assert main(["workflow", "--run", str(run), "--out", str(tmp_path / "out.csv")]) == 1
        assert f"error: {run}: no finished run; `make demo`" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_run_in_two_pieces_is_refused(small):
    (small / "benchmarks/train/another.tsv").write_text("s\th:m:s\n1\t0:00:00\n")
    with pytest.raises(FgpError, match="2 jobs, Snakemake's log of the run has 1; it was not made by one call"):
        workflow.demo(small)


def test_what_is_timed_runs_and_failures_are_seen(tmp_path, capsys):
    workflow.trivial(2)
    with pytest.raises(FgpError, match=r"-m fgp plan \.\.\.: failed \(exit status 2\): fgp plan: error"):
        workflow.call(tmp_path, "python", "-m", "fgp", "plan")
    assert main(["workflow", "--parts", "jobs", "--jobs", "1"]) == 1
    assert "--jobs 1: give 2 at least" in capsys.readouterr().err


@pytest.mark.slow
def test_planning_and_jobs(tmp_path):
    out = tmp_path / "out.csv"
    words = ["workflow", "--parts", "plan", "jobs", "scheduler", "--repeats", "1", "--jobs", "2", "--ready", "3"]
    assert main([*words, "--out", str(out)]) == 0
    rows = read(out)
    planned = rows["plan the paper's DAG"]
    assert int(planned["jobs"]) > 2000
    assert planned["target"] == "10.0"
    assert rows["overhead"]["ms_a_job"]
    lifted = rows["without the limit"]
    assert (lifted["jobs"], lifted["part"]) == ("3", "scheduler")
    assert float(lifted["cpu_seconds"]) > 0 < int(lifted["peak_threads"])
    assert {row["part"] for row in rows.values()} == {"plan", "jobs", "scheduler"}
