"""Methods that score coupled layers as one: Group Fisher, one-shot and gradual, and DepGraph with and without sparse learning."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from group_networks import BLOCK, RESIDUAL, assert_close, block, network, totals, toy, train, two_batches
from reference_fgp import randomise
from scoring_networks import classification, residual, segmentation
from torch import nn

import baselines
import fgp
from fgp import FgpError
from fgp.models import build
from fgp.scoring.fisher import freed
from fgp.scoring.group_norms import GroupWeights, shrinkage
from fgp.surgery import Structure
from fgp.train import Recipe
from fgp.train.hooks import Run
from fgp.train.resume import Checkpoint


def slopes(model, reader, images, objective):
    """Activations that `reader` reads times their gradient, summed over the positions of each channel: (N, C) or (N, C m)."""
    read = []

    def keep(_, args):
        read.append(args[0].clone())  # its gradient is that of this reader alone
        read[0].retain_grad()
        return (read[0],)

    handle = model.get_submodule(reader).register_forward_pre_hook(keep)
    objective(model(images.clone().requires_grad_())).backward()
    handle.remove()
    product = read[0] * read[0].grad
    return (product.sum((2, 3)) if product.ndim == 4 else product).detach()


def of_channels(values, channels):
    return values.view(len(values), channels, -1).sum(2)


def literal_fisher(model, groups, batches, unit=1):
    found = {}
    for leader, (members, readers, _, _) in groups.items():
        channels = model.get_submodule(members[0]).out_channels // unit
        found[leader] = torch.zeros(channels, dtype=torch.float64)
        for images, labels in batches:
            for image, label in zip(images, labels, strict=True):
                if (label != 255).any():
                    loss = partial(F.cross_entropy, target=label[None], ignore_index=255)
                    slope = sum(of_channels(slopes(model, reader, image[None], loss), channels)[0] for reader in readers)
                    found[leader] += slope**2
    return found


class OneConv(nn.Module):
    """The first two planes of the image, averaged: two logits."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 2, 1, bias=False), nn.Linear(2, 2, bias=False)
        self.conv.weight.data = torch.eye(2, 3)[:, :, None, None]
        self.head.weight.data = torch.eye(2)
        self.eval()

    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))


def test_fisher_by_hand():
    # The logits are (2, 2) and (-4, -4), so p = 1/2. With label 0 an image's loss has the gradient (-1/2, 1/2) with respect to
    # the logits; times the logits (-1, 1) and (2, -2), squared and summed 5 and 5. A channel has 2 x 2 values; it costs 4
    # positions of 3 MACs in the convolution and 2 in the head.
    images = torch.tensor([[2.0, 2.0, 9.0], [-4.0, -4.0, 9.0]])[:, :, None, None].expand(-1, -1, 2, 2)
    for options, expected in (({}, 5 / 4), ({"normalise": "macs"}, 5 / 14), ({"normalise": "none"}, 5)):
        scores = baselines.get("group-fisher-oneshot").score(OneConv(), [(images, torch.tensor([0, 0]))], 0, **options)
        assert scores["conv"].tolist() == pytest.approx([expected, expected])


@pytest.mark.parametrize(
    ("model", "groups", "data"),
    [
        (block(), BLOCK, classification()),
        (residual(), RESIDUAL, classification()),
        (residual(segmentation=True), RESIDUAL, segmentation()),
    ],
    ids=["block", "residual", "segmentation"],
)
def test_fisher_by_loops_over_images(model, groups, data):
    batches = two_batches(data)
    expected = literal_fisher(model, groups, batches)
    assert_close(totals("group-fisher-oneshot", model, batches, normalise="none"), expected)
    memory = {name: values / (len(groups[name][0]) * groups[name][3]) for name, values in expected.items()}
    assert_close(totals("group-fisher-oneshot", model, batches), memory)
    scores = baselines.get("group-fisher-oneshot").score(model, batches, 0)
    assert ("head" in scores) == isinstance(getattr(model, "head", None), nn.Conv2d)
    if "head" in scores:
        assert torch.equal(scores["head"], torch.ones(4))


def test_fisher_over_the_macs_that_really_go():
    model, batches = block(), two_batches(classification())
    images = batches[0][0]
    structure = Structure(model, images, tied=True)
    plan = {"stem": [0, 2, 3], "conv1": [0, 1, 2, 3], "conv2": [0, 1, 5]}
    for left in (plan, {name: list(range(model.get_submodule(name).out_channels)) for name in plan}):
        now = fgp.cost.count(structure.prune(left), images[:1]).macs
        for leader, found in freed(structure, left, "macs").items():
            assert found == now - fgp.cost.count(structure.prune({**left, leader: left[leader][1:]}), images[:1]).macs
    assert freed(structure, {**plan, "conv1": [2]}, "macs")["conv1"] == structure.macs({**plan, "conv1": [2]})
    assert freed(structure, plan, "memory") == {"stem": 64, "conv1": 16, "conv2": 32}


@pytest.mark.parametrize(
    ("first", "normalise", "gone"), [(16, "none", "1"), (16, "memory", "0"), (40, "memory", "1"), (40, "macs", "0")]
)
def test_what_goes_by_hand(first, normalise, gone):
    """A channel of "0" has 16 values and frees 16 * 3 + 4 * 3 MACs, one of "1" 4 values and 4 * 2 + 2 MACs."""
    layers = (nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    hook = baselines.get("group-fisher").pruning(0.5, interval=1, channels=1, normalise=normalise)
    hook.begin(Run(nn.Sequential(*layers), [(torch.zeros(1, 3, 4, 4), None)], 1, 1, 2, "classification", 0, torch.device("cpu")))
    fisher = {"0": torch.tensor([first + 1.0, first]), "1": torch.tensor([9.0, 10, 8])}
    hook.load_state_dict({"plan": hook.plan, "reached": False, "steps": 0, "fisher": fisher})
    hook.after_step(None, None)
    assert hook.plan == {"0": [0] if gone == "0" else [0, 1], "1": [0, 1] if gone == "1" else [0, 1, 2]}


def test_channels_of_a_grouped_convolution_are_one():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 36, 4))
    model, batches = nn.Sequential(*layers).double().eval(), two_batches(classification())
    pairs = literal_fisher(model, {"0": (["0", "2"], ["4"], [], 0)}, batches, unit=2)["0"]
    assert_close(totals("group-fisher-oneshot", model, batches, normalise="none"), {"0": pairs.repeat_interleave(2)})
    assert_close(totals("group-fisher-oneshot", model, batches), {"0": pairs.repeat_interleave(2) / (2 * 64 + 2 * 36)})
    filters = sum(model[i].weight.square().flatten(1).sum(1) for i in (0, 2))
    norms = (filters + model[4].weight.square().view(4, 4, 36).sum((0, 2))).view(2, 2).sum(1).detach()
    assert_close(totals("depgraph", model, batches), {"0": (norms / norms.mean()).repeat_interleave(2)})
    assert_close(GroupWeights(Structure(model, batches[0][0]), model).squared_norms(), {"0": norms.repeat_interleave(2)})


def literal_norms(model, groups):
    """I, by loops over single weights."""
    found = {}
    for leader, (members, readers, norms, _) in groups.items():
        channels = model.get_submodule(leader).out_channels
        sums = [0.0] * channels
        for k in range(channels):
            for name in (*members, *norms):
                sums[k] += sum(w * w for w in model.get_submodule(name).weight[k].flatten().tolist())
            for name in readers:
                weight = model.get_submodule(name).weight
                each = weight.shape[1] // channels
                for i in range(k * each, (k + 1) * each):
                    sums[k] += sum(w * w for w in weight[:, i].flatten().tolist())
        found[leader] = torch.tensor(sums, dtype=torch.float64)
    return found


@pytest.mark.parametrize(("model", "groups"), [(block(), BLOCK), (residual(segmentation=True), RESIDUAL)])
def test_group_norm_by_loops(model, groups):
    data = [classification() if groups is BLOCK else segmentation()]
    expected = {name: values / values.mean() for name, values in literal_norms(model, groups).items()}
    for name in ("depgraph", "depgraph-sparse"):
        assert_close(totals(name, model, data), expected)
    scores = baselines.get("depgraph").score(model, data, 0)
    for leader, (members, *_) in groups.items():
        assert float(scores[leader].sum()) == pytest.approx(len(scores[leader]) / len(members), rel=1e-5)


def test_group_norm_of_zeros():
    model = block()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    scores = baselines.get("depgraph").score(model, [classification()], 0)
    assert all(torch.equal(values, torch.zeros_like(values)) for values in scores.values())


@pytest.mark.parametrize(("name", "width"), [("vgg16", 1 / 16), ("resnet50", 1 / 32)])
def test_group_norm_and_sparse_learning_as_torch_pruning(name, width):
    torch.manual_seed(0)
    model = randomise(build(name, 4, width))
    images = torch.randn(2, 3, 32, 32)
    graph = tp.DependencyGraph().build_dependency(model, images)
    for leader, values in totals("depgraph", model, [(images, None)]).items():
        layer = model.get_submodule(leader)
        group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels)))
        torch.testing.assert_close(values.float(), tp.importance.GroupMagnitudeImportance(p=2)(group), rtol=1e-5, atol=0)

    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ours, theirs = copy.deepcopy(model), model
    squared = lambda group: tp.importance.GroupMagnitudeImportance(p=2)(group) ** 2  # noqa: E731  they take the root
    last = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
    tp.pruner.GroupNormPruner(theirs, images, squared, reg=0.01, ignored_layers=last).regularize(theirs)
    hook = baselines.get("depgraph-sparse").training(strength="0.01")
    hook.begin(Run(ours, [(images, None)], 1, 1, 4, "classification", 0, torch.device("cpu")))
    for parameter in ours.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hook.after_backward(images, None)
    for (key, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert key.endswith("bias") or found.grad.any(), key
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-8, msg=key)


def test_shrinkage_by_hand():
    assert shrinkage(torch.tensor([4.0, 1.0, 0.0, 2.0]), 4.0).tolist() == pytest.approx([1, 8, 16, 4])
    assert shrinkage(torch.tensor([3.0, 3.0]), 4.0).tolist() == [1, 1]
    assert shrinkage(torch.tensor([5.0, 1.0]), 0.0).tolist() == [1, 1]
    # A weight is shrunk for its output and for its input channel; the image's planes and the logits are no channels.
    model = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])[:, :, None, None])
        model[2].weight.copy_(torch.tensor([[1.0, 2.0], [1.0, 1.0]])[:, :, None, None])
        model[4].weight.copy_(torch.tensor([[2.0, 3.0], [0.0, 1.0]]))
    weights = GroupWeights(Structure(model, torch.zeros(1, 3, 1, 1)), model)
    norms = weights.squared_norms()
    assert {name: values.tolist() for name, values in norms.items()} == {"0": [1 + 2, 2 + 5], "2": [5 + 4, 2 + 10]}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    weights.add_to_gradients({name: shrinkage(values, 4.0) for name, values in norms.items()})
    assert model[0].weight.grad.flatten(1).tolist() == [[17, 1, 1], [1, 2, 2]]
    assert model[2].weight.grad.flatten(1).tolist() == [[1 + 32, 1 + 34], [1 + 17, 1 + 2]]
    assert model[4].weight.grad.tolist() == [[33, 4], [1, 2]]
    assert model[4].bias.grad.tolist() == [1, 1]


def test_what_counts_is_the_weights_of_convolutions_linear_layers_and_norms():
    """Not the slopes of a PReLU; a norm may have no weight, and a transposed kernel's inputs come first."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False), nn.PReLU(2), nn.ConvTranspose2d(2, 3, (1, 2), bias=False)
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 3]).view(2, 1, 1, 1))
        model[3].weight.copy_(torch.tensor([[1.0, 1, 1, 1, 1, 2], [0, 2, 0, 0, 0, 0]]).view(2, 3, 1, 2))
    weights = GroupWeights(Structure(model, torch.zeros(1, 1, 4, 4)), model)
    assert {name: values.tolist() for name, values in weights.squared_norms().items()} == {"0": [1 + 9, 9 + 4]}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weights.add_to_gradients({"0": torch.tensor([10.0, 100])})
    assert model[0].weight.grad.flatten().tolist() == [10, 300]
    assert model[3].weight.grad.flatten(1).tolist() == [[10] * 5 + [20], [0, 200, 0, 0, 0, 0]]
    assert not model[2].weight.grad.any()


def test_sparse_learning_widens_the_gap_between_channels():
    dense, sparse = network(), network()
    recipe = Recipe(epochs=3, batch_size=20, lr=0.05)
    train(dense, recipe, None)
    train(sparse, recipe, baselines.get("depgraph-sparse").training(strength=0.1))
    assert not any(module._forward_pre_hooks for module in sparse.modules())
    weakest = [
        min(float(values.min()) for values in totals("depgraph", model, [(torch.zeros(1, 3, 32, 32), None)]).values())
        for model in (dense, sparse)
    ]
    assert weakest[1] < 0.8 * weakest[0]
    same = network()
    train(same, recipe, baselines.get("depgraph-sparse").training(strength=0))
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), dense.parameters(), strict=True))


def test_the_first_channel_to_go_by_loops():
    # One batch of all images and next to no learning: the steps see the same weights, in training mode.
    recipe = Recipe(epochs=2, batch_size=40, lr=1e-12, momentum=0, weight_decay=0)
    model, dataset = network(), toy()
    images, labels = next(iter(fgp.data.batches(dataset.train, dataset, 40)))
    literal = copy.deepcopy(model).train()
    structure = Structure(model, images)
    names = [group.leader for group in structure.prunable]
    readers = dict(zip(names, [*names[1:], "classifier"], strict=True))
    loss = partial(F.cross_entropy, target=labels, reduction="sum")
    expected = {}
    for leader, reader in readers.items():
        channels = literal.get_submodule(leader).out_channels
        slope = of_channels(slopes(literal, reader, images, loss), channels)
        side = 32 // 2 ** sum(names.index(leader) >= start for start in (2, 4, 7, 10))
        expected[leader] = 2 * (slope**2).sum(0) / side**2
    worst = min((float(values.min()), leader, int(values.argmin())) for leader, values in expected.items() if len(values) > 1)

    hook = baselines.get("group-fisher").pruning(0.5, interval="3")
    with pytest.raises(FgpError, match="raise epochs"):
        train(model, recipe, hook)
    assert hook.state_dict()["steps"] == 2
    for leader, values in hook.state_dict()["fisher"].items():
        found = values / freed(structure, hook.plan, "memory")[leader]
        torch.testing.assert_close(found, expected[leader].double(), rtol=1e-3, atol=1e-5 * float(values.max()), msg=leader)

    hook = baselines.get("group-fisher").pruning(0.5, interval=2)
    with pytest.raises(FgpError, match="raise epochs"):
        train(network(), recipe, hook)
    gone = [
        (leader, channel)
        for leader, kept in hook.plan.items()
        for channel in range(model.get_submodule(leader).out_channels)
        if channel not in kept
    ]
    assert gone == [worst[1:]]
    assert hook.state_dict()["steps"] == 0
    assert not any(values.any() for values in hook.state_dict()["fisher"].values())


@pytest.mark.parametrize(
    ("name", "width", "budget", "tied", "normalise", "channels"),
    [
        ("vgg16", 1 / 16, 0.5, False, "memory", "9"),
        ("vgg16", 1 / 16, 0.15, False, "macs", 20),
        ("vgg16", 1 / 16, 1, False, "none", 1),
        ("resnet50", 1 / 32, 0.5, True, "macs", 80),
    ],
)
def test_the_budget_is_met(name, width, budget, tied, normalise, channels):
    torch.manual_seed(0)
    model = build(name, 4, width)
    hook = baselines.get("group-fisher").pruning(budget, tied, interval=1, channels=channels, normalise=normalise)
    train(model, Recipe(epochs=40, batch_size=20, lr=0.01), hook)
    example = torch.zeros(1, 3, 32, 32)
    pruned = fgp.prune(model, hook.plan, example, tied)
    assert fgp.cost.count(pruned, example).macs == pytest.approx(budget * fgp.cost.count(model, example).macs, rel=0.01)
    assert all(hook.plan.values())
    assert not any(module._forward_pre_hooks for module in model.modules())
    if budget == 1:
        assert all(len(kept) == model.get_submodule(leader).out_channels for leader, kept in hook.plan.items())


@pytest.mark.parametrize("name", ["group-fisher", "depgraph-sparse"])
def test_an_interrupted_run_goes_on_to_the_same_weights(name, tmp_path):
    recipe = Recipe(epochs=6 if name == "group-fisher" else 4, batch_size=16, lr=0.05, momentum=0.9, crop_padding=2)

    def hook():
        method = baselines.get(name)
        return method.pruning(0.7, interval=4, channels=30) if name == "group-fisher" else method.training(strength=0.01)

    def interrupt(epoch):
        if epoch == 3:
            raise KeyboardInterrupt

    straight, first = network(), hook()
    train(straight, recipe, first)
    stopped, second = network(), hook()
    second.after_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        train(stopped, recipe, second, checkpoint=Checkpoint(tmp_path / "m", "k", 0))
    resumed, third = network(), hook()
    train(resumed, recipe, third, checkpoint=Checkpoint(tmp_path / "m", "k", 0))
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    if name == "group-fisher":
        assert first.plan == third.plan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baselines.get("group-fisher").pruning(0.5, interval="0"), "option interval: '0'"),
        (lambda: baselines.get("group-fisher").pruning(0.5, channels="two"), "option channels: 'two'"),
        (
            lambda: baselines.get("group-fisher").pruning(0.5, normalise="flops"),
            "option normalise: 'flops'; give memory or macs or none$",
        ),
        (lambda: baselines.get("group-fisher-oneshot").score(block(), [], 0, normalise="x"), "option normalise"),
        (lambda: baselines.get("group-fisher-oneshot").score(block(), [], 0), "^batches: holds no image"),
        (lambda: baselines.get("depgraph").score(block(), [], 0), "^batches: holds no image"),
        (lambda: baselines.get("depgraph-sparse").training(strength=-1), "option strength: -1"),
        (lambda: baselines.get("depgraph-sparse").training(alpha=math.inf), "option alpha"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(FgpError, match=message):
        call()


@pytest.mark.parametrize("name", ["segnet", "deeplabv3"])
def test_every_convolution_of_the_segmentation_networks_is_scored(name):
    torch.manual_seed(0)
    model = randomise(build(name, 4, 1 / 32))
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(4, (2, 64, 64))
    convolutions = [key for key, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for method in ("group-fisher-oneshot", "depgraph"):
        scores = baselines.get(method).score(model, [(images, labels)], 0)
        assert list(scores) == convolutions
        assert all(values.isfinite().all() and (values >= 0).all() for values in scores.values())
        if name == "deeplabv3":
            assert all(torch.equal(scores[key], torch.ones(4)) for key in ("head.6", "auxiliary.4"))
