"""Which channels of a network have to be removed together: the only module that touches torch-pruning.

A thin wrapper of `DependencyGraph` of torch-pruning 1.6.1 (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning").
"""

import contextlib
import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fgp.errors import FgpError
from fgp.shapes import WithoutNorms


@contextlib.contextmanager
def _without_timm() -> Iterator[None]:
    """Make `import timm` fail meanwhile: torch-pruning imports it (a second) only to count the FLOPs of transformers."""
    absent = "timm" not in sys.modules
    if absent:
        sys.modules["timm"] = None
    try:
        yield
    finally:
        if absent:
            del sys.modules["timm"]


with _without_timm():
    from torch_pruning import ops
    from torch_pruning.dependency import DependencyGraph, Node
    from torch_pruning.pruner import function

_OP = ops.OPTYPE
_PASSED_THROUGH = {_OP.CONCAT, _OP.SPLIT, _OP.SLICE, _OP.RESHAPE, _OP.ELEMENTWISE}
_SLICEABLE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.PReLU)


@dataclass(frozen=True)
class Touched:
    """What the removal of a convolution's output channels takes from one axis of one module.

    Attributes:
        module: its name.
        axis: "out" (filters, BN features, bias) or "in" (input channels of the weights).
        index: tensor (C, m), int64: the m positions on that axis that go with each of the convolution's C output channels.
    """

    module: str
    axis: str
    index: Tensor


@dataclass(frozen=True)
class Outputs:
    """Where the output channels of one convolution go.

    Attributes:
        touched: one entry a module and axis, the convolution itself included.
        summed: they take part in a sum of two feature maps.
        whole: why they must all stay, or None.
    """

    touched: tuple[Touched, ...]
    summed: bool
    whole: str | None


@dataclass(frozen=True)
class Trace:
    """The shape of a network, found without arithmetic.

    Attributes:
        outputs: for each Conv2d that the forward pass reaches.
        positions: for each Conv2d, ConvTranspose2d and Linear, how often its weights are applied to one example in eval mode
            (output positions; for a transposed convolution input positions).
    """

    outputs: dict[str, Outputs]
    positions: dict[str, int]


def skeleton(model: nn.Module) -> nn.Module:
    """Return a copy on the meta device, all parameters requiring a gradient; no tensor is copied on the way."""
    memo = {id(old): nn.Parameter(torch.empty_like(old, device="meta")) for old in model.parameters()}
    memo |= {id(old): torch.empty_like(old, device="meta") for old in model.buffers()}
    return copy.deepcopy(model, memo)


def flatten(output: object) -> list[Tensor]:
    """Return the tensors in a forward pass's result: a tensor, or dictionaries, tuples and lists of them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = output.values()
    elif not isinstance(output, (tuple, list)):
        return []
    return [tensor for part in output for tensor in flatten(part)]


def set_branches(model: nn.Module) -> None:
    """Put a network in training mode but its layers in eval mode, so that auxiliary heads run and statistics stay."""
    for module in model.modules():
        module.training = any(True for _ in module.children())


@torch.inference_mode(False)
def trace(model: nn.Module, example_input: Tensor) -> Trace:
    """Run a copy of `model` on the meta device and find out which channels are coupled.

    Args:
        model: any network; it is left alone.
        example_input: tensor (N, C, H, W) of which only shape and dtype are used.

    Raises:
        FgpError: the forward pass fails.
    """
    shell = skeleton(model)
    shell.eval()
    shape = example_input[:1].to("meta")
    positions, calls = _count(shell, shape)
    weighted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    if any(isinstance(module, weighted) and name not in calls for name, module in shell.named_modules()):
        set_branches(shell)
        _, calls = _count(shell, shape)
    reused = {name for name, count in calls.items() if count > 1}
    outputs = _outputs(shell, shape, reused)
    idle = "it runs in training mode only, where nothing says what its channels are worth"
    return Trace({name: found if name in positions else replace(found, whole=idle) for name, found in outputs.items()}, positions)


def _count(shell: nn.Module, shape: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    positions: dict[str, int] = {}
    calls: dict[str, int] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            count = output.numel() // module.out_features
        else:
            count = (inputs[0] if module.transposed else output)[0, 0].numel()
        positions[name] = positions.get(name, 0) + count
        calls[name] = calls.get(name, 0) + 1

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: record(name, module, inputs, output))
        for name, module in shell.named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    ]
    try:
        with torch.no_grad(), WithoutNorms(), _CoupledUnpooling():
            shell(shape)
    except Exception as error:
        raise FgpError(
            f"the network does not run on an input of shape {tuple(shape.shape)} ({type(error).__name__}: {error}); give the "
            "network's real input shape, and a forward pass that takes one tensor and does not depend on values"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return positions, calls


class _CoupledUnpooling(TorchFunctionMode):
    """Replace max-unpooling by an operation that autograd sees: the values times the pooled features, enlarged.

    The indices that couple an unpooling with its pooling carry no gradient, so the graph would miss that coupling.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pooled: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.max_unpool2d:
            return self._unpool(*args, **kwargs)
        result = func(*args, **kwargs)
        if func is F.max_pool2d_with_indices:
            pooled, indices = result
            self._pooled[id(indices)] = pooled, indices
        return result

    def _unpool(
        self, values: Tensor, indices: Tensor, kernel_size: int | tuple, stride: int | tuple | None = None,
        padding: int | tuple = 0, output_size: list[int] | None = None,
    ) -> Tensor:  # fmt: skip
        if output_size is None:
            kernel, step, pad = (
                torch.broadcast_to(torch.tensor(v), (2,)).tolist() for v in (kernel_size, stride or kernel_size, padding)
            )
            output_size = [(side - 1) * s - 2 * p + k for side, s, p, k in zip(values.shape[-2:], step, pad, kernel, strict=True)]
        if id(indices) in self._pooled:
            values = values * self._pooled[id(indices)][0]
        return F.interpolate(values, size=tuple(output_size[-2:]))


def _outputs(shell: nn.Module, shape: Tensor, reused: set[str]) -> dict[str, Outputs]:
    source = shape.clone().requires_grad_(True) * 1

    def forward(module: nn.Module, example: Tensor) -> list[Tensor]:
        with WithoutNorms(), _CoupledUnpooling():
            return [tensor.clone() for tensor in flatten(module(example)) if tensor.grad_fn is not None]

    shell.eval = lambda: shell  # build_dependency would switch the auxiliary heads off
    try:
        with torch.enable_grad():
            graph = DependencyGraph().build_dependency(shell, source, forward_fn=forward, verbose=False)
            names = {module: name for name, module in shell.named_modules()}
            return {
                name: _follow(graph, names, module, reused, source.grad_fn)
                for name, module in shell.named_modules()
                if isinstance(module, nn.Conv2d) and module in graph.module2node
            }
    except Exception as error:
        raise FgpError(
            "torch-pruning cannot follow the channels of this network, for example through a channel shuffle "
            f"({type(error).__name__}: {error}); prune a network of convolutions, linear layers, batch norms, poolings, "
            "sums, products and concatenations"
        ) from error


def _follow(graph: DependencyGraph, names: dict, conv: nn.Conv2d, reused: set[str], source: object) -> Outputs:
    """Follow all output channels of `conv` through the graph."""
    channels = conv.out_channels
    whole = "its weights are used more than once in a forward pass" if names[conv] in reused else None
    summed = False
    touched = []
    group = graph.get_pruning_group(conv, function.prune_conv_out_channels, list(range(channels)))
    for item in group:
        node = item.dep.target
        if node.type == _OP.OUTPUT:
            whole = "its channels are the network's output"
        elif node.grad_fn is source:
            whole = "its channels are tied to those of the network's input"
        elif node.type in _PASSED_THROUGH:
            summed |= _is_sum(node)
        elif not isinstance(node.module, _SLICEABLE):
            whole = f"its channels pass through {type(node.module).__name__}, which cannot lose single channels"
        else:
            axis = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            index = _index(item.idxs, item.root_idxs, channels)
            if index is None:
                whole = whole or f"{names[node.module]} sees its channels unequally often"
            else:
                touched.append(Touched(names[node.module], axis, index))
    return Outputs(tuple(touched), summed, whole)


def _is_sum(node: Node) -> bool:
    """Tell whether an element-wise operation adds feature maps; a product (gating, unpooling) does not make a residual stream."""
    return len(node.inputs) > 1 and isinstance(node.module, ops._ElementWiseOp) and "mul" not in node.module._grad_fn.lower()


def _index(targets: list[int], roots: list[int], channels: int) -> Tensor | None:
    table: list[list[int]] = [[] for _ in range(channels)]
    for target, root in zip(targets, roots, strict=True):
        if root is None:
            return None
        table[root].append(target)
    if len({len(row) for row in table}) != 1:
        return None
    return torch.tensor(table)
