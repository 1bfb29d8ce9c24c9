import subprocess
import sys

import pytest
import torch
from torch import nn

import fgp
from fgp.errors import FgpError
from fgp.models import NAMES, Spec, build
from fgp.models.names import scale

OWN = ("vgg16", "resnet50", "segnet", "deeplabv3")
SEGMENTATION = ("segnet", "deeplabv3", "tv_deeplabv3", "smp_deeplabv3")
FOREIGN = ("tv_deeplabv3", "smp_deeplabv3")
CONVOLUTIONS = {"vgg16": 13, "resnet50": 53, "segnet": 26, "deeplabv3": 66}
SMALL = {"vgg16": (2, 3, 32, 32), "resnet50": (2, 3, 32, 32), "segnet": (2, 3, 48, 64), "deeplabv3": (2, 3, 48, 64)}


def tiny(name, classes=5):
    torch.manual_seed(0)
    return build(name, classes, 0.125)


def run_on_meta(name, shape, training=False):
    with torch.device("meta"):
        return build(name, 7).train(training)(torch.zeros(shape))


def test_names_do_not_load_torch():
    code = "import sys, fgp.models; assert fgp.models.NAMES and fgp.models.Spec; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_lists_the_closest():
    with pytest.raises(FgpError, match=r"'resnet5'.*resnet50"):
        build("resnet5", 10)
    with pytest.raises(FgpError, match="vgg16 or resnet50 or segnet"):
        build("transformer", 10)


@pytest.mark.parametrize(
    ("classes", "width"), [(0, 1.0), (True, 1.0), (2.5, 1.0), (10, 0), (10, -1.0), (10, float("nan")), (10, "1")]
)
def test_impossible_arguments(classes, width):
    with pytest.raises(FgpError, match=r"num_classes|width"):
        build("vgg16", classes, width)


@pytest.mark.parametrize("name", FOREIGN)
def test_fixed_width(name):
    with pytest.raises(FgpError, match=f"width 0.5: {name}"):
        build(name, 10, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_spec_round_trip(name):
    with torch.device("meta"):
        spec = build(name, 7).fgp_spec
    assert Spec.from_dict(spec.to_dict()) == spec
    assert spec.task == ("segmentation" if name in SEGMENTATION else "classification")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        [],
        {"name": "vgg16", "num_classes": 10, "width": 1.0},
        {"name": "vgg16", "num_classes": 10, "width": 1.0, "task": "segmentation"},
        {"name": "vgg16", "num_classes": 10, "width": 1.0, "task": "classification", "depth": 3},
        {"name": "vgg", "num_classes": 10, "width": 1.0, "task": "classification"},
    ],
)
def test_spec_refuses(fields):
    with pytest.raises(FgpError):
        Spec.from_dict(fields)


def test_scale_rounds_halves_up_and_keeps_one():
    assert [scale(64, 0.25), scale(3, 0.5), scale(5, 0.5), scale(64, 0.001), scale(64, 1)] == [16, 2, 3, 1, 64]


@pytest.mark.parametrize("name", OWN)
def test_width_scales_every_layer_but_the_ends(name):
    with torch.device("meta"):
        full, half = build(name, 7), build(name, 7, 0.5)
    pairs = list(zip(*([m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)] for net in (full, half)), strict=True))
    for one, other in pairs:
        before, after = one.weight.shape[:2], other.weight.shape[:2]
        assert after[0] == (before[0] if before[0] == 7 else before[0] // 2)
        assert after[1] == (before[1] if before[1] == 3 else before[1] // 2)


@pytest.mark.parametrize("name", OWN)
def test_small_inputs(name):
    model, images = tiny(name), torch.randn(SMALL[name])
    shape = (2, 5, *images.shape[2:]) if name in SEGMENTATION else (2, 5)
    trained = model(images)
    if name == "deeplabv3":
        assert [x.shape for x in trained] == [shape, shape]
        trained = sum(trained)
    trained.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        logits = model.double().eval()(images.double())
        assert logits.shape == shape
        alone = model(images[:1].double())
    torch.testing.assert_close(alone, logits[:1])


@pytest.mark.parametrize("name", FOREIGN)
def test_networks_of_other_libraries(name):
    assert run_on_meta(name, (1, 3, 48, 64)).shape == (1, 7, 48, 64)
    trained = run_on_meta(name, (2, 3, 48, 64), training=True)
    shapes = [x.shape for x in trained] if isinstance(trained, tuple) else [trained.shape]
    assert shapes == [(2, 7, 48, 64)] * (2 if name == "tv_deeplabv3" else 1)


def test_torchvision_wrapper_equals_torchvision():
    from torchvision.models.segmentation import deeplabv3_resnet50

    ours = build("tv_deeplabv3", 3).eval()
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=3, aux_loss=True).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images)["out"])


def test_segnet_takes_odd_sizes():
    with torch.no_grad():
        assert tiny("segnet").eval()(torch.randn(1, 3, 45, 57)).shape == (1, 5, 45, 57)


def test_segnet_puts_maxima_back():
    """The decoder sees each pooled value where it came from: with identity convolutions, only maxima survive."""
    model = tiny("segnet").eval()
    seen = {}
    model.unpools[-1].register_forward_hook(lambda _, inputs, output: seen.update(pooled=inputs[0], output=output))
    model.encoder[0].register_forward_hook(lambda _, __, output: seen.update(source=output))
    model.pools[0].register_forward_hook(lambda _, __, output: seen.update(places=output[1]))
    with torch.no_grad():
        model(torch.randn(1, 3, 33, 35))
    literal = torch.zeros_like(seen["source"])
    for channel, places in enumerate(seen["places"][0]):
        for place, value in zip(places.flatten(), seen["pooled"][0, channel].flatten(), strict=True):
            literal[0, channel, place // 35, place % 35] = value
    assert torch.equal(literal, seen["output"])


def test_segnet_ends_with_bn_and_relu():
    last = tiny("segnet").decoder[-1][-3:]
    assert [type(layer) for layer in last] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert last[0].out_channels == 5


@pytest.mark.parametrize("name", OWN)
def test_convolutions_run_once_and_their_outputs_stay(name):
    """FGP scores convolution outputs: each is computed once a forward and nothing writes into it."""
    model, images = tiny(name).train(), torch.randn(SMALL[name])
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    outputs = []
    for module in convolutions.values():
        module.register_forward_hook(lambda _, __, output: outputs.append((output, output.detach().clone())))
    model(images)
    assert len(outputs) == len(convolutions) == CONVOLUTIONS[name]
    assert all(torch.equal(now, then) and now._version == 0 for now, then in outputs)
    modules = [m for m in model.modules() if isinstance(m, nn.ReLU)]
    assert len(modules) == len(set(modules))
    assert not any(m.inplace for m in modules)


@pytest.mark.parametrize("name", FOREIGN)
def test_no_relu_in_place(name):
    with torch.device("meta"):
        assert not any(m.inplace for m in build(name, 5).modules() if isinstance(m, nn.ReLU))


def test_deeplabv3_dilations():
    """Output stride 8 and multigrid 1-2-4, read from the layers."""
    model = tiny("deeplabv3")
    assert [block.conv2.dilation[0] for block in model.layer3] == [2] * 6
    assert [block.conv2.dilation[0] for block in model.layer4] == [4, 8, 16]
    assert [branch[0].dilation[0] for branch in model.aspp.branches] == [1, 12, 24, 36]
    with torch.no_grad():
        assert model.eval().layer4(torch.randn(1, model.layer4[0].conv1.in_channels, 6, 8)).shape[-2:] == (6, 8)


@pytest.mark.parametrize("name", ["deeplabv3", "tv_deeplabv3", "smp_deeplabv3"])
def test_training_batch_of_one_image(name):
    with pytest.raises(FgpError, match="at least two"):
        run_on_meta(name, (1, 3, 48, 64), training=True)


@pytest.mark.parametrize("name", ["deeplabv3", "tv_deeplabv3"])
def test_auxiliary_head_with_frozen_bn_takes_one_image(name):
    with torch.device("meta"):
        model = build(name, 7)
        for module in model.modules():
            module.training = not isinstance(module, nn.BatchNorm2d)
        assert [x.shape for x in model(torch.zeros(1, 3, 48, 64))] == [(1, 7, 48, 64)] * 2


@pytest.mark.parametrize(
    ("name", "height", "match"), [("vgg16", 31, "32x32"), ("segnet", 24, "32x32"), ("smp_deeplabv3", 60, "multiples")]
)
def test_impossible_image_sizes(name, height, match):
    with pytest.raises(FgpError, match=f"{name}.*{height}x64.*{match}"):
        run_on_meta(name, (2, 3, height, 64))


def test_initialisation():
    torch.manual_seed(0)
    model = build("vgg16", 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.out_channels * 9)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            assert (module.bias == 0).all()
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_same_seed_same_network():
    one, other = tiny("resnet50"), tiny("resnet50")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert fgp.models.build is build


def test_segnet_starts_with_open_logits():
    bias = build("segnet", 11, 0.125).logits_norm.bias
    assert bias.shape == (11,)
    assert (bias == 2).all()
