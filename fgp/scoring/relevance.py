"""Layer-wise relevance propagation (LRP): how much each channel contributed to one logit.

Relevance starts as 1 at the logit and is handed back from layer to layer. Where z = sum over i of x_i w_i has relevance R,

    R_i = R * (ALPHA * (x_i w_i)+ / sum of (x w)+  -  BETA * (x_i w_i)- / sum of (x w)-),    ALPHA = 2, BETA = ALPHA - 1

with + and - the positive and the negative contributions. An input with several readers gets the sum. Nothing is created or lost
on the way, but for outputs that have no contribution at all, only bias and normalisation: their relevance is dropped.

| operation | rule |
| --- | --- |
| convolution, linear | as above; the bias gets nothing; contributions that are all of one sign take the whole of R |
| average pool, mean | as above with w = 1 |
| batch normalisation, ReLU, product with a constant | R passes unchanged, whatever scale and shift |
| max-pool | the winner takes all |
| sum of branches | in proportion to the signed terms, R * x / (x + y) |
| reshape, concatenation, slice, pad, dropout | R goes where the value came from |

The rules take the place of the operations' derivatives while the network runs, so that autograd does the walk.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fgp.errors import FgpError
from fgp.scoring.checks import check_model, differentiable, place
from fgp.scoring.logits import check_labels, pick_logits

ALPHA = 2
BETA = ALPHA - 1
NOISE = 100  # units of rounding, relative to the image's largest: sums below are no contribution

_WEIGHTED = {"conv2d", "linear"}
_AVERAGE = {"avg_pool2d", "adaptive_avg_pool2d", "mean"}
_PASSED = {"batch_norm", "relu", "relu_", "relu6", "hardtanh", "mul", "mul_", "div", "div_"}
_ADDED = {"add", "add_"}
_MOVED = {
    "__getitem__", "adaptive_max_pool2d", "cat", "chunk", "clone", "contiguous", "dropout", "dropout2d", "flatten", "max_pool2d",
    "max_pool2d_with_indices", "pad", "permute", "reshape", "split", "squeeze", "transpose", "unsqueeze", "view",
}  # fmt: skip


def channel_relevances(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Propagate relevance 1 from the logit of each image's label to the convolutions.

    Reads a channel at the convolution's output; behind the normalisation and the ReLU it is the same. Costs five to ten forward
    passes.

    Args:
        model: a classification network in eval mode, of the operations above; it is left as it was.
        images: (N, 3, H, W), normalised floats.
        labels: int64 (N,).

    Returns:
        The logits (N, D), and for each Conv2d that they depend on the mean relevance over the positions of each channel, (N, C).

    Raises:
        FgpError: the network has an operation without a rule, or reads what it changed in place (the module is named); it has no
            logits (N, D); the labels do not fit; relevance is NaN or infinite.
    """
    check_model(model)
    found: dict[str, Tensor] = {}
    with differentiable(model):
        with _Propagation(model, found) as propagation:
            logits = pick_logits(model(place(images, model)), None)
        if logits.shape[2:].numel() > 1:
            raise FgpError(f"the network returns logits {tuple(logits.shape)}; relevance starts at (N, D), in classification")
        target = torch.zeros_like(logits).scatter_(1, check_labels(labels, logits)[:, None], 1)
        torch.autograd.grad(logits, propagation.starts, target, allow_unused=True)
    for name, values in found.items():
        if not values.isfinite().all():
            raise FgpError(f"{name}: a relevance is NaN or infinite; check the weights and the normalisation of the images")
    return logits.detach().flatten(1), found


class _Propagation(TorchFunctionMode):
    """Replaces the derivatives of what `model` does by the rules, and puts the mean relevance of its convolutions into `found`.

    Attributes:
        starts: outputs of the first layers, where the graph starts.
    """

    def __init__(self, model: nn.Module, found: dict[str, Tensor]) -> None:
        super().__init__()
        self.starts: list[Tensor] = []
        self._model, self._found = model, found
        self._within: list[str] = []
        self._overwritten: dict[int, Tensor] = {}  # by address; kept, so that no other tensor gets it
        self._hooks = ExitStack()

    def __enter__(self) -> "_Propagation":
        for name, module in self._model.named_modules():
            enter = module.register_forward_pre_hook(lambda _, __, name=name: self._within.append(name), prepend=True)
            leave = module.register_forward_hook(self._leave)
            self._hooks.callback(enter.remove)
            self._hooks.callback(leave.remove)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.close()
        super().__exit__(*error)

    def _leave(self, module: nn.Module, _: tuple, output: Tensor) -> None:
        name = self._within.pop()
        if isinstance(module, nn.Conv2d):
            output.register_hook(lambda relevance: self._read(name, relevance))

    def _read(self, name: str, relevance: Tensor) -> None:
        self._found[name] = self._found.get(name, 0) + relevance.mean((2, 3))

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = dict(kwargs or {})
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        name = getattr(func, "__name__", str(func))
        self._refuse_overwritten(args)
        if name in _WEIGHTED:
            return self._weighted(func, *args, **kwargs)
        carriers = [value for value in args if _carries(value)]
        if name in _AVERAGE and carriers:
            return _by(_average(lambda x: func(x, *args[1:], **kwargs)), func(*args, **kwargs), args[0])
        if name in _PASSED | _ADDED and carriers:
            value = func(*(arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)
            if name.endswith("_") or kwargs.get("inplace"):
                self._overwritten[args[0].untyped_storage().data_ptr()] = args[0]
            if name in _ADDED and len(carriers) == 2 and not kwargs:
                return _by(_shared, value, *carriers)
            if len(carriers) == 1 and value.shape == carriers[0].shape:
                return _by(_passed, value, *carriers)
            self._refuse(name)
        result = func(*args, **kwargs)
        if name not in _MOVED and any(map(_carries, result if isinstance(result, tuple | list) else [result])):
            self._refuse(name)
        return result

    def _weighted(self, func: Callable, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest, **named) -> Tensor:
        value = func(input, weight, bias, *rest, **named)
        if _carries(input):
            return _by(_alpha_beta(lambda x, part: func(x, part, None, *rest, **named), weight), value, input)
        self.starts.append(value.detach().requires_grad_())
        return self.starts[-1]

    def _refuse_overwritten(self, args: tuple) -> None:
        """Refuse to read a tensor that an operation in place was to change: what it makes is another tensor here."""
        for value in args:
            for tensor in value if isinstance(value, tuple | list) else [value]:
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() in self._overwritten:
                    raise FgpError(
                        f"{self._where()}: reads a tensor that was changed in place; relevance propagation needs the result "
                        "assigned, x = x.relu_() and not x.relu_() alone; or choose another method"
                    )

    def _where(self) -> str:
        return self._within[-1] or type(self._model).__name__

    def _refuse(self, operation: str) -> None:
        raise FgpError(f"{self._where()}: relevance propagation has no rule for the operation {operation}; choose another method")


def _carries(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


class _Rule(torch.autograd.Function):
    """Hands a value on, and its relevance back by a rule (relevance, *inputs) -> relevance of each input."""

    @staticmethod
    def forward(ctx, rule: Callable, value: Tensor, *inputs: Tensor) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(*inputs)
        return value.detach()

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple:
        return None, None, *ctx.rule(relevance, *ctx.saved_tensors)


def _by(rule: Callable[..., Iterable[Tensor]], value: Tensor, *inputs: Tensor) -> Tensor:
    return _Rule.apply(rule, value, *inputs)


def _passed(relevance: Tensor, *_: Tensor) -> tuple[Tensor]:
    return (relevance,)


def _shared(relevance: Tensor, *terms: Tensor) -> list[Tensor]:
    total = sum(terms)
    share = torch.where(total.abs() > _noise(total), relevance / total, 0)
    return [(term * share).sum_to_size(term.shape) for term in terms]


def _average(operator: Callable[[Tensor], Tensor]) -> Callable:
    return lambda relevance, x: _propagate(relevance, x, operator, lambda x: 0 * operator(x))


def _alpha_beta(operator: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> Callable:
    def rule(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
        positive, negative = weight.detach().clamp(min=0), weight.detach().clamp(max=0)
        return _propagate(relevance, x, lambda x: operator(x, positive), lambda x: operator(x, negative))

    return rule


def _propagate(relevance: Tensor, x: Tensor, positive: Callable, negative: Callable) -> tuple[Tensor]:
    """Apply the alpha-beta rule to a linear operation, split into the parts of positive and of negative weights."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        if (x >= 0).all():
            plus, minus = positive(x), negative(x)
        else:
            above, below = x.clamp(min=0), x.clamp(max=0)
            plus, minus = positive(above) + negative(below), positive(below) + negative(above)
    with torch.no_grad():
        noise = _noise(plus - minus)
        has_plus, has_minus = plus > noise, minus < -noise
        share_plus = torch.where(has_plus, torch.where(has_minus, ALPHA * relevance, relevance) / plus, 0)
        share_minus = torch.where(has_minus, torch.where(has_plus, -BETA * relevance, relevance) / minus, 0)
    (weights,) = torch.autograd.grad((plus, minus), x, (share_plus, share_minus))
    return (x.detach() * weights,)


def _noise(total: Tensor) -> Tensor:
    """Return the size up to which an image's sums may be rounding."""
    largest = total.detach().abs().flatten(1).amax(1).view(-1, *[1] * (total.ndim - 1))
    return NOISE * torch.finfo(total.dtype).eps * largest
