import csv
from pathlib import Path

import pytest
import torch

from benchmarks import workflow
from benchmarks.__main__ import main
from fgp.errors import FgpError
from fgp.scoring.files import save_scores

ROOT = Path(__file__).parents[1]
CELL = "digits-vgg16/seed0"
RULES = {
    "data": "[Sat Nov 21 16:00:03 2026]|Job 1: prepare digits|[Sat Nov 21 16:00:06 2026]",
    "dense": "[Sat Nov 21 16:00:06 2026]|Job 2: train digits-vgg16 seed 0|[Sat Nov 21 16:00:26 2026]",
    "sparse-slimming": "[Sat Nov 21 16:00:26 2026]|Job 3: sparse training|[Sat Nov 21 16:00:38 2026]",
    "gradual-frs": "[Sat Nov 21 16:00:26 2026]|Job 4: gradual pruning|[Sat Nov 21 16:00:36 2026]",
    "score-digits-vgg16-fgp": "[Sat Nov 21 16:00:38 2026]|Job 5: score|[Sat Nov 21 16:00:43 2026]",
    "finetune-digits-vgg16-fgp": "[Sat Nov 21 16:00:43 2026]|Job 6: fine-tune|[Sat Nov 21 16:00:59 2026]",
    "latency": "[Sat Nov 21 16:00:59 2026]|Job 7: measure|[Sat Nov 21 16:01:04 2026]",
    "collect": "[Sat Nov  7 09:59:59 2026]|Job 8: collect the cells|[Sat Nov  7 10:00:01 2026]",
    "table-1": "[Sat Nov 21 16:01:06 2026]|Job 9: table 1|[Sat Nov 21 16:01:07 2026]",
    "all": "[Sat Nov 21 16:01:07 2026]|localrule all:|    input: results/small/a|    jobid: 10|[Sat Nov 21 16:01:07 2026]",
}
SECONDS = {"data": 3, "dense": 20, "sparse": 12, "gradual": 10, "score": 5, "finetune": 16, "latency": 5}
CURVES = {
    "dense/unpruned/curve.csv": (8, 6),
    "slimming/sparse/curve.csv": (9,),
    "frs/macs-0.5/gradual_curve.csv": (7,),
    "frs/macs-0.5/curve.csv": (4,),
    "fgp/macs-0.5/curve.csv": (1, 3),
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
    (run / "config.yaml").write_text((ROOT / "config/demo.yaml").read_text().replace("threads: 1\n", "threads: 2\n", 1))
    (run / "cells.csv").touch()
    for kind, seconds in SECONDS.items():
        (run / "benchmarks" / kind).mkdir(parents=True)
        (run / "benchmarks" / kind / "job.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:00\n")
    for name, epochs in CURVES.items():
        path = run / CELL / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("epoch,seconds\n" + "".join(f"1,{seconds}\n" for seconds in epochs))
    for method, subcommand in (("fgp", "score"), ("dcfp", "stage")):
        path = run / CELL / method / "scores.safetensors"
        save_scores(path, {"conv": torch.ones(2)}, seconds=2.5, provenance={"command": f"fgp {subcommand} --data x"})
    (logs / "1.log").write_text(log({"all": RULES["all"]}))
    (logs / "2.log").write_text(log(RULES))
    (logs / "3.log").write_text(log(RULES).replace("steps (100%) done", "steps (99%) done"))
    return run


def test_shares_of_a_run(small, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["workflow", "--parts", "demo", "--run", str(small), "--out", str(out)]) == 0
    with open(out, newline="") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    seconds = {
        "training": 2 * (14 + 9 + 7 + 8),
        "scoring": 2 * 2.5,
        "rest of the jobs dense": 2 * (20 - 14),
        "rest of the jobs sparse": 2 * (12 - 9),
        "rest of the jobs gradual": 2 * (10 - 7),
        "rest of the jobs score": 2 * (5 - 2.5),
        "rest of the jobs finetune": 2 * (16 - 8),
        "latency": 4 * 5,
        "data": 3,
        "collection, tables, figures, report": 2 + 1,
        "idle": 400 - 2 * (20 + 12 + 10 + 5 + 16) - 4 * 5 - 3 - 3,
        "outside training and scoring": 400 - 76 - 5,
    }
    assert {what: float(row["seconds"]) for what, row in rows.items()} == seconds
    assert {what: float(row["share"]) for what, row in rows.items()} == {
        what: pytest.approx(value / 400, abs=1e-4) for what, value in seconds.items()
    }
    whole = rows["outside training and scoring"]
    assert (whole["target"], whole["within"], whole["jobs"], whole["cores"]) == ("0.25", "no", "10", "4")
    assert rows["collection, tables, figures, report"]["jobs"] == "3"
    assert "| demo | latency | 1 | 20.0 |" in capsys.readouterr().out


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
    (small / "benchmarks/dense/another.tsv").write_text("s\th:m:s\n1\t0:00:00\n")
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
    with open(out, newline="") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    planned = rows["plan the paper's DAG"]
    assert int(planned["jobs"]) > 1000
    assert planned["target"] == "10.0"
    assert rows["overhead"]["ms_a_job"]
    lifted = rows["without the limit"]
    assert (lifted["jobs"], lifted["part"]) == ("3", "scheduler")
    assert float(lifted["cpu_seconds"]) > 0 < int(lifted["peak_threads"])
    assert {row["part"] for row in rows.values()} == {"plan", "jobs", "scheduler"}
