"""The literal command line of the users, and what `--logger fgp` shows; on a toy workflow with the installed Snakemake."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser
from snakemake_logger_plugin_fgp.command_line import LIST_OPTIONS, PAIR_OPTIONS, TARGETS, is_snakemake, separate_targets

SNAKEFILE_OF_THE_PROJECT = Path(__file__).parents[1] / "Snakefile"
SNAKEFILE = """
rule all_tables:
    input:
        expand("out/{task}/seed{seed}.txt", task=["digits-vgg16"], seed=range(2)),

rule train:
    output: "out/{task}/seed{seed}.txt"
    log: "logs/{task}-{seed}.log"
    resources: gpu=1
    shell: "echo {wildcards.seed} > {output} 2> {log}"

rule table:
    input: "out/digits-vgg16/seed0.txt"
    output: report("table/a=b.txt", category="Tables")
    shell: "cp {input} {output}"

rule broken:
    input: "out/digits-vgg16/seed0.txt"
    output: "broken{n}.txt"
    log: "logs/broken{n}.log"
    message: "measure network {wildcards.n}"
    shell: "seq 101 130 > {log}; exit 3"

rule mixed:
    input: "broken1.txt", "table/a=b.txt",
"""

UNTOUCHED = [
    "",
    "--cores 8",
    "all_tables --cores 8 --resources gpu=1",
    "--cores 8 --resources=gpu=1 all_tables",
    "--cores 8 --resources gpu=1 mem_mb=1000",
    "--resources gpu=1 --cores 8 all_tables",
    "--resources gpu=1 --cores 8 all_tables all_figures -n",
    "--resources gpu=1 -- all_tables",
    "--cores 8 all_tables",
    "--set-resources train:mem_mb=3 --cores 1 out/x=1.txt",
    "all_tables --configfile config/demo.yaml",
    "--configfile a.yaml b.yaml",
    "--configfile=a.yaml all_tables",
    "--forcerun train out/x.txt",
    "--quiet",
    "--quiet all",
    "--quiet rules progress",
    "--mode subprocess --resources gpu=1 all_tables",
    "--mode remote --configfile a.yaml all_tables",
]
MOVED = [
    ("--cores 8 --resources gpu=1 all_tables", "all_tables --cores 8 --resources gpu=1"),
    ("--resources gpu=1 mem_mb=1000 all_tables", "all_tables --resources gpu=1 mem_mb=1000"),
    ("--res gpu=1 all_tables all_figures", "all_tables all_figures --res gpu=1"),
    ("-n --resources gpu=1 all_tables", "all_tables -n --resources gpu=1"),
    ("--resources gpu=1 all_tables --dry-run", "all_tables --resources gpu=1 --dry-run"),
    ("--resources gpu=1 all_tables --cores 8", "all_tables --resources gpu=1 --cores 8"),
    ("all_figures --resources gpu=1 all_tables", "all_tables all_figures --resources gpu=1"),
    ("--set-threads train=2 all_tables -n", "all_tables --set-threads train=2 -n"),
    ("--set-resources train:mem_mb=3 all_tables", "all_tables --set-resources train:mem_mb=3"),
    ("--default-resources mem_mb=3 all_tables", "all_tables --default-resources mem_mb=3"),
    ("--default-resources all_tables", "all_tables --default-resources"),
    ("--config seeds=[0] all_tables", "all_tables --config seeds=[0]"),
    ("-C seeds=[0] all_tables", "all_tables -C seeds=[0]"),
    ("--config seeds=[0] --resources gpu=1 all_tables", "all_tables --config seeds=[0] --resources gpu=1"),
    ("--resources gpu=1 out/seed=0/x.txt", "out/seed=0/x.txt --resources gpu=1"),
    ("--resources gpu=1 all_tables b=c.txt", "all_tables b=c.txt --resources gpu=1"),
    ("--resources gpu=1 all_tables -- out.txt", "--resources gpu=1 -- all_tables out.txt"),
    ("--configfile a.yaml all_tables", "all_tables --configfile a.yaml"),
    (
        "--cores 8 --configfile a.yaml b.yaml all_tables all_figures",
        "all_tables all_figures --cores 8 --configfile a.yaml b.yaml",
    ),
    ("--configfiles a.yaml all_tables -n", "all_tables --configfiles a.yaml -n"),
    ("--forcerun train all_tables", "all_tables --forcerun train"),
    ("-R train all_tables", "all_tables -R train"),
    ("--until train all_tables", "all_tables --until train"),
    ("--omit-from train all_tables", "all_tables --omit-from train"),
    ("--allowed-rules train all_tables", "all_tables --allowed-rules train"),
    ("--rerun-triggers mtime all_tables", "all_tables --rerun-triggers mtime"),
    ("--logger fgp all_tables", "all_tables --logger fgp"),
    ("--quiet all_tables", "all_tables --quiet"),
    ("-q rules all_tables", "all_tables -q rules"),
    ("--quiet all all_tables", "all_tables --quiet all"),
    ("--resources gpu=1 --configfile a.yaml all_tables", "all_tables --resources gpu=1 --configfile a.yaml"),
]
ADVISED = {
    "--until all_tables": "all_tables is taken as a value of --until; to make it, put it first: snakemake all_tables",
    "--forcerun all_figures --cores 1": "all_figures is taken as a value of --forcerun;",
    "--configfile all_tables": "all_tables is taken as a value of --configfile;",
    "--quiet rules all": "all is taken as a value of --quiet;",
}


def _words(cases):
    return [tuple(line.split() for line in case) for case in cases]


@pytest.mark.parametrize("words", [line.split() for line in UNTOUCHED], ids=UNTOUCHED)
def test_orders_that_work_stay_untouched(words):
    assert separate_targets(words) == (words, [])


@pytest.mark.parametrize(("typed", "expected"), _words(MOVED), ids=[typed for typed, _ in MOVED])
def test_targets_leave_the_option_that_would_take_them(typed, expected):
    assert separate_targets(typed) == (expected, [])
    assert separate_targets(expected) == (expected, [])


@pytest.mark.parametrize(("line", "advice"), ADVISED.items(), ids=list(ADVISED))
def test_a_targets_name_that_may_be_a_value_stays_with_advice(line, advice):
    words, lines = separate_targets(line.split())
    assert words == line.split()
    assert len(lines) == 1
    assert lines[0].startswith(f"snakemake: {advice}")


def test_a_file_with_a_targets_name_is_a_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").touch()
    words = ["--configfile", "a.yaml", "report", "all_tables"]
    moved, advice = separate_targets(words)
    assert moved == ["all_tables", "--configfile", "a.yaml", "report"]
    assert len(advice) == 1
    (tmp_path / "report").unlink()
    assert separate_targets(words) == (["report", "all_tables", "--configfile", "a.yaml"], [])


def test_every_option_that_takes_a_list_is_known(parser):
    takes_list = {name for action in parser._actions if action.nargs in ("*", "+") for name in action.option_strings}
    assert takes_list == PAIR_OPTIONS | LIST_OPTIONS
    choices = {word for action in parser._actions if action.nargs in ("*", "+") for word in action.choices or ()}
    assert choices & TARGETS == {"all"}
    assert [action.dest for action in parser._actions if action.nargs in ("*", "+") and "all" in (action.choices or ())] == [
        "quiet"
    ]


def test_the_targets_are_those_of_the_snakefile():
    text = SNAKEFILE_OF_THE_PROJECT.read_text()
    files = [SNAKEFILE_OF_THE_PROJECT, *(SNAKEFILE_OF_THE_PROJECT.parent / "workflow/rules").glob("*.smk")]
    targets, rules = (
        {name for file in found for name in re.findall(r"^rule (\w+):", file.read_text(), re.MULTILINE)}
        for found in (files[:1], files)
    )
    assert targets <= TARGETS <= rules
    assert set(re.findall(r"\w+", re.search(r"Targets: (.*) after a failure", text)[1])) == TARGETS


@pytest.fixture(scope="module")
def parser():
    return get_argument_parser()


@pytest.mark.parametrize(("typed", "expected"), _words(MOVED), ids=[typed for typed, _ in MOVED])
def test_snakemakes_own_parser_reads_what_was_meant(parser, typed, expected):
    options = [word for word in typed if word.startswith("-") and word != "--"]
    words, _ = separate_targets(typed)
    args = parser.parse_args(words)
    targets = {word for word in typed if word.startswith(("all_", "out", "b="))}
    assert set(args.targets) == targets
    assert args.dryrun == bool({"-n", "--dry-run"} & set(options))
    assert args.cores == (8 if "--cores" in options else None)


@pytest.mark.parametrize("program", ["snakemake", "/opt/env/bin/snakemake", "snakemake.exe", "/lib/snakemake/__main__.py"])
def test_runs_in_snakemake(program):
    assert is_snakemake(program)


@pytest.mark.parametrize(
    "program", ["", "-c", "pytest", "/opt/pytest/__main__.py", "snakemake-wrapper", "snakemake/cli.py", "fgp"]
)
def test_runs_nowhere_else(program):
    assert not is_snakemake(program)


def test_other_programs_keep_their_arguments():
    code = "import sys, snakemake_logger_plugin_fgp; print(sys.argv[1:])"
    words = ["--resources", "gpu=1", "all_tables"]
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(words)


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    profile = tmp_path / "profiles/default"
    profile.mkdir(parents=True)
    (profile / "config.yaml").write_text("logger: fgp\nkeep-going: true\n")
    return tmp_path


def _snakemake(folder, line, program=(str(Path(sys.executable).parent / "snakemake"),)):
    return subprocess.run([*program, *line.split()], cwd=folder, capture_output=True, text=True, timeout=120)


def test_snakemake_finds_the_plugin(tmp_path):
    code = "import pkgutil; print([module.name for module in pkgutil.iter_modules()])"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "'snakemake_logger_plugin_fgp'" in result.stdout, (
        "installed, but not listed by pkgutil.iter_modules: an editable install must put the package's parent folder on sys.path"
    )


def test_the_literal_command(toy):
    result = _snakemake(toy, "--cores 8 --resources gpu=1 all_tables")
    assert result.returncode == 0, result.stderr
    assert (toy / "out/digits-vgg16/seed1.txt").read_text() == "1\n"
    lines = result.stderr.splitlines()
    assert "3 jobs: 1 all_tables, 2 train" in lines or "3 jobs: 2 train, 1 all_tables" in lines
    finished = [line for line in lines if line.startswith("[")]
    assert [re.match(r"\[(\d/3)\]", line)[1] for line in finished] == ["1/3", "2/3", "3/3"]
    assert sum(bool(re.search(r" train digits-vgg16 seed[01] \d+\.\d s$", line)) for line in finished) == 2
    assert re.match(r"3 jobs done in \d+\.\d s$", lines[-1])
    assert len(lines) <= 7
    assert not result.stdout
    assert "\033" not in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "-n --resources gpu=1 all_tables",
        "--resources gpu=1 mem_mb=1000 all_tables --dry-run",
        "-n --set-resources train:mem_mb=5 all_tables",
        "-n --default-resources mem_mb=5 all_tables",
    ],
)
def test_dry_runs(toy, line):
    result = _snakemake(toy, line)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("3 jobs\n")
    assert "    2  train       missing output\n" in result.stdout
    assert "This was a dry-run" in result.stdout
    assert result.stdout.count("\n") == 4
    assert not (toy / "out").exists()


def test_as_a_module_without_the_logger(toy):
    result = _snakemake(toy, "-n --workflow-profile none --resources gpu=1 all_tables", (sys.executable, "-m", "snakemake"))
    assert result.returncode == 0, result.stderr
    assert "Job stats:" in result.stdout


def test_a_failing_job_is_shown_in_full(toy):
    result = _snakemake(toy, "--cores 2 --resources gpu=1 mixed")
    assert result.returncode == 1
    assert (toy / "table/a=b.txt").exists()
    shown = result.stderr
    block = "\n".join(
        [
            r"Error in measure network 1 \(rule broken, job \d+\)",
            "    input: out/digits-vgg16/seed0.txt",
            "    output: broken1.txt",
            "    log: logs/broken1.log, last 20 lines:",
            *(f"        . {number}" for number in range(111, 131)),
            "    shell:",
            "        seq 101 130 > logs/broken1.log; exit 3\n",
        ]
    )
    assert re.search(block, shown), shown
    assert "| 110" not in shown
    assert "[2/4] table" in shown
    assert re.search(
        r"^2 of 4 jobs done in .* s, 1 failed\n    failed: measure network 1 \(log: logs/broken1.log\)$", shown, re.M
    )


def test_quiet(toy):
    result = _snakemake(toy, "--cores 2 mixed --quiet")
    assert "Error in measure network 1" in result.stderr
    assert re.search(r"\n1 job failed in .* s\n    failed: measure network 1 \(log: logs/broken1.log\)\n$", result.stderr)
    assert "[1/4]" not in result.stderr
    assert "4 jobs" not in result.stderr
    (toy / "out/digits-vgg16/seed0.txt").unlink()
    result = _snakemake(toy, "--cores 2 mixed --workflow-profile none --logger fgp --quiet all")
    assert (result.returncode, result.stderr, result.stdout) == (1, "", "")


def test_report(toy):
    assert _snakemake(toy, "--cores 2 --resources gpu=1 ./table/a=b.txt").returncode == 0
    result = _snakemake(toy, "--report report.html --resources gpu=1 ./table/a=b.txt")
    assert result.returncode == 0, result.stderr
    assert "Report created" in result.stderr
    assert "Tables" in (toy / "report.html").read_text()


def test_status_line_on_a_terminal(toy):
    outer, inner = pty.openpty()
    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "1", "--resources", "gpu=1", "all_tables"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60"}
    with subprocess.Popen(command, cwd=toy, stdout=inner, stderr=inner, env=environment) as process:
        os.close(inner)
        shown = b""
        while chunk := _read(outer):
            shown += chunk
    os.close(outer)
    assert process.returncode == 0
    statuses = re.findall(r"\r\033\[K([^\r\n]+)\r(?!\n)", shown.decode())
    assert any(re.match(r"0/3 done, .*: train digits-vgg16 seed[01]$", status) for status in statuses), shown.decode()
    assert any(re.match(r"1/3 done, \d+\.\d s, about \d+\.\d s left", status) for status in statuses)
    assert max(map(len, statuses)) < 60
    assert re.search(r"3 jobs done in \d+\.\d s\r\n$", shown.decode())


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
