import pytest
import torch
from reference_fgp import randomise
from test_train_loop import classification

import baselines
import fgp
from fgp import FgpError
from fgp.masking import Masks
from fgp.models import build
from fgp.surgery import Structure
from fgp.train import Recipe, fit
from fgp.train.gradual import Gradual
from fgp.train.resume import Checkpoint

NETWORKS = [("vgg16", 1 / 16), ("resnet50", 1 / 32), ("segnet", 1 / 16), ("deeplabv3", 1 / 32)]


class ByNumber(Gradual):
    """Removes the channels with the highest numbers, a few after every step."""

    def __init__(self, budget, tied=False, at_once=5):
        super().__init__(budget, tied)
        self.at_once = at_once

    def after_step(self, images, labels):
        left = [(leader, channel) for leader, kept in self.plan.items() for channel in kept]
        self.remove(sorted(left, key=lambda entry: (-entry[1], entry[0])), self.at_once)


class Interrupted(ByNumber):
    def after_epoch(self, epoch):
        if epoch == 3:
            raise KeyboardInterrupt


def network():
    torch.manual_seed(0)
    return build("vgg16", 4, 1 / 16)


def toy():
    return classification(side=32)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_masked_is_removed(name, width, tied):
    torch.manual_seed(0)
    model = randomise(build(name, 3, width)).double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    structure = Structure(model, images, tied)
    masks = Masks(structure, model).attach()
    plan = {g.leader: [c for c in range(g.channels) if c % 3 != 1] for g in structure.prunable if g.channels > 2}
    masks.load(plan)
    with torch.no_grad():
        masked = model(images)
    masks.detach()
    assert not any(module._forward_pre_hooks for module in model.modules())
    pruned = structure.prune(masks.plan())
    torch.testing.assert_close(masked, pruned(images), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(masked, model(images))


def test_gates_have_the_gradient_of_every_image():
    torch.manual_seed(0)
    model = randomise(build("resnet50", 3, 1 / 32)).double().eval()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    masks = Masks(Structure(model, images), model, per_sample=True).attach()
    model(images)[:, 0].sum().backward()
    together = {leader: gate.grad for leader, gate in masks.gates.items()}
    assert sum(bool(gradient.any()) for gradient in together.values()) > len(together) // 2
    for n in range(3):
        model(images[n : n + 1])[:, 0].sum().backward()
        for leader, gate in masks.gates.items():
            torch.testing.assert_close(gate.grad[0], together[leader][n])
    read = []

    def remember(_, args, __):
        args[0].retain_grad()
        read.append(args[0])

    model.layer1[0].conv2.register_forward_hook(remember)
    model(images)[:, 0].sum().backward()
    expected = (read[0] * read[0].grad).sum((2, 3))
    torch.testing.assert_close(masks.gates["layer1.0.conv1"].grad, expected)


@pytest.mark.parametrize("budget", [1, 0.61, 0.2])
def test_the_budget_is_met_and_the_last_channel_stays(budget):
    dataset, model = toy(), network()
    hook = ByNumber(budget)
    fit(model, dataset.train, dataset, Recipe(epochs=30, batch_size=16, lr=0.01), 0, "cpu", hook=hook)
    dense = fgp.cost.count(model, dataset.train.images[:1].float()).macs
    pruned = fgp.prune(model, hook.plan, dataset.train.images[:1].float())
    assert fgp.cost.count(pruned, dataset.train.images[:1].float()).macs == hook.macs == pytest.approx(budget * dense, rel=0.01)
    assert all(kept for kept in hook.plan.values())
    assert budget < 1 or all(len(kept) == pruned.get_submodule(name).out_channels for name, kept in hook.plan.items())


@pytest.mark.parametrize("name", [name for name, method in baselines.discover().items() if method.METHOD.kind == "gradual"])
def test_channels_of_residual_sums_go_only_if_asked(name):
    method = baselines.get(name)
    assert [method.pruning(0.5).tied, method.pruning(0.5, False).tied, method.pruning(0.5, True).tied] == [False, False, True]


def test_a_budget_half_a_percent_below_what_is_left_at_least_is_met_by_that():
    dataset, model = toy(), network()
    structure = Structure(model, dataset.train.images[:1].float())
    least = structure.macs({group.leader: [0] for group in structure.prunable})
    recipe = Recipe(epochs=60, batch_size=16, lr=0.01)
    hook = ByNumber(0.996 * least, at_once=50)
    fit(model, dataset.train, dataset, recipe, 0, "cpu", hook=hook)
    assert hook.macs == least
    with pytest.raises(FgpError, match="cannot be reached"):
        fit(network(), dataset.train, dataset, recipe, 0, "cpu", hook=ByNumber(0.994 * least))


def test_too_short_a_training_says_so():
    dataset = toy()
    with pytest.raises(FgpError, match="raise epochs"):
        fit(network(), dataset.train, dataset, Recipe(epochs=1, batch_size=16, lr=0.01), 0, "cpu", hook=ByNumber(0.2, at_once=1))
    with pytest.raises(FgpError, match="cannot be reached"):
        fit(network(), dataset.train, dataset, Recipe(epochs=1, batch_size=16, lr=0.01), 0, "cpu", hook=ByNumber(0.0001))


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path):
    dataset, recipe = toy(), Recipe(epochs=8, batch_size=16, lr=0.05, momentum=0.9, crop_padding=2)
    straight, hook = network(), ByNumber(0.5, at_once=9)
    fit(straight, dataset.train, dataset, recipe, 0, "cpu", hook=hook)
    with pytest.raises(KeyboardInterrupt):
        fit(
            network(),
            dataset.train,
            dataset,
            recipe,
            0,
            "cpu",
            hook=Interrupted(0.5, at_once=9),
            checkpoint=Checkpoint(tmp_path / "m", "k", 0),
        )
    torch.rand(3)
    for files in ("whole", "truncated"):
        if files == "truncated":
            (tmp_path / "m.checkpoint").write_bytes((tmp_path / "m.checkpoint").read_bytes()[:1000])
        again, resumed = network(), ByNumber(0.5, at_once=9)
        checkpoint = Checkpoint(tmp_path / "m", "k", 1e9)
        assert checkpoint.load() is not None
        history = fit(again, dataset.train, dataset, recipe, 0, "cpu", hook=resumed, checkpoint=checkpoint)
        assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), again.state_dict().values(), strict=True))
        assert resumed.plan == hook.plan
        assert len(history.losses) > 2
    assert Checkpoint(tmp_path / "m", "another run", 0).load() is None
    with checkpoint.results():
        pass
    assert not list(tmp_path.iterdir())
