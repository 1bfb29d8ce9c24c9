import subprocess
import sys

import pytest

from fgp import cli


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_help_of_every_subcommand(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert "usage: fgp " + name in capsys.readouterr().out


def test_module_and_help_load_no_torch():
    code = "import sys, fgp.cli\ntry: fgp.cli.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    assert subprocess.run([sys.executable, "-m", "fgp", "--help"], capture_output=True, check=False).returncode == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["data", "--source", "digits", "--out", str(tmp_path / "file" / "out.safetensors")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize("words", ["prune --weights x --plan x --data x --out x", "data --source digits --out x"])
def test_only_trainings_run_in_several_processes(words, monkeypatch, capsys):
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert cli.main(words.split()) == 1
    name = words.split()[0]
    assert capsys.readouterr().err.startswith(f"fgp: error: torchrun: `fgp {name}` runs in one process, only train and finetune")


@pytest.mark.parametrize(
    ("words", "named"), [([], "SUBCOMMAND"), (["then"], "SUBCOMMAND"), (["rerun", "a.json", "then", "rerun", "a.json"], "then")]
)
def test_a_process_runs_one_subcommand(words, named, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert named in capsys.readouterr().err
