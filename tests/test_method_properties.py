"""Properties of every method that has a `score`; EXCEPTIONS lists those that a definition rules out."""

import copy
import inspect
import warnings
from functools import cache

import pytest
import torch
from reference_fgp import randomise
from scoring_networks import OUTPUTS, Pointwise, Residual, Unpooled
from torch import nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock

import baselines
from fgp import FgpError
from fgp.models import NETWORKS, build
from fgp.select import match_budget
from fgp.surgery import Structure, prune

METHODS = baselines.discover()
SCORING = [name for name, module in METHODS.items() if hasattr(module, "score")]

ABLATIONS = "each ablation runs on a batch, the next one on the next"
FIRST_BATCH = "reads the first batch only, normalised by its statistics"
SQUARED = "squares the gradient of a batch's mean loss"
# {test: {method: why its definition does not have the property}}; the test has to fail there
EXCEPTIONS = {
    "test_the_order_of_the_batches_does_not_count": {"aofp-oneshot": ABLATIONS, "gfbs": FIRST_BATCH, "gt": FIRST_BATCH},
    "test_the_batch_size_does_not_count": {
        "aofp-oneshot": ABLATIONS,
        "gfbs": FIRST_BATCH,
        "gt": FIRST_BATCH,
        "taylor": SQUARED,
        "taylor-bn": SQUARED,
    },
    "test_permuting_channels_permutes_their_scores": {"random": "does not follow the channels"},
}
# {method: options of `score`: few iterations, so that it is fast; many samples, so that it does not matter which are drawn}
OPTIONS = {"aofp-oneshot": {"iterations": 2}, "thinet": {"positions": 2000}}

READS = {"forward", "gradient", "labels"}
TASKS = [(name, task) for name in SCORING for task in sorted(METHODS[name].METHOD.tasks)]
ONE_TASK = [(name, min(METHODS[name].METHOD.tasks)) for name in SCORING]
READING = [(name, task) for name, task in ONE_TASK if METHODS[name].METHOD.needs & READS]


class OutOfPlace(BasicBlock):
    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


NETS = {
    "pointwise": Pointwise,
    "residual": lambda task: Residual(segmentation=task == "segmentation", outputs=OUTPUTS),
    "unpooled": lambda task: Unpooled(),
}
# {case: (network, makers of the permuted channels, their readers)}
PERMUTED = {
    "1x1": ("pointwise", ("conv2", "norm2"), ("conv3",)),
    "inner": ("residual", ("conv1", "norm1"), ("conv2",)),
    "residual sum": ("residual", ("stem", "norm0", "conv2", "norm2"), ("conv1", "head")),
    "max-unpooling": ("unpooled", ("conv1", "norm1", "conv3", "norm3"), ("conv2", "conv4")),
}


def over(pairs):
    """Parametrise a test over pairs of a method and a case; where a definition rules the property out, the test has to fail."""

    def decorate(test):
        parameters = []
        for name, case in pairs:
            reason = EXCEPTIONS.get(test.__name__, {}).get(name)
            marks = [pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)] if reason else []
            parameters.append(pytest.param(name, case, marks=marks, id=f"{name}-{case}"))
        return pytest.mark.parametrize(("name", "case"), parameters)(test)

    return decorate


def normalised(model, task, size=8):
    """Return the network in eval mode, with random scales and shifts and the statistics of its inputs in the normalisations."""
    randomise(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(examples(task, size=size)[0])
    return model.eval()


@cache
def network(kind, task):
    torch.manual_seed(0)
    return normalised(NETS[kind](task), task)


@cache
def examples(task, count=9, size=8):
    """Return random images, black but for a part whose size differs, and labels; a tenth of the pixels are void."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, size, size, generator=generator)
    for image, height in zip(images, torch.randint(2, size + 1, (count,), generator=generator), strict=True):
        image[:, height:] = 0
    if task == "classification":
        return images, torch.randint(OUTPUTS, (count,), generator=generator)
    labels = torch.randint(OUTPUTS, (count, size, size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return images, labels


def batched(task, sizes=(4, 5)):
    images, labels = examples(task)
    return list(zip(images.split(sizes), labels.split(sizes), strict=True))


def score(name, model, data, **options):
    return METHODS[name].score(model, data, 0, **{**OPTIONS.get(name, {}), **options})


@cache
def scores_of(name, task, sizes=(4, 5)):
    return score(name, network("pointwise", task), batched(task, sizes))


def assert_same(found, expected, rtol=1e-5):
    assert list(found) == list(expected)
    for layer, values in expected.items():
        atol = rtol * float(values.abs().max())
        torch.testing.assert_close(found[layer], values, rtol=rtol, atol=atol, msg=lambda text, layer=layer: f"{layer}: {text}")


def test_exceptions_and_options_name_tests_and_methods():
    assert {name for reasons in EXCEPTIONS.values() for name in reasons} | set(OPTIONS) <= set(SCORING)
    assert all(callable(globals().get(test)) for test in EXCEPTIONS)


@over(TASKS)
def test_the_order_of_the_images_does_not_count(name, case):
    (images, labels), order = examples(case), torch.tensor([8, 3, 1, 6, 0, 7, 2, 5, 4])
    found = score(name, network("pointwise", case), [(images[order], labels[order])])
    assert_same(found, scores_of(name, case, (9,)))


@over(TASKS)
def test_the_order_of_the_batches_does_not_count(name, case):
    assert_same(score(name, network("pointwise", case), batched(case)[::-1]), scores_of(name, case))


@over(TASKS)
def test_the_batch_size_does_not_count(name, case):
    assert_same(scores_of(name, case, (4, 4, 1)), scores_of(name, case, (9,)))


def permuted(model, makers, readers, order):
    """Return a copy with the channels of `makers`, which `readers` read, in another order: the same function."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for maker in makers:
            for values in modules[maker].state_dict().values():
                if values.ndim:
                    values.copy_(values[order].clone())
        for reader in readers:
            weight = modules[reader].weight
            weight.copy_(weight[:, order].clone())
    return model


@cache
def scores_of_permuted(name, case):
    """Return the scores, those of the permuted network, and those layers' order of channels."""
    kind, makers, readers = PERMUTED[case]
    task = "segmentation" if kind == "unpooled" else min(METHODS[name].METHOD.tasks)
    model, data = network(kind, task), batched(task)
    convolutions = [maker for maker in makers if "norm" not in maker]
    order = torch.randperm(model.get_submodule(convolutions[0]).out_channels, generator=torch.Generator().manual_seed(4))
    turned = permuted(model, makers, readers, order)
    with torch.no_grad():
        torch.testing.assert_close(turned(data[0][0]), model(data[0][0]))
    return score(name, model, data), score(name, turned, data), dict.fromkeys(convolutions, order)


CASES = [
    (name, case)
    for name in SCORING
    for case, (kind, *_) in PERMUTED.items()
    if kind != "unpooled" or "segmentation" in METHODS[name].METHOD.tasks
]


@over(CASES)
def test_permuting_channels_permutes_their_scores(name, case):
    scores, found, orders = scores_of_permuted(name, case)
    assert any(len(set(scores[layer].tolist())) > 1 for layer in orders)
    assert_same({layer: found[layer] for layer in orders}, {layer: scores[layer][order] for layer, order in orders.items()})


@over(CASES)
def test_permuting_channels_leaves_the_scores_of_other_layers(name, case):
    scores, found, orders = scores_of_permuted(name, case)
    others = [layer for layer in scores if layer not in orders]
    assert_same({layer: found[layer] for layer in others}, {layer: scores[layer] for layer in others})


WIDTHS = {"vgg16": 1 / 16, "resnet50": 1 / 32, "segnet": 1 / 16, "deeplabv3": 1 / 32}
SUITE = [(name, net) for name in SCORING for net in WIDTHS if NETWORKS[net].task in METHODS[name].METHOD.tasks]


@cache
def suite_network(net):
    """Return a small network of the suite of which every second parameter is frozen and the others have gradients."""
    torch.manual_seed(0)
    model = normalised(build(net, OUTPUTS, WIDTHS[net]), NETWORKS[net].task, 32)
    for turn, parameter in enumerate(model.parameters()):
        if turn % 2:
            parameter.requires_grad_(False)
        else:
            parameter.grad = torch.full_like(parameter, 0.5)
    return model


def state_of(model):
    """Return all that scoring has to leave alone, by name; tensors bit by bit."""
    state = {f"state of {key}": value.numpy().tobytes() for key, value in model.state_dict().items()}
    for key, parameter in model.named_parameters():
        gradient = None if parameter.grad is None else parameter.grad.numpy().tobytes()
        state[f"parameter {key}"] = (id(parameter), parameter.data_ptr(), parameter.requires_grad, gradient)
    for key, module in model.named_modules():
        hooks = {name: len(value) for name, value in vars(module).items() if name.endswith("_hooks")}
        state[f"module {key}"] = (type(module), module.training, set(vars(module)), hooks)
    return state


@pytest.mark.filterwarnings("ignore:scored 0")
@over(SUITE)
def test_the_networks_of_the_suite_are_scored_and_left_alone(name, case):
    model = suite_network(case)
    images, labels = examples(NETWORKS[case].task, 3, 32)
    before = state_of(model)
    scores = score(name, model, [(images[:2], labels[:2]), (images[2:], labels[2:])])
    after = state_of(model)
    assert [key for key in before | after if before.get(key) != after.get(key)] == []
    sizes = {layer: (module.out_channels,) for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert {layer: tuple(values.shape) for layer, values in scores.items()} == sizes
    assert [layer for layer, values in scores.items() if not values.isfinite().all()] == []


@over(TASKS)
def test_a_float64_network_gets_the_same_scores_in_float32(name, case):
    model, data = network("pointwise", case), batched(case)
    found = score(name, copy.deepcopy(model).double(), [(images.double(), labels) for images, labels in data])
    assert {values.dtype for values in found.values()} == {torch.float32}
    assert_same(found, scores_of(name, case), rtol=1e-4)


@cache
def residual_networks(task):
    """Return torchvision's ResNet-18 with an eighth of its channels, and the same without in-place operations."""
    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=OUTPUTS)
    if task == "segmentation":
        model = nn.Sequential(*list(model.children())[:-2], nn.Conv2d(512, OUTPUTS, 1), nn.Upsample(scale_factor=32))
    images = examples(task, 3, 32)[0]
    eighth = {name: range(max(1, m.out_channels // 8)) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = normalised(prune(model.eval(), eighth, images, tied=True), task, 32)
    clean = copy.deepcopy(model)
    for module in clean.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, BasicBlock):
            module.__class__ = OutOfPlace
    return model, clean


@over(ONE_TASK)
def test_operations_in_place_do_not_count(name, case):
    images, labels = examples(case, 3, 32)
    model, clean = residual_networks(case)
    assert_same(score(name, model, [(images, labels)]), score(name, clean, [(images, labels)]))


class Lazy:
    """Batches made while they are read, as by `fgp.data.batches`."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return ((images.clone(), labels.clone()) for images, labels in self.batches)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@over(TASKS)
def test_the_gradient_mode_around_does_not_count(name, case, mode):
    model, data = network("pointwise", case), Lazy(batched(case))
    with mode():
        found = score(name, model, data)
    assert_same(found, scores_of(name, case))


@pytest.mark.parametrize("images", [0, None])
@over(READING)
def test_no_image_is_refused(name, case, images):
    empty = [] if images is None else [tuple(values[:0] for values in examples(case))]
    with pytest.raises(FgpError, match="batches"):
        score(name, network("pointwise", case), empty)


@over(READING)
def test_a_network_in_training_mode_is_refused(name, case):
    model = copy.deepcopy(network("pointwise", case)).train()
    with pytest.raises(FgpError, match="training mode"):
        score(name, model, batched(case))
    assert all(module.training for module in model.modules())


def numbers(function):
    """Return the options of `function` with a number as default."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    return {key: value for key, value in defaults.items() if type(value) in (int, float)}


@over([(name, task) for name, task in ONE_TASK if numbers(METHODS[name].score)])
def test_options_may_be_text(name, case):
    options = {**numbers(METHODS[name].score), **OPTIONS.get(name, {})}
    model, data = network("pointwise", case), batched(case)
    found = score(name, model, data, **{key: str(value) for key, value in options.items()})
    assert_same(found, score(name, model, data, **options), rtol=0)


@pytest.mark.parametrize(
    ("name", "function", "option"),
    [
        pytest.param(name, function, option, id=f"{name}-{function}-{option}")
        for name, module in METHODS.items()
        for function in ("score", "training", "pruning", "finetuning")
        for option in numbers(getattr(module, function, lambda: None))
    ],
)
@pytest.mark.parametrize("value", ["much", "nan"])
def test_an_option_that_is_no_number_is_named(name, function, option, value):
    task = min(METHODS[name].METHOD.tasks)
    arguments = {"score": (network("pointwise", task), batched(task), 0), "pruning": (0.5,)}.get(function, ())
    with pytest.raises(FgpError, match=rf"{option}\b.*{value}"):
        getattr(METHODS[name], function)(*arguments, **{option: value})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@over(TASKS)
def test_the_device_does_not_count(name, case):
    model = copy.deepcopy(network("residual", case)).double()
    data = [(images.double(), labels) for images, labels in batched(case)]
    expected = score(name, model, data)
    found = score(name, model.cuda(), [(images.cuda(), labels.cuda()) for images, labels in data])
    assert {values.device.type for values in found.values()} == {"cpu"}
    assert_same(found, expected, rtol=1e-4)


@cache
def budgeted(task):
    torch.manual_seed(0)
    net = "vgg16" if task == "classification" else "segnet"
    model = normalised(build(net, OUTPUTS, 0.25), task, 32)
    return model, Structure(model, examples(task, 4, 32)[0])


@over(ONE_TASK)
def test_the_declared_selection_reaches_half_of_the_macs(name, case):
    model, structure = budgeted(case)
    images, labels = examples(case, 4, 32)
    plan = match_budget(score(name, model, [(images, labels)]), structure, 0.5, METHODS[name].METHOD.selection)
    assert structure.macs(plan) == pytest.approx(0.5 * structure.macs(), rel=0.01)
