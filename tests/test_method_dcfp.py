import math

import pytest
import torch
import torch.nn.functional as F
from segmentation_training import VOID, assert_resumes, dataset, hooks_on, run_of, tiny, train
from torch import nn

import fgp
from baselines import dcfp
from fgp.errors import FgpError
from fgp.models import build
from fgp.scoring.group_norms import layer_scores
from fgp.select import match_budget
from fgp.surgery import Structure
from fgp.train import Recipe, fit
from fgp.train.hooks import Run
from fgp.train.rebalanced import Rebalanced, class_weights, rebalanced


@pytest.mark.parametrize("make", [dcfp.training, lambda: dcfp.training(iterations=5), dcfp.finetuning])
def test_an_interrupted_run_ends_as_if_it_had_not_been(make, tmp_path):
    assert_resumes(make, tmp_path)


@pytest.mark.parametrize("make", [dcfp.training, dcfp.finetuning])
def test_the_network_is_left_without_hooks(make):
    assert hooks_on(train(make())) == 0


# DCFP


def test_e_by_hand():
    """Gradients of four steps; only where they have the sign of the scale does e move."""
    model = tiny()
    hook = dcfp.training()
    hook.begin(run_of(model))
    scale = model.layer1[1].weight
    scale.data = torch.tensor([1.0, -1.0, 2.0, 0.0, 0.5])
    for gradient in ([0.5, 0.5, -1.0, 3.0, 1.0], [0.5, -2.0, -1.0, 3.0, -1.0], [-9.0, 2.0, 4.0, 3.0, 2.0], [0.0] * 5):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        scale.grad = torch.tensor(gradient)
        hook.after_backward(None, None)
    expected = [0.0005 * 0.999 + 0.0005, 0.002, 0.004, 0.0, 0.001 * 0.999 + 0.002]
    assert hook.importance["layer1.0"].tolist() == pytest.approx(expected, rel=1e-5)
    assert hook.importance["stem.0"].tolist() == [0.0] * 6
    assert set(hook.importance) == {"stem.0", "layer1.0", "layer2.0", "head.0"}


def test_scores_by_hand():
    """layer1 ranks in the backbone with both layers of the residual sum, which have the larger share, halved; the head alone."""
    hook = dcfp.training()
    hook.begin(run_of(tiny()))
    e = {"stem.0": [9, 1, 2, 3, 4, 5], "layer2.0": [0, 16, 6, 7, 8, 10], "layer1.0": [11, 12, 13, 14, 15], "head.0": range(7)}
    for name, values in e.items():
        hook.importance[name].copy_(torch.tensor(values))
    summed = [1 + 9 / 17, 1 + 16 / 17, 6 / 17, 7 / 17, 8 / 17, 10 / 17]
    expected = {
        "stem.0": [value / 2 for value in summed],
        "layer1.0": [11 / 17, 12 / 17, 13 / 17, 14 / 17, 1 + 15 / 17],
        "layer2.0": [value / 2 for value in summed],
        "head.0": [0, 1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 1 + 6 / 7],
        "head.3": [1, 1, 1, 1],
        "auxiliary": [1, 1, 1, 1],
    }
    scores = hook.scores()
    assert scores.keys() == expected.keys()
    for name, values in expected.items():
        assert scores[name].tolist() == pytest.approx(values), name


@pytest.mark.parametrize(("iterations", "first"), [(None, 1), ("3", 6), (100, 1)])
def test_e_is_of_the_training_loss_with_the_auxiliary_head(iterations, first):
    """The training loop written out: cross-entropy + 0.4 auxiliary, plain SGD, e over the last steps."""
    data, recipe = dataset(), Recipe(epochs=8, batch_size=6, lr=0.1, momentum=0)
    hook, model, literal = dcfp.training(iterations=iterations), tiny(), tiny().train()
    fit(model, data.train, data, recipe, 3, "cpu", hook=hook)
    norms = {"stem.0": literal.stem[1], "layer1.0": literal.layer1[1], "layer2.0": literal.layer2[1], "head.0": literal.head[1]}
    e = {name: [0.0] * norm.num_features for name, norm in norms.items()}
    images, labels = (data.train.images.float() / 255 - 0.5) / 0.25, data.train.labels.long()
    for step in range(1, 9):
        literal.zero_grad()
        main, auxiliary = literal(images)
        loss = F.cross_entropy(main, labels, ignore_index=VOID) + 0.4 * F.cross_entropy(auxiliary, labels, ignore_index=VOID)
        loss.backward()
        for name, norm in norms.items():
            for c, (scale, gradient) in enumerate(zip(norm.weight.tolist(), norm.weight.grad.tolist(), strict=True)):
                if scale * gradient > 0 and step >= first:
                    e[name][c] = 0.999 * e[name][c] + 0.001 * abs(gradient)
        with torch.no_grad():
            for parameter in literal.parameters():
                parameter -= 0.1 * parameter.grad
    for name, values in e.items():
        assert any(values)
        assert hook.importance[name].tolist() == pytest.approx(values, rel=1e-2, abs=1e-7), name


def official_masks(importance, structure, percent, backbone):
    """The repository's procedure: a percentile a part, 2 % of a layer at least, coupled masks united."""
    parts = {True: [], False: []}
    for group in structure.groups:
        for name in group.members:
            if group.whole is None and name in importance:
                parts[name.startswith(backbone)].append(name)
    masks = {}
    for names in parts.values():
        everything = sorted(value for name in names for value in importance[name].tolist())
        for name in names:
            threshold = everything[int(len(everything) * percent)]
            mask = [value > threshold for value in importance[name].tolist()]
            least = max(1, int(len(mask) * 0.02))
            if sum(mask) < least:
                for channel in sorted(range(len(mask)), key=lambda c: -importance[name][c])[:least]:
                    mask[channel] = True
            masks[name] = mask
    return {
        group.leader: [any(kept) for kept in zip(*(masks[name] for name in group.members), strict=True)]
        for group in structure.prunable
    }


@pytest.mark.parametrize(
    ("name", "backbone", "tied"),
    [("segnet", ("encoder",), False), ("deeplabv3", ("stem", "layer"), False), ("deeplabv3", ("stem", "layer"), True)],
)
def test_a_threshold_on_the_scores_is_a_percentile_in_both_parts(name, backbone, tied):
    torch.manual_seed(0)
    with torch.device("meta"):
        model = build(name, 5, 0.25)
    structure = Structure(model, torch.zeros(1, 3, 64, 64), tied)
    aux_and_logits = {"head.6", "auxiliary.4"}
    importance = {
        layer: torch.rand(channels) * (3.0 if layer.startswith(backbone) else 0.1)
        for layer, channels in structure.kept().items()
        if layer not in aux_and_logits
    }
    whole = Structure(model, torch.zeros(1, 3, 64, 64), tied=True)
    scores = layer_scores(whole, model, dcfp.ranked(importance, whole))
    assert set(scores) == set(structure.kept())
    gathered = structure.gather(scores)
    for percent in (0.31, 0.777, 0.994):
        expected = official_masks(importance, structure, percent, backbone)
        assert 0 < sum(map(sum, expected.values())) < sum(map(len, expected.values()))
        assert {leader: (values > percent).tolist() for leader, values in gathered.items()} == expected


def test_layers_that_stay_score_one_and_layers_without_scale_stay():
    model = tiny()
    model.head[1] = nn.BatchNorm2d(7, affine=False)
    hook = dcfp.training()
    train(hook, model)
    scores = hook.scores()
    assert all(scores[name].tolist() == [1.0] * 4 for name in ("head.3", "auxiliary"))
    assert scores["head.0"].tolist() == [2.0] * 7
    assert max(scores["layer1.0"]) < 2


@pytest.mark.parametrize("name", ["segnet", "deeplabv3"])
def test_the_networks_of_the_suite_are_trained_pruned_repaired_and_tuned(name):
    torch.manual_seed(0)
    model, data = build(name, 4, 1 / 32), dataset(2, size=(32, 32))
    hook = dcfp.training()
    recipe = Recipe(epochs=1, batch_size=2, lr=0.01)
    fit(model, data.train, data, recipe, 0, "cpu", hook=hook)
    structure = Structure(model, torch.zeros(1, 3, 32, 32))
    plan = match_budget(hook.scores(), structure, 0.5, "global")
    assert structure.macs(plan) == pytest.approx(structure.macs() / 2, rel=0.01)
    batches = list(fgp.data.batches(data.train, data, 2))
    repaired = dcfp.repair(model, plan, batches, 0)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, repaired.state_dict()[key])]
    assert changed
    assert all(key.endswith(("running_mean", "head.6.bias")) for key in changed)
    pruned = fgp.prune(repaired, plan, torch.zeros(1, 3, 32, 32))
    fit(pruned, data.train, data, recipe, 0, "cpu", hook=dcfp.finetuning())


def with_dead(model, plan):
    """Set the scales of the channels that a plan removes to 0, in the norms behind their convolutions."""
    norms = {"stem.0": [model.stem[1], model.layer2[1]], "layer1.0": [model.layer1[1]], "head.0": [model.head[1]]}
    for name, kept in plan.items():
        for norm in norms[name]:
            gone = [c for c in range(norm.num_features) if c not in kept]
            norm.weight.data[gone] = 0
    return model


PLAN = {"stem.0": [0, 2, 5], "layer1.0": [1, 2], "head.0": [0, 3, 4, 6]}


def test_the_repair_is_exact_where_the_scales_are_zero():
    """1x1 convolutions: readers with normalisation, with bias only (head.3), and of a residual sum of two constants."""
    model = with_dead(tiny(kernel=1), PLAN)
    images = torch.randn(3, 3, 6, 6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model(images)
    assert not torch.allclose(fgp.prune(model, PLAN, images, tied=True)(images), expected, atol=1e-2)
    repaired = dcfp.repair(model, PLAN, [(torch.randn(2, 3, 6, 6), None)], 0)
    torch.testing.assert_close(fgp.prune(repaired, PLAN, images, tied=True)(images), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert hooks_on(repaired) == 0


def test_the_repair_is_relu_of_beta_through_the_kernels_sum():
    """3x3 with padding, scales as they are: the repository's formula, for one reader of each kind."""
    model, plan = tiny(), {"layer1.0": [1, 2], "head.0": [0, 3, 4, 6]}
    repaired = dcfp.repair(model, plan, [(torch.randn(1, 3, 8, 8), None)], 0)
    for conv, norm, gone, change in (
        (model.layer2[0], model.layer1[1], [0, 3, 4], model.layer2[1].running_mean - repaired.layer2[1].running_mean),
        (model.head[3], model.head[1], [1, 2, 5], repaired.head[3].bias - model.head[3].bias),
    ):
        for out in range(conv.out_channels):
            offset = sum(float(conv.weight[out, c].detach().sum()) * max(0.0, norm.bias[c].item()) for c in gone)
            assert change[out].item() == pytest.approx(offset, rel=1e-4, abs=1e-6)
    assert torch.equal(repaired.stem[1].running_mean, model.stem[1].running_mean)


def test_refusals_of_dcfp():
    for wrong in (0, "many", 1.5):
        with pytest.raises(FgpError, match="iterations"):
            dcfp.training(iterations=wrong)
    with pytest.raises(FgpError, match="no image"):
        dcfp.repair(tiny(), {"layer1.0": [0]}, [], 0)


# GSRL


def literal_gsrl(heads, labels, drawn):
    """Pixel by pixel."""
    classes, (height, width) = heads[0].shape[1], labels.shape[1:]
    total = 0.0
    for n in range(len(labels)):
        pixels = [labels[n, i, j].item() for i in range(height) for j in range(width)]
        fill = [1 - 0.9999 ** pixels.count(c) for c in range(classes)]
        weight = {c: min(1.0, max(0.0, fill[drawn[n]] / fill[c])) if fill[c] else 1.0 for c in range(classes)} | {VOID: 0.0}
        mass, losses = 0.0, [0.0] * len(heads)
        for i in range(height):
            for j in range(width):
                target = labels[n, i, j].item()
                if target == VOID:
                    continue
                window = [
                    weight[labels[n, a, b].item()]
                    for a in range(max(0, i - 4), min(height, i + 5))
                    for b in range(max(0, j - 4), min(width, j + 5))
                ]
                probabilities = sorted(torch.softmax(heads[0][n, :, i, j], 0).tolist())
                w = max(window) * (1 + 9 * (1 - (probabilities[-1] - probabilities[-2])))
                mass += w
                for head, logits in enumerate(heads):
                    losses[head] -= w * math.log(torch.softmax(logits[n, :, i, j], 0)[target].item())
        if mass:
            total += sum(factor * loss / mass for factor, loss in zip((1, 0.4), losses, strict=False))
    return total / len(labels)


def scene(count=4, size=(13, 15)):
    """Large regions, so that windows do not all see every class; the last image is void."""
    labels = torch.zeros(count, *size, dtype=torch.int64)
    labels[:, :, 9:] = 1
    labels[:, :2, :3] = 2
    labels[1, 12, 14] = 3
    labels[2, 4:7] = VOID
    labels[3:] = VOID
    return labels


@pytest.mark.parametrize("auxiliary", [False, True])
def test_gsrl_is_the_literal_loop(auxiliary):
    torch.manual_seed(0)
    labels, drawn = scene(), torch.tensor([0, 3, 2, 0])
    heads = tuple(torch.randn(4, 5, 13, 15, dtype=torch.float64, requires_grad=True) for _ in range(1 + auxiliary))
    loss = rebalanced(heads if auxiliary else heads[0], labels, drawn)
    assert loss.item() == pytest.approx(literal_gsrl([head.detach() for head in heads], labels, drawn), rel=1e-4)
    loss.backward()
    assert all(head.grad[3].abs().sum() == 0 for head in heads)
    assert (heads[0].grad[2, :, 4:7] == 0).all()


def test_no_gradient_flows_through_the_weights():
    """With W held fixed the gradient at a pixel is W / sum W (p - one-hot) / N."""
    torch.manual_seed(0)
    labels = scene()[:1]
    logits = torch.randn(1, 5, 13, 15, dtype=torch.float64, requires_grad=True)
    rebalanced(logits, labels, torch.tensor([0])).backward()
    p = logits.detach().softmax(1)
    first, second = p.topk(2, dim=1).values.unbind(1)
    w = 1 + 9 * (1 - first + second)
    expected = (w / w.sum())[:, None] * (p - F.one_hot(labels, 5).movedim(3, 1))
    weights = class_weights(labels, torch.tensor([0]), 5)
    assert (F.max_pool2d(weights, 9, 1, 4) == 1).all()
    torch.testing.assert_close(logits.grad, expected, rtol=1e-4, atol=1e-9)


def test_class_weights_by_hand():
    labels = torch.tensor([[[0] * 10 + [1] * 5 + [2, 2, VOID]]])
    weights = class_weights(labels, torch.tensor([1]), 4)[0, 0]
    expected = (1 - 0.9999**5) / (1 - 0.9999**10)
    assert weights.tolist() == pytest.approx([expected] * 10 + [1] * 7 + [0], rel=1e-4)


def test_the_class_is_drawn_by_the_rarity_of_its_images():
    """Class 0 in every one of 10 images, class 1 in two: an image with both was drawn for class 1 five times in six."""
    labels = torch.zeros(10, 4, 4, dtype=torch.int64)
    labels[:2, 0, 0] = 1
    hook = Rebalanced()
    hook.begin(Run(tiny(), [(None, labels[:5]), (None, labels[5:])], 1, 1, 3, "segmentation", 0, torch.device("cpu")))
    assert hook._images_with.tolist() == [10, 2, 0]
    seen = []

    def record(output, labels, drawn):
        seen.extend(drawn.tolist())
        return output.sum()

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fgp.train.rebalanced.rebalanced", record)
        loss = hook.criterion(None)
        loss(torch.zeros(3000, 3, 4, 4), labels[:1].expand(3000, -1, -1))
        assert sum(seen) / 3000 == pytest.approx(5 / 6, abs=0.03)
        seen.clear()
        loss(torch.zeros(2, 3, 4, 4), torch.stack([labels[5], torch.full((4, 4), VOID)]))
    assert seen == [0, 0]
