"""What the readings that methods share promise beside their values: passes over feature maps, ranks, normalisations."""

import pytest
import torch
from scoring_networks import POSTRELU, classification, residual
from torch import nn

from fgp import FgpError
from fgp.scoring import rank
from fgp.scoring.norms import norm_gradients, scaled_norms, with_output_layers
from fgp.scoring.passes import feature_maps
from fgp.scoring.rank import matrix_ranks

EPS = torch.finfo(torch.float32).eps


def watch(model):
    """Return the list into which every forward pass of `model` from now on writes its number of images."""
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


# Passes


def test_one_image_runs_ahead_and_each_batch_once():
    model = residual()
    sizes, seen = watch(model), []
    data = [classification(count) for count in (5, 3)]
    assert feature_maps(model, data, lambda name, maps, labels: seen.append((name, len(maps), labels))) == 8
    assert sizes == [1, 5, 3]
    assert [(name, count) for name, count, _ in seen] == [(name, count) for count in (5, 3) for name in POSTRELU]
    assert all(labels is data[turn // 3][1] for turn, (_, _, labels) in enumerate(seen))


@pytest.mark.parametrize(("options", "ends"), [({}, {}), ({"after_relu": False}, {}), ({"after_relu": True}, POSTRELU)])
def test_by_default_the_output_of_the_convolution_is_read(options, ends):
    model, (images, labels) = residual(), classification()
    wanted, found = {}, {}
    hooks = [
        model.get_submodule(ends.get(name, name)).register_forward_hook(
            lambda _, __, output, name=name: wanted.update({name: output.detach().clone()})
        )
        for name in POSTRELU
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    feature_maps(model, [(images.float(), labels)], lambda name, maps, _: found.update({name: maps.clone()}), **options)
    assert list(found) == list(wanted) == list(POSTRELU)
    for name, maps in found.items():
        torch.testing.assert_close(maps, wanted[name], rtol=1e-6, atol=1e-6)
        assert not maps.requires_grad


def test_autocast_and_inference_mode_of_the_caller_change_no_map():
    model, batch, maps = residual().float(), classification(), []
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            feature_maps(model, [batch], lambda _, x, __: maps.append(x.clone()))
    assert {x.dtype for x in maps} == {torch.float32}
    assert not any(x.is_inference() for x in maps)
    assert all(torch.equal(x, maps[turn % 3]) for turn, x in enumerate(maps))


def test_passes_refuse_no_image_and_name_the_layer_of_a_nan():
    for batches, most in (([], None), ([classification()], 0)):
        with pytest.raises(FgpError, match=r"^batches: holds no image; give at least one batch"):
            feature_maps(residual(), batches, print, most_batches=most)
    model, seen = residual(), []
    model.conv1.weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(FgpError, match=r"^conv1: a feature map is NaN or infinite; check"):
        feature_maps(model, [classification()], lambda name, *_: seen.append(name))
    assert seen == ["stem"]
    assert not any(module._forward_hooks for module in model.modules())


# Rank


@pytest.fixture
def doubtful(monkeypatch):
    """The numbers of matrices whose singular values were asked for."""
    found, exact = [], torch.linalg.matrix_rank
    monkeypatch.setattr(torch.linalg, "matrix_rank", lambda x: found.append(len(x)) or exact(x))
    return found


@pytest.mark.parametrize(("factor", "asked"), [(1.9, 4), (2.1, 0)])
def test_full_rank_is_certain_above_twice_the_bound_of_the_tolerance(doubtful, factor, asked):
    # Singular values 1, 1, 1 and s: the bound of the tolerance is max(H, W) eps times the root of the sum of their squares.
    ones = torch.ones(4)
    ones[3] = factor * 7 * EPS * 3**0.5
    wide = torch.zeros(2, 4, 7)
    wide[:, range(4), range(4)] = ones
    assert matrix_ranks(wide).tolist() == matrix_ranks(wide.mT).tolist() == [4, 4]
    assert sum(doubtful) == asked


@pytest.mark.parametrize("shape", [(40, 5), (5, 40)])
def test_the_sides_of_the_map_and_not_of_its_filled_part_make_the_tolerance(shape):
    maps = torch.zeros(1, *shape)
    maps[0, 0, 0], maps[0, 1, 1] = 1, 30 * EPS
    assert matrix_ranks(maps).tolist() == torch.linalg.matrix_rank(maps).tolist() == [1]
    maps[0, 1, 1] = 100 * EPS
    assert matrix_ranks(maps).tolist() == torch.linalg.matrix_rank(maps).tolist() == [2]


def test_a_matrix_is_judged_by_its_own_size_not_by_its_neighbours(doubtful):
    identity = torch.eye(6)
    maps = torch.stack([identity * scale for scale in (1e12, 1, 1e-12, 1e-25)])
    assert matrix_ranks(maps).tolist() == [6] * 4
    assert doubtful == [0]


def test_what_is_close_to_the_smallest_float_gets_its_singular_values(doubtful):
    identity = torch.eye(6)
    assert matrix_ranks(torch.stack([identity * scale for scale in (1e-30, 5e-32, 1e-38, 1e-44)])).tolist() == [6] * 4
    assert doubtful == [3]


def test_few_numbers_are_factorised_at_once(monkeypatch):
    sizes, factorise = [], torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda x: sizes.append(len(x)) or factorise(x))
    maps = torch.eye(4).expand(2, 5, 4, 4)
    for most, largest in ((1, 1), (16, 1), (50, 3), (1 << 20, 10)):
        monkeypatch.setattr(rank, "_AT_ONCE", most)
        assert matrix_ranks(maps).tolist() == [[4] * 5] * 2
        assert max(sizes) == largest
        assert sum(sizes) == 10
        sizes.clear()


# Normalisations


class Dense(nn.Module):
    """Two convolutions, a normalisation behind the first only; logits of images or of pixels."""

    def __init__(self, channels, dense):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, channels, 1)
        self.dense = dense
        self.eval()

    def forward(self, x):
        x = self.last(self.norm(self.first(x)))
        return x if self.dense else x[:, :4].mean((2, 3))


def test_only_the_channels_of_dense_logits_do_without_normalisation():
    images = torch.randn(3, 3, 4, 4)
    model = Dense(4, dense=True)
    sizes = watch(model)
    assert scaled_norms(model, images) == {"first": "norm", "last": None}
    assert sizes[-1] == 1
    assert scaled_norms(model, images[..., :1]) == {"first": "norm", "last": None}
    assert all(
        found["first"].gamma is not None and "last" not in found for found in norm_gradients(model, [(images, None)], sum_of)
    )
    message = "^last: the method reads the batch normalisation behind it, there is none with a scale; choose another method$"
    for refused in (Dense(4, dense=False), Dense(6, dense=False)):
        with pytest.raises(FgpError, match=message):
            scaled_norms(refused, images)
    model = Dense(4, dense=True)
    model.last = nn.Sequential(nn.Conv2d(5, 6, 1), nn.Conv2d(6, 4, 1))
    with pytest.raises(FgpError, match=r"^last\.0: the method reads"):
        scaled_norms(model, images)


def sum_of(logits, _):
    return logits.sum()


def test_batch_statistics_of_one_value_are_refused_by_the_name_of_the_network():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.eval()

        def forward(self, x):
            return self.norm(self.conv(x.mean((2, 3), keepdim=True)))[:, :, 0, 0]

    batch = (torch.randn(1, 3, 4, 4), None)
    with pytest.raises(FgpError, match=r"^Pooled: a training batch of one image"):
        next(norm_gradients(Pooled(), [batch], sum_of, training=True))
    next(norm_gradients(Pooled(), [batch], sum_of))


def test_norm_gradients_refuse_no_batch_and_read_no_further_than_asked():
    with pytest.raises(FgpError, match=r"^batches: holds no image; give at least one batch"):
        next(norm_gradients(residual(), [], sum_of))
    source = iter([classification()] * 3)
    next(norm_gradients(residual(), source, sum_of))
    assert len(list(source)) == 2


def test_layers_without_scores_are_outputs_and_score_one():
    model = residual(segmentation=True)
    scores = with_output_layers(
        model, {"conv1": torch.arange(5, dtype=torch.float64), "stem": torch.zeros(6, dtype=torch.float64)}
    )
    assert list(scores) == ["stem", "conv1", "conv2", "head"]
    assert {values.dtype for values in scores.values()} == {torch.float32}
    assert {name: values.tolist() for name, values in scores.items()} == {
        "stem": [0] * 6,
        "conv1": [0, 1, 2, 3, 4],
        "conv2": [1] * 6,
        "head": [1] * 4,
    }
