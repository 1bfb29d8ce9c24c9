"""How a training is computed does not change what it computes."""

import threading

import pytest
import torch
from test_train_loop import Aux, classification, segmentation, small_cnn, weights_equal
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import baselines
from fgp.data import Dataset, Split
from fgp.errors import FgpError
from fgp.methods import OWN_TRAINING
from fgp.models import build
from fgp.train import Recipe, feed, fit, step
from fgp.train.engine import Engine
from fgp.train.hooks import Hook
from fgp.train.resume import Checkpoint

TASKS = {
    "classification": (classification, small_cnn, Recipe(epochs=3, batch_size=16, lr=0.05, crop_padding=1, flip=True)),
    "segmentation": (segmentation, Aux, Recipe(epochs=3, batch_size=4, lr=0.05, schedule="poly", scale_range=(0.5, 2.0))),
}
TRAINED = [name for name, method in baselines.discover().items() if method.METHOD.kind in OWN_TRAINING]
OPTIONS = {"group-fisher": {"interval": 1, "channels": 64}, "aofp": {"warmup": 0, "theta": 1.0, "iterations": 1}}
WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}


class Waits(TorchDispatchMode):
    """Counts the operations for whose result Python would have to wait on a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in WAITS
        return function(*args, **(kwargs or {}))


@pytest.fixture
def replayed(monkeypatch):
    """A CUDA graph's stand-in on the CPU: recording keeps the work without doing it, replaying does it on the same tensors."""
    recorded = []

    def record(work, device):
        recorded.append(work)
        return work

    resolved = Engine.resolved
    monkeypatch.setattr(step, "warm_up", lambda work, device: work())
    monkeypatch.setattr(step, "record", record)
    monkeypatch.setattr(
        Engine, "resolved", lambda self, device, plain: resolved(self, device, plain).model_copy(update={"launch": "graph"})
    )
    return recorded


@pytest.mark.parametrize("task", TASKS)
def test_streamed_batches_are_the_resident_ones(task, monkeypatch):
    make, network, recipe = TASKS[task]
    dataset, models = make(), []
    for resident in (True, False):
        monkeypatch.setattr(feed, "fits", lambda split, device, resident=resident: resident)
        models.append(network())
        fit(models[-1], dataset.train, dataset, recipe, 0, "cpu")
    assert weights_equal(*models)


def test_streaming_ends_with_the_training(monkeypatch):
    class Short(Hook):
        def after_step(self, images, labels):
            self.finished = True

    monkeypatch.setattr(feed, "fits", lambda split, device: False)
    before = threading.active_count()
    dataset = classification()
    history = fit(small_cnn(), dataset.train, dataset, Recipe(epochs=2, batch_size=2, lr=0.01), 0, "cpu", hook=Short())
    assert len(history.losses) == 1
    assert threading.active_count() == before


def test_streaming_passes_errors_on(monkeypatch):
    class Broken(feed.Feed):
        def _gather(self, index):
            raise OSError("the disk is gone")

    monkeypatch.setattr(feed, "fits", lambda split, device: False)
    monkeypatch.setattr("fgp.train.loop.Feed", Broken)
    dataset = classification()
    with pytest.raises(OSError, match="the disk is gone"):
        fit(small_cnn(), dataset.train, dataset, Recipe(epochs=1, lr=0.01), 0, "cpu")


def test_half_of_the_free_memory_is_for_images(monkeypatch):
    split = classification().train
    gpu = torch.device("cuda")
    for free, fits in ((2 * split.images.numel(), True), (2 * split.images.numel() - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert feed.fits(split, gpu) is fits
    assert feed.fits(split, torch.device("cpu"))


@pytest.mark.parametrize("task", TASKS)
def test_a_replayed_step_is_the_step(task, replayed):
    make, network, recipe = TASKS[task]
    dataset = make(count=40)
    replay, eager = network(), network()
    first = fit(replay, dataset.train, dataset, recipe, 0, "cpu")
    assert len(replayed) == 1
    second = fit(eager, dataset.train, dataset, recipe, 0, "cpu", hook=Hook(), engine=None)
    assert first.engine["launch"] == "graph"
    assert first.losses == pytest.approx(second.losses, rel=1e-5)
    for got, expected in zip(replay.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_a_replayed_training_goes_on_after_an_interruption(replayed, tmp_path, monkeypatch):
    dataset, recipe = classification(), Recipe(epochs=4, batch_size=8, lr=0.05, schedule="cosine")
    straight, model = small_cnn(), small_cnn()
    fit(straight, dataset.train, dataset, recipe, 0, "cpu")
    save = Checkpoint.save

    def interrupted(self, state):
        save(self, state)
        monkeypatch.setattr(Checkpoint, "save", save)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(model, dataset.train, dataset, recipe, 0, "cpu", checkpoint=Checkpoint(tmp_path / "m", "key", seconds=0))
    other = small_cnn(seed=1)
    fit(other, dataset.train, dataset, recipe, 0, "cpu", checkpoint=Checkpoint(tmp_path / "m", "key", seconds=0))
    assert weights_equal(straight, other)


@pytest.mark.parametrize("task", TASKS)
def test_no_step_waits_for_its_result(task):
    make, network, recipe = TASKS[task]
    counts = []
    for images in (8, 80):
        dataset = make(count=images)
        with Waits() as waits:
            fit(network(), dataset.train, dataset, recipe.model_copy(update={"epochs": 1}), 0, "cpu")
        counts.append(waits.count)
    assert counts[0] == counts[1]


class Spy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.seen = small_cnn(), []

    def forward(self, x):
        y = self.net[0](x)
        self.seen.append((x.dtype, y.dtype, self.net[0].weight.dtype))
        return self.net[1:](y)


def test_bf16_is_of_the_activations_only():
    dataset, model = classification(), Spy()
    history = fit(model, dataset.train, dataset, Recipe(epochs=1, lr=0.05), 0, "cpu", engine=Engine(precision="bf16"))
    assert set(model.seen) == {(torch.float32, torch.bfloat16, torch.float32)}
    assert all(values.dtype in (torch.float32, torch.int64) for values in model.state_dict().values())
    assert history.engine == {"precision": "bf16", "launch": "eager", "compile": False}


@pytest.mark.parametrize("task", TASKS)
def test_bf16_learns_as_fp32_does(task):
    make, network, recipe = TASKS[task]
    dataset = make(count=40)
    losses = {}
    for precision in ("fp32", "bf16"):
        long = recipe.model_copy(update={"epochs": 6})
        losses[precision] = fit(network(), dataset.train, dataset, long, 0, "cpu", engine=Engine(precision=precision)).losses
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


@pytest.mark.parametrize("name", TRAINED)
def test_methods_with_their_own_training_take_bf16(name):
    method = baselines.get(name)
    dense = method.METHOD.tasks == {"segmentation"}
    torch.manual_seed(0)
    model = build("segnet" if dense else "vgg16", 4, 1 / 16)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 4, (8, 32, 32) if dense else (8,), dtype=torch.uint8)
    split = Split(images, labels)
    dataset = Dataset(split, split, tuple("abcd"), 4, (0.5,) * 3, (0.25,) * 3, model.fgp_spec.task, 255, "test")
    gradual = method.METHOD.kind == "gradual"
    hook = method.pruning(0.9, False, **OPTIONS.get(name, {})) if gradual else method.training()
    recipe = Recipe(epochs=6 if gradual else 1, batch_size=4, lr=0.01)
    fit(model, split, dataset, recipe, 0, "cpu", hook=hook, engine=Engine(precision="bf16"))
    if hasattr(hook, "scores"):
        assert all(values.dtype == torch.float32 for values in hook.scores().values())


def test_the_compiled_network_is_the_network(monkeypatch):
    compiled, compiler = [], torch.compile

    def without_a_backend(model):
        compiled.append(model)
        return compiler(model, backend="eager")

    monkeypatch.setattr(torch, "compile", without_a_backend)
    dataset, plain, model = classification(), small_cnn(), small_cnn()
    recipe = Recipe(epochs=2, batch_size=16, lr=0.05)
    fit(plain, dataset.train, dataset, recipe, 0, "cpu")
    fit(model, dataset.train, dataset, recipe, 0, "cpu", engine=Engine(compile=True))
    assert compiled == [model]
    assert weights_equal(plain, model)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("launch", "device", "expected"), [("auto", "cpu", "eager"), ("auto", "cuda", None), ("eager", "cuda", "eager")]
)
def test_what_auto_means(launch, device, expected, plain, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    engine = Engine(launch=launch).resolved(torch.device(device), plain)
    assert engine.precision == ("bf16" if device == "cuda" else "fp32")
    assert engine.launch == (expected or ("graph" if plain else "eager"))


def test_a_graph_needs_a_gpu():
    dataset = classification()
    with pytest.raises(FgpError, match="launch graph: needs a GPU"):
        fit(small_cnn(), dataset.train, dataset, Recipe(epochs=1, lr=0.1), 0, "cpu", engine=Engine(launch="graph"))


def test_flags_give_the_engine_back():
    import argparse

    parser = argparse.ArgumentParser()
    Engine.add_arguments(parser)
    for engine in (Engine(), Engine(precision="bf16", launch="eager", compile=True)):
        assert Engine.from_args(parser.parse_args(engine.flags())) == engine
