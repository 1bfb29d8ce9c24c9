import copy
import errno
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fgp
from fgp import cost, tensorfiles
from fgp.checkpoint import read_metadata
from fgp.errors import FgpError
from fgp.models import NAMES, build

SIZES = {"vgg16": (32, 32), "resnet50": (32, 32), "segnet": (48, 64), "deeplabv3": (48, 64)}


def tiny(name="vgg16", classes=5):
    """A small network whose BN statistics and biases are not the initial ones."""
    torch.manual_seed(0)
    model = build(name, classes, 0.125)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.ndim == 1:
            tensor.data.uniform_(0.5, 1)
    return model


def keep(module, rows=None, columns=None):
    """Literal pruning by hand: index the tensors, set the attributes."""
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.ndim == 0:
            continue
        new = tensor.detach().clone()
        if rows is not None:
            new = new[rows]
        if columns is not None and tensor.ndim > 1:
            new = new[:, columns]
        if isinstance(tensor, nn.Parameter):
            setattr(module, key, nn.Parameter(new))
        else:
            setattr(module, key, new)
    if isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = len(module.running_mean)
    else:
        module.out_features, module.in_features = module.weight.shape


def prune_vgg(model, plan):
    """Prune a Sequential of conv, bn, relu by hand."""
    for name, kept in plan.items():
        index = int(name.split(".")[1])
        keep(model.features[index], rows=kept)
        keep(model.features[index + 1], rows=kept)
        following = [m for m in model.features[index + 1 :] if isinstance(m, nn.Conv2d)]
        keep(following[0] if following else model.classifier, columns=kept)
    return model


def same(one, other, size=(32, 32)):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())
    assert one.state_dict().keys() == state.keys()
    with torch.no_grad():
        outputs = [copy.deepcopy(model).eval()(images) for model in (one, other)]
    assert outputs[0].isfinite().all()
    assert outputs[0].std() > 0
    assert torch.equal(*outputs)
    attributes = ("in_channels", "out_channels", "groups", "num_features", "in_features", "out_features")
    for a, b in zip(one.modules(), other.modules(), strict=True):
        assert [getattr(a, key, None) for key in attributes] == [getattr(b, key, None) for key in attributes]
    return True


@pytest.mark.parametrize("name", SIZES)
def test_dense_round_trip(name, tmp_path):
    model = tiny(name)
    fgp.save(model, tmp_path / "a.safetensors", provenance={"command": "fgp train"})
    loaded = fgp.load(tmp_path / "a.safetensors")
    assert same(model, loaded, SIZES[name])
    assert loaded.fgp_spec == model.fgp_spec
    assert loaded.fgp_plan is None
    assert loaded.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    metadata = read_metadata(tmp_path / "a.safetensors")
    assert metadata["provenance"] == {"command": "fgp train"}
    assert metadata["format"] == 1


@pytest.mark.parametrize("name", ["tv_deeplabv3", "smp_deeplabv3"])
def test_networks_of_other_libraries(name, tmp_path):
    model = build(name, 3)
    fgp.save(model, tmp_path / "a.safetensors")
    loaded = fgp.load(tmp_path / "a.safetensors")
    state = loaded.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])


def test_pruned_by_hand(tmp_path):
    plan = {"features.0": [0, 2, 5], "features.17": [1], "features.40": [3, 4, 60]}
    model = prune_vgg(tiny(), plan)
    fgp.save(model, tmp_path / "a.safetensors", plan=plan)
    loaded = fgp.load(tmp_path / "a.safetensors")
    assert same(model, loaded)
    assert loaded.fgp_plan == plan
    assert loaded.features[0].out_channels == 3
    assert loaded.classifier.in_features == 3
    assert cost.count(loaded, cost.example((3, 32, 32))) == cost.count(model, cost.example((3, 32, 32)))


def test_plan_stays_with_a_loaded_network(tmp_path):
    plan = {"features.0": [0, 2, 5]}
    fgp.save(prune_vgg(tiny(), plan), tmp_path / "pruned.safetensors", plan=plan)
    fgp.save(fgp.load(tmp_path / "pruned.safetensors"), tmp_path / "tuned.safetensors")
    assert read_metadata(tmp_path / "tuned.safetensors")["plan"] == plan


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_pruned_by_surgery(name, tied, tmp_path):
    surgery = pytest.importorskip("fgp.surgery")
    model, example = tiny(name).eval(), torch.zeros(1, 3, *SIZES[name])
    generator = torch.Generator().manual_seed(1)
    scores = {n: torch.rand(m.out_channels, generator=generator) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    plan = {}
    for layer, values in surgery.prunable(scores, model, example, tied=tied).items():
        plan[layer] = sorted(values.topk(max(1, len(values) // 2)).indices.tolist())
    pruned = surgery.prune(model, plan, example, tied=tied)
    fgp.save(pruned, tmp_path / "a.safetensors", plan=plan)
    loaded = fgp.load(tmp_path / "a.safetensors")
    assert same(pruned, loaded, SIZES[name])
    assert loaded.fgp_plan == plan
    assert cost.count(loaded, example).params < cost.count(model, example).params


class Own(nn.Module):
    """A user's network: depthwise and grouped convolutions, a transposed one, a buffer of its own, BN without parameters."""

    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width, affine=False)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.grouped = nn.Conv2d(width, 8, 1, groups=2)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False)
        self.bare = nn.BatchNorm2d(6, affine=False, track_running_stats=False)
        self.register_buffer("scale", torch.tensor([2.0, 3.0]))
        self.linear = nn.Linear(6, 4, bias=False)

    def forward(self, x):
        x = self.grouped(self.depthwise(self.bn(self.stem(x))))
        x = self.bare(self.up(x)).mean((2, 3))
        return self.linear(x) * self.scale.sum()


def prune_own(model):
    kept = [0, 3, 4, 7]
    for module in (model.stem, model.bn, model.depthwise):
        keep(module, rows=kept)
    model.depthwise.groups = model.depthwise.in_channels = 4
    keep(model.grouped, columns=[0, 2])
    return model


def test_own_network(tmp_path):
    model = prune_own(Own())
    fgp.save(model, tmp_path / "a.safetensors", plan={"stem": [0, 3, 4, 7]})
    dense = Own().eval()
    before = copy.deepcopy(dense.state_dict())
    loaded = fgp.load(tmp_path / "a.safetensors", into=dense)
    assert same(model, loaded)
    assert loaded.fgp_spec is None
    assert loaded.fgp_plan == {"stem": [0, 3, 4, 7]}
    assert not loaded.training
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())
    assert dense.stem.out_channels == 8
    assert not hasattr(dense, "fgp_plan")


def test_own_network_group_pruned_away(tmp_path):
    """A whole group of a grouped convolution gone: the weight's second dimension alone does not tell."""
    model = Own()
    keep(model.grouped, rows=[4, 5, 6, 7])
    model.grouped.groups = 1
    model.grouped.in_channels = 4
    for module in (model.stem, model.bn, model.depthwise):
        keep(module, rows=[4, 5, 6, 7])
    model.depthwise.groups = model.depthwise.in_channels = 4
    model.up.weight = nn.Parameter(model.up.weight.detach()[[4, 5, 6, 7]])
    model.up.in_channels = 4
    fgp.save(model, tmp_path / "a.safetensors")
    assert same(model, fgp.load(tmp_path / "a.safetensors", into=Own()))


def test_own_network_needs_into(tmp_path):
    fgp.save(Own(), tmp_path / "a.safetensors")
    with pytest.raises(FgpError, match=r"a\.safetensors: .*into"):
        fgp.load(tmp_path / "a.safetensors")


def test_shared_and_strided_tensors(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)).to(memory_format=torch.channels_last)
    model[1].weight = model[0].weight
    fgp.save(model, tmp_path / "a.safetensors")
    loaded = fgp.load(tmp_path / "a.safetensors", into=model)
    assert torch.equal(loaded[1].weight, model[0].weight)
    assert loaded[1].weight is loaded[0].weight


def test_loaded_network_trains_without_touching_the_file(tmp_path):
    fgp.save(tiny(), tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in fgp.load(tmp_path / "a.safetensors").parameters():
            parameter.zero_()
    assert (tmp_path / "a.safetensors").read_bytes() == content
    assert same(tiny(), fgp.load(tmp_path / "a.safetensors"))


def rewrite(path, tensors=None, **changes):
    """Change tensors and metadata of a weights file."""
    own, metadata = tensorfiles.read(path)
    tensorfiles.write(path, own | (tensors or {}), metadata | changes)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    fgp.save(tiny(), path)
    return path


def refused(path, match, **options):
    with pytest.raises(FgpError, match=match) as caught:
        fgp.load(path, **options)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "not a file")


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated(weights, length):
    content = weights.read_bytes()
    weights.write_bytes(content[:length])
    refused(weights, "not a weights file of fgp, or incomplete")


def test_not_safetensors(weights):
    torch.save(tiny().state_dict(), weights)
    refused(weights, "not a weights file of fgp, or incomplete: no whole safetensors file")


@pytest.mark.parametrize(
    "metadata", [None, {"other": "x"}, {"fgp": "{"}, {"fgp": "[]"}, {"fgp": "{}"}, {"fgp": '{"method": "l1", "seconds": 1}'}]
)
def test_foreign_safetensors(weights, metadata):
    save_file({"a": torch.zeros(3)}, weights, metadata)
    refused(weights, "not a weights file of fgp")


@pytest.mark.parametrize(("key", "value"), [("groups", 0), ("plan", [1, 0])])
def test_illegal_metadata(weights, key, value):
    rewrite(weights, **{key: {"features.0": value}})
    refused(weights, f"metadata {key}.features.0: .*not a weights file of this version")


def test_newer_format(weights):
    rewrite(weights, format=2)
    refused(weights, "format 2")


def test_unknown_network(weights):
    rewrite(weights, spec={"name": "vgg61", "num_classes": 5, "width": 0.125, "task": "classification"})
    refused(weights, "'vgg61' is not known; use vgg16")


def test_another_network(weights):
    rewrite(weights, spec=build("resnet50", 5, 0.125).fgp_spec.to_dict())
    refused(weights, r"missing \(bn1.bias, \.\.\.\) and .* unexpected .*another network")
    refused(weights, "another network", into=Own())


@pytest.mark.parametrize(
    ("key", "shape", "match"),
    [
        ("features.0.weight", (8, 27), "another network"),
        ("features.0.weight", (8, 3, 5, 5), "another network"),
        ("features.0.weight", (9, 3, 3, 3), "another network"),
        ("features.0.weight", (0, 3, 3, 3), "another network"),
        ("features.0.bias", (7,), "features.0 contradict"),
        ("features.1.running_var", (7,), "features.1 contradict"),
        ("classifier.bias", (4,), "classifier contradict"),
        ("features.1.num_batches_tracked", (1,), "another network"),
    ],
)
def test_impossible_shapes(weights, key, shape, match):
    rewrite(weights, {key: torch.zeros(shape)})
    refused(weights, match)


def test_wider_network(weights):
    rewrite(weights, spec=build("vgg16", 5, 0.0625).fgp_spec.to_dict())
    refused(weights, "another network")


def test_layers_that_cannot_shrink(tmp_path):
    fgp.save(nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(3)), tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", r"1\.weight", into=nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4)))


def test_reserved_and_unwritable_extras(tmp_path):
    for name in ("spec", "digest", "seal"):
        with pytest.raises(FgpError, match=f"{name}: reserved"):
            fgp.save(tiny(), tmp_path / "a.safetensors", **{name: {}})
    with pytest.raises(TypeError):
        fgp.save(tiny(), tmp_path / "a.safetensors", extra=torch.zeros(1))
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file(weights, monkeypatch):
    content = weights.read_bytes()

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(FgpError, match=r"cannot be written \(No space left on device\); free some space"):
        fgp.save(tiny(), weights)
    assert weights.read_bytes() == content
    assert list(weights.parent.iterdir()) == [weights]


def test_metadata_without_torch(weights):
    code = (
        "import sys; from fgp.checkpoint import read_metadata as r; print(r(sys.argv[1])['spec']['name'], 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, weights], check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["vgg16", "False"]


def test_every_name_has_a_round_trip():
    assert set(NAMES) == {*SIZES, "tv_deeplabv3", "smp_deeplabv3", "slimconv_vgg16", "slimconv_resnet50"}
