"""What a dry run shows with `--logger fgp`: a table of rules on one screen."""

import re
import subprocess
import sys

import pytest
from snakemake.jobs import Reason
from snakemake.persistence import ParamsChange
from snakemake_logger_plugin_fgp.plan import Plan

LINES, COLUMNS = 40, 120
RULES, JOBS = 20, 30
SNAKEFILE = f"""
RULES = [f"stage_number_{{number}}" for number in range({RULES})]

rule all_tables:
    input: expand("results/{{rule}}/a-folder-with-a-long-name/{{cell}}.txt", rule=RULES, cell=range({JOBS}))
"""
STAGE = """
rule stage_number_{number}:
    input: {before}
    output: "results/stage_number_{number}/a-folder-with-a-long-name/{{cell}}.txt"
    params: lambda wildcards: config.get("option", 0) if int(wildcards.cell) < 10 else 0
    message: "make {{wildcards.cell}} of {number}"
    shell: "touch {{output}}"
"""


@pytest.fixture
def toy(tmp_path):
    text = SNAKEFILE
    for number in range(RULES):
        folder = f"results/stage_number_{number - 1}/a-folder-with-a-long-name"
        before = [f"{folder}/{cell}.txt" for cell in range(JOBS)] if number else []
        text += STAGE.format(number=number, before=", ".join(map(repr, before)))
    (tmp_path / "Snakefile").write_text(text)
    return tmp_path


def snakemake(folder, *words):
    command = [sys.executable, "-m", "snakemake", "--logger", "fgp", "--cores", "1", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plan_of_twenty_rules_is_one_screen(toy):
    shown = snakemake(toy, "-n", "all_tables").splitlines()
    assert shown[0] == f"{RULES * JOBS + 1} jobs"
    assert f"    {JOBS}  stage_number_0   missing output" in shown
    assert "     1  all_tables       inputs are made first" in shown
    assert "This was a dry-run" in shown[-1]
    assert len(shown) == RULES + 3 <= LINES
    assert max(map(len, shown)) <= COLUMNS


def test_jobs_are_counted_by_reason(toy):
    one = "results/stage_number_0/a-folder-with-a-long-name/{}.txt".format
    snakemake(toy, *map(one, range(12)), "--quiet")
    (toy / one(11)).unlink()
    targets = list(map(one, range(12)))
    shown = snakemake(toy, "-n", "--config", "option=1", "--", *targets).splitlines()
    assert shown[0] == "11 jobs"
    assert shown[1] == "    11  stage_number_0  params changed: 10, missing output: 1"
    assert len(shown) == 3
    shown = snakemake(toy, "-n", "--quiet", "reason", "--config", "option=1", "--", *targets).splitlines()
    assert shown[1] == "    11  stage_number_0"


def test_single_jobs_with_their_commands(toy):
    shown = snakemake(toy, "-n", "-p", "results/stage_number_1/a-folder-with-a-long-name/7.txt").splitlines()
    assert sum(bool(re.match(r"make \d+ of 0  \(Missing output files: ", line)) for line in shown) == JOBS
    place = next(place for place, line in enumerate(shown) if line.startswith("make 7 of 1  (Missing output files: "))
    assert shown[place + 1] == "    touch results/stage_number_1/a-folder-with-a-long-name/7.txt"
    assert len(shown[place]) < 350
    assert f"    {JOBS}  stage_number_0  missing output" in shown


def changed(**values):
    reason = Reason()
    for name, value in values.items():
        setattr(reason, name, value)
    return str(reason)


def test_every_reason_of_snakemake_has_a_short_form():
    plan = Plan()
    reasons = {
        "forced": changed(forced=True),
        "missing output": changed(_missing_output={"a"}),
        "incomplete output": changed(_incomplete_output={"a"}),
        "newer inputs": changed(_updated_input={"a"}),
        "inputs are made first": changed(_updated_input_run={"a"}),
        "other inputs": changed(input_changed=True),
        "params changed": changed(params_changed=ParamsChange({"Missing output files"}, {"b"})),
        "code changed": changed(code_changed=True),
        "environment changed": changed(software_stack_changed=True),
        "always runs": changed(nooutput=True),
        "other reasons": changed(service=True),
    }
    for short, reason in reasons.items():
        plan.add(short, reason)
    lines = list(plan.table(dict.fromkeys(reasons, 1), with_reasons=True))
    assert [line.split("  ")[-1].strip() for line in lines] == list(reasons)


def test_inputs_that_are_made_first_do_not_hide_what_else_is_the_matter():
    plan = Plan()
    plan.add("train", changed(_updated_input_run={"a"}, code_changed=True, input_changed=True))
    plan.add("train", changed(_updated_input_run={"a"}))
    (line,) = plan.table({"train": 2}, with_reasons=True)
    assert set(line.split("  ")[-1].split(", ")) == {"code changed: 1", "other inputs: 1", "inputs are made first: 1"}
