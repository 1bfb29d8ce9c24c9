import contextlib
import itertools
from functools import partial

import pytest
import torch
from reference_fgp import randomise
from scoring_networks import classification, residual, segmentation
from torch import nn

import baselines
import fgp
from fgp import FgpError
from fgp.models import build
from fgp.scoring import contributions
from fgp.surgery import Structure

THINET = baselines.get("thinet")


class Chain(nn.Module):
    """Convolution, ReLU and a convolution with every option of its geometry; then mean and linear layer, or flattening."""

    def __init__(self, flat=False):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1), padding_mode="reflect")
        self.flat = flat
        self.linear = nn.Linear(5 * 4 * 9 if flat else 5, 4)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.linear(x.flatten(1) if self.flat else x.mean((2, 3)))


def chain(**options):
    torch.manual_seed(0)
    return Chain(**options).double().eval()


def samples(channels=6, rows=40, seed=0):
    """Return x (rows, channels), partly dependent, so that channels cancel each other."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=generator, dtype=torch.float64)
    return x + x[:, [0]] * torch.tensor([0.5, -1, 1, -0.7] + [0.3] * (channels - 4), dtype=torch.float64)


def error(x, removed):
    return float(x[:, list(removed)].sum(1).square().sum())


def literal_order(x):
    """The definition: of all sets that have one channel more, the one with the smallest error."""
    removed = []
    while len(removed) < x.shape[1]:
        rest = [c for c in range(x.shape[1]) if c not in removed]
        removed.append(min(rest, key=lambda c: error(x, [*removed, c])))
    return removed


@pytest.mark.parametrize("channels", [4, 6, 11])
@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_the_literal_definition(channels, seed):
    x = samples(channels, seed=seed)
    order = THINET.removal_order(x.T @ x)
    assert order.argsort().tolist() == literal_order(x)
    assert sorted(order.tolist()) == list(range(channels))


@pytest.mark.parametrize("seed", range(5))
def test_greedy_against_exhaustive_search(seed):
    x = samples(seed=seed)
    first, second = THINET.removal_order(x.T @ x).argsort()[:2].tolist()
    assert error(x, [first]) == min(error(x, [c]) for c in range(6))
    pairs = {pair: error(x, pair) for pair in itertools.combinations(range(6), 2)}
    assert error(x, [first, second]) == pytest.approx(min(value for pair, value in pairs.items() if first in pair))
    assert error(x, [first, second]) >= min(pairs.values()) - 1e-9


def test_channels_that_cancel_go_together():
    """Squared norms 10, 10, 2, 8: channel 2 goes, then 1, as the sum is 4 with it, 20 with 0 and 18 with 3; then 0 (2, not 4)."""
    x = torch.tensor([[3.0, -3, 1, 2], [1, -1, 1, 2]], dtype=torch.float64)
    assert THINET.removal_order(x.T @ x).tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize("kept", [[0, 2, 5], [1], [0, 1, 2, 3, 4, 5]])
def test_least_squares_by_torch(kept):
    x = samples()
    expected = torch.linalg.lstsq(x[:, kept], x.sum(1)).solution
    torch.testing.assert_close(THINET.least_squares(x.T @ x, kept), expected)


def test_least_squares_leaves_what_it_cannot_know():
    x = samples()
    x[:, 2] = 0
    factors = THINET.least_squares(x.T @ x, [0, 2, 5])
    assert factors[1] == 1
    torch.testing.assert_close(factors[[0, 2]], torch.linalg.lstsq(x[:, [0, 5]], x.sum(1)).solution)


def literal_contributions(layer, features, draws):
    """Run the layer on one channel at a time and pick the outputs."""
    count, channels = features.shape[:2]
    picked = torch.zeros(*draws.shape[:2], channels, dtype=features.dtype)
    bias = 0 if layer.bias is None else layer.bias.view(1, -1, *[1] * (features.ndim - 2))
    for c in range(channels):
        alone = torch.zeros_like(features)
        alone[:, c] = features[:, c]
        output = layer(alone) - bias
        sizes = [*output.shape[1:], 1, 1][:3]
        for n, p in itertools.product(range(count), range(draws.shape[1])):
            where = [int(share * size) for share, size in zip(draws[n, p].tolist(), sizes, strict=True)]
            picked[n, p, c] = output.view(count, *sizes)[n][tuple(where)]
    return picked


@pytest.mark.parametrize("name", ["first", "second", "linear"])
@torch.no_grad()
def test_contributions_are_the_layer_on_single_channels(name):
    layer = chain().get_submodule(name)
    torch.manual_seed(1)
    features = torch.randn(3, layer.weight.shape[1], *([7, 6] if name != "linear" else []), dtype=torch.float64)
    draws = torch.rand(3, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(contributions.contributions(layer, features, draws), literal_contributions(layer, features, draws))


@torch.no_grad()
def test_a_linear_layer_may_read_many_positions():
    layer, generator = nn.Linear(5, 4), torch.Generator().manual_seed(1)
    features, draws = torch.randn(3, 7, 5, generator=generator), torch.rand(3, 6, 3, generator=generator)
    found = contributions.contributions(layer, features, draws)
    for n, p in itertools.product(range(3), range(6)):
        output, position = int(draws[n, p, 0] * 4), int(draws[n, p, 1] * 7)
        torch.testing.assert_close(found[n, p], features[n, position] * layer.weight[output])


@pytest.mark.parametrize(("images", "expected"), [(5, [5]), (6, [5, 1]), (8, [5, 3]), (9, [5, 4]), (20, [5, 4, 3])])
def test_as_many_images_are_read_as_the_option_says(images, expected):
    model, seen = chain(), []
    model.register_forward_pre_hook(lambda _, args: seen.extend([len(args[0])] * (not args[0].is_meta)))
    contributions.products(model, [(classification(count)[0], None) for count in (5, 4, 3)], 0, images, 2)
    assert seen == expected


def test_products_are_plain_tensors_computed_in_full_precision():
    model, images = chain(), classification()[0]
    _, expected = contributions.products(model, [(images, None)], 0, 5, 10)
    with torch.autocast("cpu"):
        _, found = contributions.products(model.float(), [(images.float(), None)], 0, 5, 10)
    for leader, readers in found.items():
        for name, product in readers.items():
            torch.testing.assert_close(product, expected[leader][name], rtol=1e-3, atol=1e-4)
            assert not product.is_inference()


def drawn_evenly(monkeypatch, model, images):
    """Let every output of `second`, 5 filters of 4 x 9 positions, be drawn once an image, in place of random ones."""
    grid = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64).add(0.5) / n for n in (5, 4, 9)))
    monkeypatch.setattr(torch, "rand", lambda count, positions, _, **__: grid.expand(count, -1, -1))
    return [(images, None)]


@torch.no_grad()
def test_scores_by_masking_channels_of_the_network(monkeypatch):
    """Over all outputs of the next layer, the error is the change that zeros in place of the removed channels make."""
    model, images = chain(), classification(count=3)[0]
    maps = torch.relu(model.first(images))
    dense = model.second(maps)
    removed = []
    for _ in range(6):
        changes = {}
        for c in set(range(6)) - set(removed):
            masked = maps.clone()
            masked[:, [*removed, c]] = 0
            changes[c] = float((model.second(masked) - dense).square().sum())
        removed.append(min(changes, key=changes.get))
    batches = drawn_evenly(monkeypatch, model, images)
    assert THINET.score(model, batches, 0)["first"].argsort().tolist() == removed


@torch.no_grad()
def test_repair_is_the_best_rescaling_of_the_next_layer(monkeypatch):
    model, images = chain(), classification(count=3)[0]
    batches = drawn_evenly(monkeypatch, model, images)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    kept = [0, 3, 5]
    repaired = THINET.repair(model, {"first": kept}, batches, 0)
    maps = torch.relu(model.first(images))
    wanted = model.second(maps)

    def output_error(network):
        masked = torch.zeros_like(maps)
        masked[:, kept] = maps[:, kept]
        return float((network.second(masked) - wanted).square().sum())

    factors = (repaired.second.weight / model.second.weight).mean((0, 2, 3))
    bias = model.second.bias[:, None, None]
    single = [model.second(maps * nn.functional.one_hot(torch.tensor(c), 6)[:, None, None]) - bias for c in kept]
    expected = torch.linalg.lstsq(torch.stack([x.flatten() for x in single], 1), (wanted - bias).flatten()).solution
    torch.testing.assert_close(factors[kept], expected)
    assert torch.equal(factors[[1, 2, 4]], torch.ones(3).double())
    assert output_error(repaired) < 0.95 * output_error(model)
    for key, value in repaired.state_dict().items():
        assert key == "second.weight" or torch.equal(value, state[key]), key
        assert torch.equal(model.state_dict()[key], state[key]), key
    pruned = fgp.prune(repaired, {"first": kept}, images)
    torch.testing.assert_close(pruned.second.weight, repaired.second.weight[:, kept])


def test_repair_of_a_plan_that_keeps_everything_changes_nothing():
    model, images = residual(segmentation=True), segmentation()[0]
    repaired = THINET.repair(model, {"conv1": list(range(5))}, [(images, None)], 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), repaired.parameters(), strict=True))


def test_the_batch_split_does_not_matter():
    model, images = residual(segmentation=True), segmentation(count=6)[0]
    splits = [[(images, None)], [(part, None) for part in images.split([1, 3, 2])], [(part, None) for part in images.split(1)]]
    one, *others = (contributions.products(model, split, 3, 1000, 10)[1] for split in splits)
    for other in others:
        torch.testing.assert_close(other, one)
    whole, part = (contributions.products(model, [(x, None)], 3, n, 10)[1] for x, n in ((images[:4], 1000), (images, 4)))
    torch.testing.assert_close(part, whole)
    assert not torch.equal(contributions.products(model, splits[0], 4, 1000, 10)[1]["conv1"]["conv2"], one["conv1"]["conv2"])


def test_flattened_channels_are_summed_over_their_positions(monkeypatch):
    model, images = chain(flat=True), classification(count=3)[0]
    fixed = torch.tensor([[0.3, 0, 0], [0.9, 0, 0]], dtype=torch.float64)  # outputs 1 and 3 of 4
    monkeypatch.setattr(torch, "rand", lambda count, *_, **__: fixed.expand(count, -1, -1))
    with torch.no_grad():
        features = torch.relu(model.second(torch.relu(model.first(images))))
    x = torch.zeros(6, 5, dtype=torch.float64)
    for n, (row, output), c in itertools.product(range(3), enumerate((1, 3)), range(5)):
        x[2 * n + row, c] = features[n, c].flatten() @ model.linear.weight.detach()[output].view(5, -1)[c]
    _, products = contributions.products(model, [(images, None)], 0, 1000, 2)
    torch.testing.assert_close(products["second"]["linear"], x.T @ x)


def test_several_readers_and_shared_channels():
    """Residual: stem and norm2 are summed, so stem and conv2 share channels, which conv1 and the head read."""
    model, images = residual(segmentation=True), segmentation()[0]
    structure, products = contributions.products(model, [(images, None)], 0, 1000, 10)
    assert {leader: set(readers) for leader, readers in products.items()} == {"stem": {"conv1", "head"}, "conv1": {"conv2"}}
    scores = THINET.score(model, [(images, None)], 0)
    assert torch.equal(scores["head"], torch.ones(4))
    assert torch.equal(scores["stem"], scores["conv2"])
    assert scores["stem"].data_ptr() != scores["conv2"].data_ptr()  # a safetensors file refuses shared memory
    order = THINET.removal_order(products["stem"]["conv1"] + products["stem"]["head"])
    assert torch.equal(structure.gather(scores)["stem"], order)
    repaired = THINET.repair(model, {"stem": [0, 1, 4]}, [(images, None)], 0)
    for name in ("conv1", "head"):
        factors = THINET.least_squares(products["stem"][name], [0, 1, 4])
        expected = model.get_submodule(name).weight[:, [0, 1, 4]] * factors[None, :, None, None]
        torch.testing.assert_close(repaired.get_submodule(name).weight[:, [0, 1, 4]], expected)


@pytest.mark.parametrize("network", ["vgg16", "resnet50", "segnet", "deeplabv3"])
def test_networks_of_the_suite_are_scored_repaired_and_pruned(network):
    torch.manual_seed(0)
    model = randomise(build(network, 4, 1 / 16))
    batches = [(torch.randn(4, 3, 32, 32), None)]
    scores = THINET.score(model, batches, 0)
    structure = Structure(model, batches[0][0])
    gathered = structure.gather(scores)
    for leader, values in gathered.items():
        torch.testing.assert_close(values.sort().values, torch.arange(len(values)).double(), msg=leader)
    plan = {leader: values.argsort()[len(values) // 2 :].sort().values.tolist() for leader, values in gathered.items()}
    pruned = fgp.prune(THINET.repair(model, plan, batches, 0), plan, batches[0][0])
    assert structure.params(plan) == sum(parameter.numel() for parameter in pruned.parameters())


def test_repair_brings_the_network_nearer_to_the_dense_one():
    torch.manual_seed(0)
    model = randomise(build("vgg16", 4, 1 / 8))
    batches = [(torch.randn(64, 3, 32, 32), None)]
    values = THINET.score(model, batches, 0)["features.14"]
    plan = {"features.14": values.argsort()[16:].sort().values.tolist()}
    seen = {}

    def output(network):
        handle = network.get_submodule("features.17").register_forward_hook(lambda _, __, result: seen.update(map=result))
        network(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
        handle.remove()
        return seen["map"]

    with torch.no_grad():
        dense = output(model)
        plain, repaired = (
            (output(fgp.prune(network, plan, batches[0][0][:1]).eval()) - dense).square().mean()
            for network in (model, THINET.repair(model, plan, batches, 0))
        )
    assert repaired < 0.95 * plain


@pytest.mark.parametrize("name", ["images", "positions"])
@pytest.mark.parametrize("value", ["0", "2.5", "many"])
def test_options_are_checked(name, value):
    batches = [(classification()[0], None)]
    for call in (partial(THINET.score, chain(), batches, 0), partial(THINET.repair, chain(), {"first": [0]}, batches, 0)):
        with pytest.raises(FgpError, match=f"^option {name}: '{value}'"):
            call(**{name: value})


def test_ten_outputs_of_a_thousand_images(monkeypatch):
    taken = []
    monkeypatch.setattr(
        contributions, "products", lambda _, __, *counts: taken.append(counts) or (Structure(chain(), images), {})
    )
    images = classification()[0]
    for call in (partial(THINET.score, chain(), [], 3), partial(THINET.repair, chain(), {}, [], 3)):
        with contextlib.suppress(KeyError):
            call()
    assert taken == [(3, 1000, 10)] * 2


def test_options_take_text():
    batches = [(classification()[0], None)]
    first = THINET.score(chain(), batches, 0, images="2", positions="3")
    assert torch.equal(first["first"], THINET.score(chain(), batches, 0, images=2, positions=3)["first"])


def test_what_cannot_be_scored_is_refused():
    images = classification()[0]
    with pytest.raises(FgpError, match="holds no image"):
        THINET.score(chain(), [], 0)
    model = chain()
    model.first.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(FgpError, match="second: its input is NaN"):
        THINET.score(model, [(images, None)], 0)
    upwards = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2)).double().eval()
    with pytest.raises(FgpError, match=r"1: sampled are.*ConvTranspose2d"):
        THINET.score(upwards, [(images, None)], 0)
    assert not upwards[1]._forward_pre_hooks
