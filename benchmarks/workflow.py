"""The workflow: seconds to plan the paper's DAG, cost of a job and of ready jobs, the demo's time outside training and scoring.

The last reads a finished run's own records and measures nothing. See benchmarks/README.md.
"""

import argparse
import contextlib
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import psutil
import torch
from fgp_workflow.experiment import DENSE, kind

from benchmarks import harness
from fgp.errors import FgpError
from fgp.files import read_sealed
from fgp.scoring.files import load_scores

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "workflow")])}
PLAN_SECONDS = 10.0
OUTSIDE_SHARE = 0.25
TRIVIAL = """
rule all:
    input: expand("done/{number}", number=range(int(config["number"])))

rule job:
    output: "done/{number}"
    log: "logs/{number}.log"
    benchmark: "benchmarks/{number}.tsv"
    params: key="0123456789ab"
    shell: "touch {output} > {log} 2>&1"
"""
LOOP = 'mkdir -p done logs; for i in $(seq $0); do bash -c "set -euo pipefail; touch done/$i > logs/$i.log 2>&1"; done'
SHORT = TRIVIAL.replace("touch", "sleep 0.1; touch")
LIFTED = """
onstart:
    from fgp_workflow import rate_limit
    rate_limit.lift(workflow)
"""
SAMPLE_SECONDS = 0.05
COLUMNS = "part what jobs seconds ratio cpu_seconds cpu_ratio peak_threads ms_a_job share target within"
PRINTED = tuple(COLUMNS.split())

CPU = torch.device("cpu")
WORKING = ("train", "sparse_training", "gradual", "score", "prune", "finetune", "scratch")
"""Rules that take `threads` of the configuration; `measure` takes all cores, every other rule one."""


@dataclass(frozen=True)
class Log:
    """What Snakemake's log says of a finished run.

    Attributes:
        seconds: from its start to its end.
        cores: `--cores`.
        jobs: (rule, seconds) of every job; the log counts whole seconds.
    """

    seconds: float
    cores: int
    jobs: tuple[tuple[str, float], ...]


def plan(repeats: int) -> list[dict[str, object]]:
    """Time a dry run of everything in config/config.yaml, in an empty folder, against one of a Snakefile with one rule."""
    found = []

    def paper(folder: Path) -> None:
        done = snakemake(folder, ROOT / "Snakefile", "all", "--dry-run", "--quiet", "--configfile", ROOT / "config/config.yaml")
        found.append(re.search(r"^(\d+) jobs", done, re.MULTILINE)[1])

    alternatives = {
        "Snakemake's start: plan one rule": partial(trivial, 1, "--dry-run", "--quiet"),
        "plan the paper's DAG": partial(in_new_folder, paper),
    }
    timed = harness.in_turn(alternatives, repeats, CPU)
    start = next(iter(timed.values()))
    rows = [{"what": name} | harness.summary(seconds, start) for name, seconds in timed.items()]
    rows[0] |= {"jobs": 1}
    rows[1] |= {"jobs": found[-1]} | harness.within(float(rows[1]["seconds"]), PLAN_SECONDS)
    return rows


def jobs(repeats: int, number: int) -> list[dict[str, object]]:
    """Time trivial jobs by Snakemake against a shell loop, one at a time, and the start of the processes that real jobs are.

    A job's overhead is that of all but the first: it leaves out what Snakemake takes to start.
    """
    python = [sys.executable, "-c"]
    slot = [sys.executable, "-m", "fgp_workflow.gpu_slot", "--", "true"]
    alternatives = {
        "shell loop": partial(in_new_folder, lambda folder: call(folder, "bash", "-c", LOOP, str(number))),
        "Snakemake": partial(trivial, number),
        "Snakemake, one job": partial(trivial, 1),
        "python -c pass": partial(in_new_folder, lambda folder: call(folder, *python, "pass")),
        "gpu_slot -- true": partial(in_new_folder, lambda folder: call(folder, *slot)),
        "fgp --help": partial(in_new_folder, lambda folder: call(folder, sys.executable, "-m", "fgp", "--help")),
        "import torch": partial(in_new_folder, lambda folder: call(folder, *python, "import torch")),
    }
    timed = harness.in_turn(alternatives, repeats, CPU)
    loop, many, one, *processes = timed
    rows = []
    for name, seconds in timed.items():
        against = timed[loop] if name in (loop, many, one) else timed[processes[0]]
        rows.append({"what": name} | harness.summary(seconds, against) | {"jobs": number if name in (loop, many) else 1})
    columns = zip(*(timed[name] for name in (many, one, loop)), strict=True)
    overhead = [1e3 * ((all_jobs - first) / (number - 1) - plain / number) for all_jobs, first, plain in columns]
    return [*rows, {"what": "overhead", "jobs": number, "ms_a_job": harness.summary(overhead, overhead)["seconds"]}]


def scheduler(repeats: int, number: int) -> list[dict[str, object]]:
    """Time ready jobs of 0.1 s, one at a time, by Snakemake with its own limit of jobs a second and without (`rate_limit`).

    CPU seconds are those of Snakemake and its jobs, threads those of Snakemake at their most.
    """
    snakefiles = {"Snakemake": SHORT, "without the limit": SHORT + LIFTED}
    spent = {name: [] for name in snakefiles}
    alternatives = {
        name: partial(in_new_folder, lambda folder, name=name: spent[name].append(watched(folder, snakefiles[name], number)))
        for name in snakefiles
    }
    timed = harness.in_turn(alternatives, repeats, CPU, warm_up=False)
    plain = next(iter(snakefiles))
    cpu = {name: [seconds for seconds, _ in found] for name, found in spent.items()}
    rows = []
    for name in snakefiles:
        used = harness.summary(cpu[name], cpu[plain])
        threads = max(threads for _, threads in spent[name])
        row = {"what": name, "jobs": number, "cpu_seconds": used["seconds"], "cpu_ratio": used["ratio"], "peak_threads": threads}
        rows.append(row | harness.summary(timed[name], timed[plain]))
    return rows


def watched(folder: Path, snakefile: str, number: int) -> tuple[float, int]:
    """Run so many jobs of a Snakefile, one at a time; return the CPU seconds and the most threads that Snakemake had.

    Raises:
        FgpError: Snakemake failed.
    """
    (folder / "Snakefile").write_text(snakefile)
    words = ["--cores", "1", "--quiet", "--config", f"number={number}"]
    with open(folder / "printed", "w") as printed:
        command = [sys.executable, "-m", "snakemake", *words]
        process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=printed, stderr=subprocess.STDOUT)
        peak = ended = 0
        while not ended:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, psutil.Process(process.pid).num_threads())
            time.sleep(SAMPLE_SECONDS)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            last = Path(printed.name).read_text().splitlines()[-1:] or ["no message"]
            raise FgpError(f"snakemake: failed (exit status {process.returncode}): {last[0]}")
    return usage.ru_utime + usage.ru_stime, peak


def trivial(number: int, *words: str) -> None:
    """Run so many trivial jobs by Snakemake, one at a time, in a new folder."""

    def run_there(folder: Path) -> None:
        (folder / "Snakefile").write_text(TRIVIAL)
        snakemake(folder, folder / "Snakefile", "--config", f"number={number}", *words)

    in_new_folder(run_there)


def in_new_folder(function: Callable[[Path], object]) -> None:
    """Call a function with an empty folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        function(Path(folder))


def snakemake(folder: Path, snakefile: Path, *words: object) -> str:
    """Run Snakemake in `folder` on one core with our profile; return what it printed."""
    setting = ["--directory", folder, "--workflow-profile", ROOT / "profiles/default", "--cores", 1]
    return call(folder, sys.executable, "-m", "snakemake", "--snakefile", snakefile, *setting, *words)


def call(folder: Path, *command: object, **variables: str) -> str:
    """Run a command in `folder`, with further environment variables, and return its standard output.

    As GPU slots, it sees one of its own.

    Raises:
        FgpError: it failed.
    """
    words = [str(word) for word in command]
    environment = ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": "0", "FGP_GPU_LOCKS": str(folder / "locks")} | variables
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise FgpError(f"{' '.join(words[:4])} ...: failed (exit status {done.returncode}): {last[0]}")
    return done.stdout


def demo(run: Path) -> list[dict[str, object]]:
    """Return the shares of a finished run's core-seconds (wall clock times cores).

    Training is what the curves count (epochs, with what a method does inside them), scoring what the files of `fgp score` say;
    the rest of a job is what it spends before and after. A job counts with the cores it is given. Idle is what no job was given:
    Snakemake itself, and cores without a job to run.

    Raises:
        FgpError: there is no finished run in the folder, or it is not that of one call of Snakemake.
    """
    log = finished_log(run)
    threads = min(threads_of(run), log.cores)
    cores = defaultdict(lambda: 1, dict.fromkeys(WORKING, threads) | {"measure": log.cores})
    seconds, counts = job_seconds(run, log)
    taken = {rule: cores[rule] * value for rule, value in seconds.items()}
    useful = Counter({rule: threads * value for rule, value in training_seconds(run).items()})
    useful["score"] = threads * scoring_seconds(run)
    whole = log.seconds * log.cores

    def row(what: str, value: float, jobs: int | None = None) -> dict[str, object]:
        return {"what": what, "jobs": jobs, "seconds": f"{value:.1f}", "share": f"{value / whole:.4f}"}

    outside = whole - useful.total()
    rows = [row("training", useful.total() - useful["score"]), row("scoring", useful["score"])]
    rows += [row(f"rest of the jobs {rule}", taken.pop(rule) - useful[rule], counts[rule]) for rule in WORKING if rule in taken]
    rows += [row(rule, taken.pop(rule, 0.0), counts[rule]) for rule in ("measure", "data", "budgets")]
    rows.append(row("collection, tables, figures, report", sum(taken.values()), sum(counts[rule] for rule in taken)))
    rows.append(row("idle", whole - sum(cores[rule] * value for rule, value in seconds.items())))
    total = row("outside training and scoring", outside, counts.total()) | {"wall_seconds": log.seconds, "cores": log.cores}
    return [*rows, total | harness.within(outside / whole, OUTSIDE_SHARE)]


def finished_log(run: Path) -> Log:
    """Return Snakemake's log of the call that made a run: of those that ended with all jobs done, the latest with most jobs.

    Raises:
        FgpError: there is none.
    """
    name = f"results/{run.name}/"
    texts = [path.read_text() for path in sorted(run.absolute().parents[1].glob(".snakemake/log/*.log"))]
    finished = [text for text in texts if name in text and "steps (100%) done" in text and "Elapsed time:" in text]
    if not (run / "cells.csv").exists() or not finished:
        raise FgpError(f"{run}: no finished run; `make demo` makes results/demo, --run names another")
    return parse_log(max(reversed(finished), key=lambda text: text.count("Finished jobid:")))


def parse_log(text: str) -> Log:
    """Read a Snakemake log of version 9."""
    now, started, jobs = datetime.min, {}, []
    for line in text.splitlines():
        if time := re.fullmatch(r"\[(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\]", line):
            now = datetime.strptime(time[1], "%a %b %d %H:%M:%S %Y")
        elif start := re.match(r"Job (\d+): |    jobid: (\d+)$", line):
            started[start[1] or start[2]] = now
        elif end := re.fullmatch(r"Finished jobid: (\d+) \(Rule: (.+)\)", line):
            jobs.append((end[2], (now - started.get(end[1], now)).total_seconds()))
    ended = re.search(r"^Elapsed time: (?:(\d+) days?, )?(\d+):(\d+):([\d.]+)", text, re.MULTILINE)
    days, hours, minutes, seconds = (float(part or 0) for part in ended.groups())
    cores = int(re.search(r"^Provided cores: (\d+)", text, re.MULTILINE)[1])
    return Log(((24 * days + hours) * 60 + minutes) * 60 + seconds, cores, tuple(jobs))


def threads_of(run: Path) -> int:
    """Return the threads of a training, which are the same in all jobs of a run and do not stand in its configuration."""
    metrics = next(run.glob(f"*/seed*/{DENSE[0]}/{DENSE[1]}/metrics.json"))
    return read_sealed(metrics)["provenance"]["threads"]


def job_seconds(run: Path, log: Log) -> tuple[Mapping[str, float], Counter[str]]:
    """Return the seconds and the number of the jobs of each rule.

    The seconds are those of `benchmarks/<rule>/*.tsv`, or of the log where a rule has no such file.

    Raises:
        FgpError: the files are not those of the jobs in the log.
    """
    counts, seconds = Counter(), Counter()
    for rule, duration in log.jobs:
        counts[rule] += 1
        seconds[rule] += duration
    for folder in sorted(run.glob("benchmarks/*")):
        measured = [float(row["s"]) for path in folder.glob("*.tsv") for row in csv.DictReader(path.open(), delimiter="\t")]
        if len(measured) != counts[folder.name]:
            found = f"{len(measured)} jobs, Snakemake's log of the run has {counts[folder.name]}"
            raise FgpError(f"{folder}: {found}; it was not made by one call: give --run a run that was")
        seconds[folder.name] = sum(measured)
    return seconds, counts


def training_seconds(run: Path) -> Counter[str]:
    """Return the seconds of all epochs of a run, by the rule of the job."""
    seconds = Counter()
    own = {"gradual_curve.csv": "gradual", "sparse": "sparse_training", DENSE[0]: "train"}
    for path in run.glob("*/seed*/**/*curve.csv"):
        method, selection, name = path.parts[-3:]
        rule = own.get(name) or own.get(selection) or own.get(method) or kind(method).rules[-1]
        seconds[rule] += sum(float(row["seconds"]) for row in csv.DictReader(path.open()))
    return seconds


def scoring_seconds(run: Path) -> float:
    """Return the seconds of all `fgp score` of a run; scores that a training left, without a look at images, are part of it."""
    facts = [load_scores(path)[1] for path in run.glob("*/seed*/*/scores.safetensors")]
    return sum(fact["seconds"] for fact in facts if fact["images"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parts = ("plan", "jobs", "scheduler", "demo")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, metavar="PART", help=f"default: {' '.join(parts)}")
    parser.add_argument("--repeats", type=harness.count, default=3, metavar="N", help="default: 3")
    parser.add_argument("--jobs", type=harness.count, default=50, metavar="N", help="trivial jobs, 2 or more (default: 50)")
    parser.add_argument("--ready", type=harness.count, default=400, metavar="N", help="jobs of the part scheduler (default: 400)")
    parser.add_argument(
        "--run", dest="folder", type=Path, default=ROOT / "results/demo", metavar="FOLDER", help="default: results/demo"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV to write (default: below benchmarks/results/)")


def run(args: argparse.Namespace) -> None:
    """Measure, write the CSV and print it as a Markdown table.

    Raises:
        FgpError: an argument is wrong, a command fails, or there is no finished run.
    """
    if args.jobs < 2:
        raise FgpError("--jobs 1: give 2 at least; what one job takes is taken off")
    measured: dict[str, Sequence[Mapping[str, object]]] = {}
    if "demo" in args.parts:
        measured["demo"] = demo(args.folder)
    if "plan" in args.parts:
        measured["plan"] = plan(args.repeats)
    if "jobs" in args.parts:
        measured["jobs"] = jobs(args.repeats, args.jobs)
    if "scheduler" in args.parts:
        measured["scheduler"] = scheduler(args.repeats, args.ready)
    origin = harness.origin(CPU)
    rows = [{"part": part} | row | {"repeats": args.repeats} | origin for part, found in measured.items() for row in found]
    out = args.out or harness.results_file("workflow", CPU)
    harness.write(out, rows)
    print(harness.table(rows, PRINTED))
    harness.report(f"-> {out}")
