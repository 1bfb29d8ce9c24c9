import pytest
import torch
from reference_fgp import randomise
from torch import nn

import baselines
import fgp
from fgp import FgpError, cost
from fgp.models import NETWORKS, build
from fgp.models.slimconv import SlimConv

SLIM = ("slimconv_vgg16", "slimconv_resnet50")


def literal_convolution(x, weight, stride):
    """Sum over window and input channels, position by position; x (C, H, W), kernels of 1x1 or 3x3, padded to keep the size."""
    outputs, inputs, kernel, _ = weight.shape
    height, width = x.shape[1:]
    result = torch.zeros(outputs, -(-height // stride), -(-width // stride), dtype=x.dtype)
    for row in range(result.shape[1]):
        for column in range(result.shape[2]):
            for u in range(kernel):
                for v in range(kernel):
                    i, j = row * stride + u - kernel // 2, column * stride + v - kernel // 2
                    if 0 <= i < height and 0 <= j < width:
                        for c in range(inputs):
                            result[:, row, column] += weight[:, c, u, v] * x[c, i, j]
    return result


def literal_norm(x, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return torch.stack([(x[c] - norm.running_mean[c]) * scale[c] + norm.bias[c] for c in range(len(x))])


def literal_slimconv(layer, x, stride):
    """The definition for one image (C, H, W), C even."""
    squeeze, squeezed_norm, excite = layer.gate[1], layer.gate[2], layer.gate[4]
    means = torch.stack([channel.mean() for channel in x])
    hidden = literal_norm(squeeze.weight[:, :, 0, 0] @ means, squeezed_norm).clamp(min=0)
    weights = 1 / (1 + (-(excite.weight[:, :, 0, 0] @ hidden) - excite.bias).exp())
    half = len(x) // 2
    folded = torch.stack([weights[c] * x[c] + weights[c + half] * x[c + half] for c in range(half)])
    last = len(x) - 1
    flipped = torch.stack([weights[last - c] * x[c] + weights[last - c - half] * x[c + half] for c in range(half)])
    upper = literal_norm(literal_convolution(folded, layer.upper[0].weight, stride), layer.upper[1])
    point = literal_norm(literal_convolution(flipped, layer.lower[0].weight, 1), layer.lower[1]).clamp(min=0)
    lower = literal_norm(literal_convolution(point, layer.lower[3].weight, stride), layer.lower[4])
    return torch.cat([upper, lower])


@pytest.mark.parametrize(("channels_in", "channels", "stride"), [(8, 8, 1), (8, 8, 2), (6, 12, 1), (64, 8, 1)])
@torch.no_grad()
def test_the_layer_is_the_literal_definition(channels_in, channels, stride):
    torch.manual_seed(0)
    layer = randomise(SlimConv(channels_in, channels, stride).double())
    x = torch.randn(2, channels_in, 5, 4, dtype=torch.float64)
    output = layer(x)
    assert output.shape == (2, 3 * channels // 4, 5 if stride == 1 else 3, 4 // stride)
    for image, result in zip(x, output, strict=True):
        torch.testing.assert_close(result, literal_slimconv(layer, image, stride))


@torch.no_grad()
def test_the_bottleneck_has_relu_behind_both_paths_and_the_stride_in_them():
    block = randomise(build("slimconv_resnet50", 10, 0.125)).layer2[0].double()
    x = torch.randn(1, block.conv1.in_channels, 4, 4, dtype=torch.float64)
    inner = literal_norm(literal_convolution(x[0], block.conv1.weight, 1), block.bn1).clamp(min=0)
    inner = literal_slimconv(block.conv2, inner, 2).clamp(min=0)
    outer = literal_norm(literal_convolution(inner, block.conv3.weight, 1), block.bn3)
    outer += literal_norm(literal_convolution(x[0, :, ::2, ::2], block.downsample[0].weight, 1), block.downsample[1])
    torch.testing.assert_close(block(x)[0], outer.clamp(min=0))


@torch.no_grad()
def test_an_odd_number_of_channels_folds_the_middle_one_onto_itself():
    torch.manual_seed(0)
    layer = randomise(SlimConv(5, 7).double())
    assert (layer.folded, layer.out_channels) == (3, 4 + 2)
    x, folded = torch.randn(2, 5, 3, 3, dtype=torch.float64), []
    for path in (layer.upper, layer.lower):
        path.register_forward_hook(lambda _, args, __: folded.append(args[0]))
    assert layer(x).shape == (2, 6, 3, 3)
    w = layer.gate(x)[:, :, 0, 0]
    for image in range(2):
        for ours, weights in zip(folded, (w[image], w[image].flip(0)), strict=True):
            for c in range(3):
                torch.testing.assert_close(ours[image, c], weights[c] * x[image, c] + weights[c + 2] * x[image, c + 2])


def by_hand(a, b, channels_in, channels, pixels_in, pixels):
    """Return (parameters, MACs) of a SlimConv with squeezed width a and C/4 = b; BN has two parameters a channel."""
    half = channels // 2
    gate = channels_in * a + 2 * a + a * channels_in + channels_in
    upper = channels_in // 2 * half * 9 + 2 * half
    lower = channels_in // 2 * b + 2 * b + b * b * 9 + 2 * b
    macs = 2 * channels_in * a + pixels * (channels_in // 2 * half + b * b) * 9 + pixels_in * channels_in // 2 * b
    return gate + upper + lower, macs


def test_costs_of_resnet50_by_hand():
    params, macs, before, side = 3 * 64 * 9 + 128, 3 * 64 * 9 * 32**2, 64, 32
    for channels, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            halved = side // 2 if block == 0 and channels > 64 else side
            slim = by_hand(channels // 32, channels // 4, channels, channels, side**2, halved**2)
            params += before * channels + 2 * channels + slim[0] + channels * 3 // 4 * channels * 4 + 8 * channels
            macs += before * channels * side**2 + slim[1] + channels * 3 * channels * halved**2
            if block == 0:
                params += before * channels * 4 + 8 * channels
                macs += before * channels * 4 * halved**2
            before, side = 4 * channels, halved
    own = cost_of("slimconv_resnet50")
    assert (own.params, own.macs) == (params + 2048 * 10 + 10, macs + 2048 * 10) == (14_722_550, 828_670_720)


def test_costs_of_vgg16_by_hand():
    params, macs, before = 3 * 64 * 9 + 64 + 128, 3 * 64 * 9 * 32**2, 64
    layers = [(64, 32), (128, 16), (128, 16), *[(256, 8)] * 3, *[(512, 4)] * 3, *[(512, 2)] * 3]
    squeezed = [2, 2, 3, 3, 6, 6, 6, 12, 12, 12, 12, 12]  # of 64, 48, 96, 96, 192, ... input channels
    for (channels, side), a in zip(layers, squeezed, strict=True):
        slim = by_hand(a, channels // 4, before, channels, side**2, side**2)
        params, macs, before = params + slim[0], macs + slim[1], channels * 3 // 4
    own = cost_of("slimconv_vgg16")
    assert (own.params, own.macs) == (params + 384 * 10 + 10, macs + 384 * 10) == (4_001_258, 88_958_016)


def cost_of(name):
    with torch.device("meta"):
        return cost.count(build(name, 10), cost.example((3, 32, 32)))


def test_costs_on_imagenet_are_the_published_ones():
    with torch.device("meta"):
        model = build("slimconv_resnet50", 1000)
        model.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        model.relu = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        own = cost.count(model, cost.example((3, 224, 224)))
    assert own.params / 1e6 == pytest.approx(16.76, abs=0.005)
    assert own.macs / 1e9 == pytest.approx(2.65, abs=0.005)


def test_what_is_replaced():
    with torch.device("meta"):
        vgg, resnet = build("slimconv_vgg16", 10), build("slimconv_resnet50", 10)
    assert [type(layer) for layer in vgg.features[:3]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert sum(isinstance(layer, SlimConv) for layer in vgg.modules()) == 12
    assert sum(isinstance(layer, nn.ReLU) for layer in vgg.features) == 13
    assert sum(isinstance(layer, SlimConv) for layer in resnet.modules()) == 16
    kernels = [layer for layer in resnet.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    assert len(kernels) == 1 + 2 * 16


@pytest.mark.parametrize("name", SLIM)
@pytest.mark.parametrize("width", [0.125, 0.1875, 1 / 64])
def test_any_width_trains_and_evaluates(name, width):
    torch.manual_seed(0)
    model = build(name, 5, width)
    images = torch.randn(4, 3, 32, 32)
    model(images).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert width < 0.125 or parameter.grad.any(), key
    with torch.no_grad():
        logits = model.double().eval()(images.double())
        torch.testing.assert_close(model(images[:1].double()), logits[:1])
    assert logits.shape == (4, 5)


@pytest.mark.parametrize("name", SLIM)
def test_weights_file_round_trip(name, tmp_path):
    model = randomise(build(name, 5, 0.1875))
    fgp.save(model, tmp_path / "model.safetensors")
    again = fgp.load(tmp_path / "model.safetensors").eval()
    assert again.fgp_spec == model.fgp_spec
    with torch.no_grad():
        images = torch.randn(1, 3, 32, 32)
        assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("name", SLIM)
def test_same_seed_same_network_and_no_relu_in_place(name):
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(build(name, 5, 0.125))
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in networks), strict=True))
    assert not any(module.inplace for module in networks[0].modules() if isinstance(module, nn.ReLU))


def test_training_batch_of_one_image_is_refused():
    with pytest.raises(FgpError, match=r"SlimConv.*at least two"):
        build("slimconv_vgg16", 5, 0.125)(torch.randn(1, 3, 32, 32))


def test_facts():
    facts = baselines.get("slimconv").METHOD
    assert (facts.kind, facts.tasks) == ("architecture", {"classification"})
    for dense, slim in facts.networks.items():
        assert NETWORKS[slim].replaces == dense
        assert NETWORKS[slim].task == NETWORKS[dense].task
        assert facts.meant_for("classification", dense)
    assert not facts.meant_for("segmentation", "segnet")
