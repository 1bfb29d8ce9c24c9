"""What stands in the place of a file that a stage wrote: itself with a bit flipped, parts of two, an edited one, another one."""

import contextlib
import hashlib
import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fgp_workflow.inputs import read_experiment
from safetensors.torch import save_file

import fgp
from fgp import data, files, provenance, tensorfiles
from fgp.checkpoint import read_metadata
from fgp.cli import main
from fgp.metrics import read_metrics
from fgp.plans import load_plan
from fgp.scoring.files import load_scores, save_scores

ROOT = Path(__file__).parents[1]
NETWORK = "--weights {0}/weights --data {0}/data"
RECIPE = "--epochs 1 --batch-size 25 --lr 0.05 --device cpu"
COMMANDS = (
    "data --source digits --size 32 --train-limit 30 --test-limit 20 --seed {1} --out {0}/data",
    "train --network vgg16 --width 0.016 --data {0}/data --seed {1} --out {0}/weights --curve {0}/curve --metrics {0}/metrics "
    + RECIPE,
    f"score --method l1 --seed 0 --out {{0}}/scores {NETWORK}",
    f"plan --selection macs-0.5 --scores {{0}}/scores --out {{0}}/plan {NETWORK}",
    f"prune --plan {{0}}/plan --out {{0}}/pruned {NETWORK}",
    f"evaluate --device cpu --out {{0}}/value {NETWORK}",
    f"measure --batch-sizes 1 --seconds 0.01 --device cpu --out {{0}}/latency {NETWORK}",
)
READERS = {
    "data": data.load,
    "weights": fgp.load,
    "scores": load_scores,
    "plan": load_plan,
    "metrics": read_metrics,
    "value": files.read_sealed,
    "latency": files.read_sealed,
}
TENSORS = ("data", "weights", "scores")
HEADERS = {"data": data.read_header, "weights": read_metadata}


def make(folder, seed=0):
    for words in COMMANDS:
        assert main(shlex.split(words.format(folder, seed))) == 0
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One file of every kind, named by its kind."""
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same of another seed: the same shapes, other values."""
    return make(tmp_path_factory.mktemp("other"), 1)


def refusal(read, path):
    """What a reader says of a file that it must refuse."""
    with pytest.raises(fgp.FgpError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert not any(word in message for word in ("delete", "remove", "overwrite"))
    return message


def header_length(content):
    return 8 + int.from_bytes(content[:8], "little")


def flipped(content, seed, length):
    """Yield the content with one bit flipped in the first bytes, at 50 places."""
    chance = random.Random(seed)
    for position in chance.sample(range(length), 50):
        changed = bytearray(content)
        changed[position] ^= 1 << chance.randrange(8)
        yield changed


def said(kind, path):
    """All that a file says; the digest of its tensors among it."""
    return tensorfiles.header(path) if kind in TENSORS else files.read_sealed(path)


@pytest.mark.parametrize("part", ["header", "whole"])
@pytest.mark.parametrize("kind", READERS)
def test_a_flipped_bit_is_refused(made, tmp_path, kind, part):
    """Only a flip in the 17th digit of a number may pass, where it leaves the number as it was."""
    content, path, passed = (made / kind).read_bytes(), tmp_path / "flipped", 0
    length = header_length(content) if part == "header" and kind in TENSORS else len(content)
    for changed in flipped(content, f"{kind} {part}", length):
        path.write_bytes(changed)
        if outcome(READERS[kind], path) is None:
            refusal(READERS[kind], path)
        else:
            assert said(kind, path) == said(kind, made / kind)
            passed += 1
    assert passed <= 1


def outcome(read, path):
    """What a reader returns, None where it refuses."""
    with contextlib.suppress(fgp.FgpError):
        return read(path)


@pytest.mark.parametrize("kind", HEADERS)
def test_who_reads_the_header_alone_gets_what_was_written_or_nothing(made, tmp_path, kind):
    """A flip in the name of a tensor leaves the metadata as they were; who reads the tensors refuses it."""
    content, path = (made / kind).read_bytes(), tmp_path / "flipped"
    for changed in flipped(content, kind, header_length(content)):
        path.write_bytes(changed)
        for read in (HEADERS[kind], provenance.read):
            assert outcome(read, path) in (None, read(made / kind))


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_another_file_under_the_header_are_refused(made, other, tmp_path, kind):
    one, two = ((folder / kind).read_bytes() for folder in (made, other))
    path = tmp_path / "mixed"
    path.write_bytes(one[: header_length(one)] + two[header_length(two) :])
    assert "its tensors do not match the checksum in its header" in refusal(READERS[kind], path)


def test_tensors_under_each_others_names_are_refused(tmp_path):
    path = tmp_path / "scores"
    save_scores(path, {"a": torch.ones(2), "b": torch.zeros(2)})
    content = path.read_bytes()
    assert content.count(b'"a":{') == content.count(b'"b":{') == 1
    path.write_bytes(content.replace(b'"a":{', b'"x":{').replace(b'"b":{', b'"a":{').replace(b'"x":{', b'"b":{'))
    assert "its tensors do not match" in refusal(load_scores, path)


@pytest.mark.parametrize(
    ("kind", "keys", "value"),
    [
        ("metrics", ["after"], 99.0),
        ("metrics", ["provenance", "commit"], "0" * 40),
        ("plan", ["macs"], 1),
        ("value", ["value"], 99.0),
        ("latency", ["threads"], 99),
    ],
)
def test_an_edited_value_is_refused_and_another_layout_is_not(made, tmp_path, kind, keys, value):
    content, path = json.loads((made / kind).read_text()), tmp_path / "edited"
    path.write_text(json.dumps(dict(reversed(content.items()))))
    assert READERS[kind](path) == READERS[kind](made / kind)
    *above, last = keys
    entry = content
    for key in above:
        entry = entry[key]
    entry[last] = value
    path.write_text(json.dumps(content, indent=1))
    for read in (READERS[kind], provenance.read):
        assert "does not match its own checksum: it was edited or damaged" in refusal(read, path)


def test_the_digest_is_what_the_documentation_says(tmp_path):
    tensors = {"b": torch.tensor([[1, 2]], dtype=torch.uint8), "a": torch.tensor(1.0)}
    tensorfiles.write(tmp_path / "x", tensors, {})
    one = hashlib.sha256(b'["a", "float32", []]' + b"\0\0\x80\x3f").digest()
    two = hashlib.sha256(b'["b", "uint8", [1, 2]]' + b"\1\2").digest()
    assert tensorfiles.metadata(tmp_path / "x") == {"digest": hashlib.sha256(one + two).hexdigest()}


def test_the_seal_is_what_the_documentation_says():
    sealed = files.seal({"b": [1, "é"], "a": {2: None, 10: 0.5}})
    text = r'{"a":{"10":0.5,"2":null},"b":[1,"\u00e9"]}'
    assert sealed["seal"] == hashlib.sha256(text.encode()).hexdigest()[:16]
    with pytest.raises(fgp.FgpError, match="entry seal: holds the checksum"):
        files.seal(sealed)


def test_a_tag_named_like_the_seal_is_refused_before_the_training(made, capsys):
    words = f"train --network vgg16 --data {made}/data --seed 0 --out {made}/x --lr 1 --epochs 1 --tag seal=1"
    assert main(shlex.split(words)) == 1
    assert "--tag seal" in capsys.readouterr().err


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_modes_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        make(tmp_path / "made")
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()}
    assert found == dict.fromkeys([*READERS, "curve", "pruned"], 0o666 & ~umask)


DENIED = """
import os, pathlib, sys
sys.path[:0] = sys.argv[2:]
import fgp
from test_files_damaged import HEADERS, READERS, provenance, read_experiment
os.chdir(sys.argv[1])
os.chmod(".", 0o755)
readers = [*READERS.items(), *HEADERS.items(), *((kind, provenance.read) for kind in READERS), ("config", read_experiment)]
for kind, read in readers:
    read(kind)
for path in pathlib.Path().iterdir():
    path.chmod(0)
if os.getuid() == 0:
    os.setuid(65534)
for kind, read in readers:
    try:
        read(kind)
    except fgp.FgpError as error:
        print(error)
"""


def test_permission_denied_is_said(made, tmp_path):
    for kind in READERS:
        (tmp_path / kind).write_bytes((made / kind).read_bytes())
    (tmp_path / "config").write_bytes((ROOT / "config/demo.yaml").read_bytes())
    words = [sys.executable, "-c", DENIED, tmp_path, Path(__file__).parent, ROOT, ROOT / "workflow"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds = [*READERS, *HEADERS, *READERS, "config"]
    advice = "cannot be read (Permission denied); change its permissions, or name another file"
    assert done.stdout.splitlines() == [f"{kind}: {advice}" for kind in kinds]


FOREIGN = {
    "README.md": (ROOT / "README.md").read_bytes(),
    "empty": b"",
    "package.json": b'{"name": "x", "version": "1.0"}',
    "list.json": b"[1, 2]",
    "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
}
NAMES = {"data": "a data file", "weights": "a weights file", "scores": "a scores file", "plan": "a plan file"}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("kind", [*READERS, "provenance", "config"])
def test_a_file_that_fgp_did_not_write_is_named_and_left_alone(tmp_path, kind, name):
    path = tmp_path / name
    path.write_bytes(FOREIGN[name])
    message = refusal({**READERS, "provenance": provenance.read, "config": read_experiment}[kind], path)
    assert kind == "config" or f"not {NAMES.get(kind, 'a ')}" in message
    assert "make it again" not in message
    assert path.read_bytes() == FOREIGN[name]


@pytest.mark.parametrize("kind", NAMES)
def test_a_file_of_another_kind_is_refused(made, kind):
    for given in {*READERS} - {kind}:
        assert f"not {NAMES[kind]}" in refusal(READERS[kind], made / given).replace("a plan of this version", "a plan file")


@pytest.mark.parametrize("kind", TENSORS)
def test_a_file_of_an_older_version_is_refused_with_the_reason(made, tmp_path, kind):
    tensors, about = tensorfiles.read(made / kind)
    about.pop("digest")
    save_file(tensors, tmp_path / "old", {"fgp": json.dumps(about)})
    assert "written by an older version of fgp" in refusal(READERS[kind], tmp_path / "old")


def test_a_plan_of_an_older_version_is_refused_with_the_reason(made, tmp_path):
    content = json.loads((made / "plan").read_text())
    content.pop("seal")
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert "written by an older version of fgp or by hand" in refusal(load_plan, tmp_path / "plan.json")
