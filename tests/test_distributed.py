"""Two processes, started by torchrun, train as one does. This file is also what those processes run."""

import csv
import re
import subprocess
import sys
import types
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from segmentation_training import Tiny, dataset
from test_train_loop import classification, small_cnn
from torch import nn

import fgp
from fgp import metrics
from fgp.cli import main
from fgp.errors import FgpError
from fgp.evaluate import evaluate
from fgp.train import Recipe, distributed, fit
from fgp.train.distributed import Group
from fgp.train.engine import Engine
from fgp.train.hooks import Hook, Penalty
from fgp.train.resume import Checkpoint

ROOT = Path(__file__).parents[1]


class Residual(nn.Module):
    """Convolutions with batch normalisation, a residual sum, dropout of both kinds; computes in float64."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, momentum=0.3), nn.Dropout(0.1))
        self.head = nn.Sequential(nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 4))

    def forward(self, x):
        x = self.stem(x.to(self.head[-1].weight.dtype))
        return self.head(torch.relu(self.block(x) + x))


class Segmenting(Tiny):
    """With an auxiliary head behind dropout; computes in float64."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Sequential(nn.Dropout2d(0.3), self.auxiliary)

    def forward(self, x):
        return super().forward(x.to(self.auxiliary[-1].weight.dtype))


def scenes():
    """Seven images; one is void altogether, one nearly."""
    scenes = dataset(count=7)
    scenes.train.labels[2] = 255
    scenes.train.labels[4, 1:] = 255
    return scenes


def slimming():
    return Penalty(lambda model: 1e-3 * sum(m.weight.abs().sum() for m in model.modules() if isinstance(m, nn.BatchNorm2d)))


CLASSES = Recipe(
    epochs=3, batch_size=8, lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True, schedule="cosine", crop_padding=1, flip=True
)
SCENES = Recipe(epochs=3, batch_size=3, lr=0.1, momentum=0.9, weight_decay=1e-3, schedule="poly", scale_range=(0.75, 1.5))
WEIGHTED = SCENES.model_copy(update={"class_weights": "median_frequency", "aux_weight": 0.4})
DOUBLE, SINGLE = torch.float64, torch.float32
CASES = {
    "classes": (lambda: classification(count=23), Residual, DOUBLE, CLASSES, None),
    "penalty": (lambda: classification(count=23), Residual, DOUBLE, CLASSES, slimming),
    "scenes": (scenes, Segmenting, DOUBLE, SCENES, None),
    "weighted scenes": (scenes, Segmenting, SINGLE, WEIGHTED, None),
}


def trained(case, hook=None, **options):
    """Train a case and return all that came of it."""
    make, network, dtype, recipe, regulariser = CASES[case]
    images = make()
    torch.manual_seed(3)
    model = network().to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        before = torch.get_rng_state()
        hook = hook or (regulariser and regulariser())
        history = fit(model, images.train, images, recipe, 5, "cpu", hook=hook, label=case, **options)
        assert torch.equal(torch.get_rng_state(), before)
    types = [type(module) for module in model.modules()]
    assert types == [type(module) for module in network().modules()]
    score = evaluate(model, images.test, images, "cpu", 4)
    return {"weights": model.state_dict(), "history": asdict(history), "score": score}


class Stopping(Hook):
    """Stops in an epoch: every process at once, or one by an error."""

    replayable = True

    def __init__(self, epoch, error):
        self._epoch, self._error = epoch, error

    def after_epoch(self, epoch):
        if epoch == self._epoch and self._error is not None:
            raise self._error


def resumed(case, folder):
    checkpoint = Checkpoint(folder / "model", "key", seconds=0)
    with pytest.raises(KeyboardInterrupt):
        trained(case, Stopping(3, KeyboardInterrupt()), checkpoint=checkpoint)
    return trained(case, checkpoint=checkpoint)


def refused():
    """What several processes cannot do; returns the messages."""
    images = classification(count=17)
    tries = {
        "hook": {"hook": Hook()},
        "compile": {"engine": Engine(compile=True)},
        "small": {"recipe": Recipe(epochs=1, batch_size=1, lr=0.1)},
    }
    messages = {}
    for name, options in tries.items():
        recipe = options.pop("recipe", CLASSES)
        with pytest.raises(FgpError) as error:
            fit(small_cnn(), images.train, images, recipe, 0, "cpu", **options)
        messages[name] = str(error.value)
    return messages


def work(mode, folder):
    """Run in each of the processes."""
    group = distributed.join("cpu")
    if mode == "failure":
        trained("classes", Stopping(2, FgpError("the second process fails") if group.rank else None))
    found = {case: trained(case) for case in CASES}
    found["bf16"] = trained("weighted scenes", engine=Engine(precision="bf16"))
    found |= {"resumed": resumed("scenes", folder), "refused": refused()}
    torch.save(found, folder / f"{group.rank}.pt")
    group.leave()


def torchrun(*words):
    """Start two processes; return the exit status and what they printed."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    started = subprocess.Popen(
        [*launcher, *map(str, words)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        printed, _ = started.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        started.terminate()
        printed, _ = started.communicate()
        pytest.fail(f"still running after 120 s:\n{printed}")
    return types.SimpleNamespace(status=started.returncode, printed=printed)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What the library gave in each of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("shared")
    run = torchrun(__file__, "train", folder)
    assert run.status == 0, run.printed
    assert sorted(path.name for path in folder.iterdir()) == ["0.pt", "1.pt", "model.checkpoint", "model.checkpoint.previous"]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)], run.printed


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, shared):
    one, two = trained(case), shared[0][0][case]
    close = {"rtol": 1e-9, "atol": 1e-11} if CASES[case][2] == DOUBLE else {"rtol": 1e-4, "atol": 1e-5}
    assert list(one["weights"]) == list(two["weights"])
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, msg=lambda text, name=name: f"{name}: {text}", **close)
    assert two["history"]["rates"] == one["history"]["rates"]
    assert two["history"]["losses"] == pytest.approx(one["history"]["losses"], rel=close["rtol"])
    assert two["history"]["scores"] == pytest.approx(one["history"]["scores"])
    assert two["history"]["engine"] == {**one["history"]["engine"], "processes": 2}
    assert two["score"] == one["score"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_both_processes_have_the_same_network(case, shared):
    first, second = (found[case] for found in shared[0])
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert first["score"] == second["score"]


@pytest.mark.slow
def test_two_processes_take_bf16(shared):
    one, two = trained("weighted scenes", engine=Engine(precision="bf16")), shared[0][0]["bf16"]
    assert two["history"]["losses"] == pytest.approx(one["history"]["losses"], rel=0.01)
    assert two["history"]["losses"] != shared[0][0]["weighted scenes"]["history"]["losses"]


@pytest.mark.slow
def test_an_interrupted_training_goes_on(shared):
    for found in shared[0]:
        straight, gone_on = found["scenes"], found["resumed"]
        assert all(torch.equal(value, gone_on["weights"][name]) for name, value in straight["weights"].items())
        assert gone_on["history"]["losses"] == straight["history"]["losses"]
    assert len(re.findall("scenes goes on after epoch 2", shared[1])) == 1


@pytest.mark.slow
def test_only_the_first_process_reports(shared):
    assert len(re.findall("penalty epoch 3/3 loss", shared[1])) == 1


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused(shared):
    for found in shared[0]:
        assert "one process; leave torchrun out" in found["refused"]["hook"]
        assert found["refused"]["compile"].startswith("--compile: not under torchrun")
        assert "2 processes, but a batch of 1 images" in found["refused"]["small"]


@pytest.mark.slow
def test_the_failure_of_one_process_ends_all(tmp_path):
    run = torchrun(__file__, "failure", tmp_path)
    assert run.status != 0
    assert "the second process fails" in run.printed
    assert "epoch 3/3" not in run.printed
    assert not list(tmp_path.iterdir())


def test_processes_that_do_not_join_are_refused(monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    images = classification()
    with pytest.raises(FgpError, match="only `fgp train` and `fgp finetune` run in several processes"):
        fit(small_cnn(), images.train, images, CLASSES, 0, "cpu")


@pytest.mark.slow
def test_train_and_finetune_on_the_command_line(digits, tmp_path):
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        both = ["--data", digits, "--seed", 1, "--device", "cpu", "--threads", 1, "--epochs", 2, "--lr", 0.01, "--batch-size", 25]
        dense = ["train", "--network", "vgg16", "--width", 0.0625, "--out", folder / "dense", "--metrics", folder / "dense.json"]
        tuned = ["finetune", "--weights", folder / "dense", "--out", folder / "tuned", "--metrics", folder / "tuned.json"]
        for words in ([*dense, *both, "--curve", folder / "dense.csv"], [*tuned, *both, "--curve", folder / "tuned.csv"]):
            if processes == 1:
                assert main([str(word) for word in words]) == 0
            else:
                run = torchrun("-m", "fgp", *words)
                assert run.status == 0, run.printed
                assert len(re.findall("epoch 2/2 loss", run.printed)) == 1
    names = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in "12"]
    assert names[0] == names[1]
    for name in ("dense", "tuned"):
        assert isinstance(fgp.load(tmp_path / "2" / name).features[1], nn.BatchNorm2d)
        one, two = (list(csv.DictReader((tmp_path / folder / f"{name}.csv").open())) for folder in "12")
        # In float32 the last bit of a sum grows to this in a deep network with normalisation over 25 values.
        assert [float(row["train_loss"]) for row in two] == pytest.approx([float(row["train_loss"]) for row in one], rel=0.02)
        facts = metrics.read_metrics(tmp_path / "2" / f"{name}.json")
        assert facts["provenance"]["engine"]["processes"] == 2
        assert (facts["before"] is None) == (name == "dense")
    assert metrics.read_metrics(tmp_path / "2/dense.json")["after"] == facts["before"]


@pytest.mark.parametrize(("device", "message"), [("cuda:1", "--device cuda:1: under"), ("cuda", "use --nproc-per-node 1")])
def test_every_process_needs_a_gpu_of_its_own(device, message, monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(FgpError, match=message):
        distributed.join(device)


@pytest.mark.parametrize(("images", "size"), [(8, 2), (7, 2), (5, 4), (4, 4), (3, 4), (0, 2)])
def test_shares_are_the_batch(images, size):
    part = slice(10, 10 + images)
    shares = [Group(rank, size).share(part) for rank in range(size)]
    assert [n for share in shares for n in range(share.start, share.stop)] == list(range(10, 10 + images))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_one_process_is_a_group_of_its_own():
    group, values = Group(), torch.rand(3)
    assert group.leader
    assert group.total(values) is group.mean(values) is group.from_leader(values) is values
    assert group.share(slice(3, 9)) == slice(3, 9)
    assert distributed.join("cpu").size == distributed.group().size == 1


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
