"""Taking channels out of single layers, in place."""

from torch import Tensor, nn


def sizes(module: nn.Module) -> dict[str, int]:
    """Return how many channels a layer has on its axes "out" and, where the two differ, "in"."""
    if isinstance(module, nn.Linear):
        return {"out": module.out_features, "in": module.in_features}
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return {"out": module.out_channels, "in": module.in_channels}
    if isinstance(module, nn.PReLU):
        return {"out": module.num_parameters}
    return {"out": module.num_features}


def parameters(module: nn.Module, out: int, into: int) -> int:
    """Return the number of parameters a layer has with `out` output and `into` input channels.

    A grouped convolution loses whole groups, so that the inputs of one filter stay as they are.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        return macs_per_position(module, out, into) + (out if module.bias is not None else 0)
    return sum(out if parameter.numel() > 1 else 1 for parameter in module.parameters(recurse=False))


def macs_per_position(module: nn.Module, out: int, into: int) -> int:
    """Return the multiply-adds of one application of a convolution or linear layer with `out` and `into` channels."""
    if isinstance(module, nn.Linear):
        return out * into
    kernel = module.kernel_size[0] * module.kernel_size[1]
    if module.groups > 1:
        return out * (module.in_channels // module.groups) * kernel
    return out * into * kernel


def keep(module: nn.Module, axis: str, kept: Tensor) -> None:
    """Keep only the channels `kept` (int64, sorted) of one axis of a layer.

    On a grouped convolution the axis "out" takes the matching input channels along; `kept` then names whole groups.
    """
    if isinstance(module, nn.Linear):
        _take(module, "weight", 0 if axis == "out" else 1, kept)
        setattr(module, f"{axis}_features", len(kept))
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        _keep_of_convolution(module, axis, kept)
    elif isinstance(module, nn.PReLU):
        if module.num_parameters > 1:
            _take(module, "weight", 0, kept)
            module.num_parameters = len(kept)
    else:
        for name in ("weight", "bias", "running_mean", "running_var"):
            _take(module, name, 0, kept)
        module.num_features = len(kept)
    if axis == "out" and isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        _take(module, "bias", 0, kept)


def _keep_of_convolution(conv: nn.Conv2d | nn.ConvTranspose2d, axis: str, kept: Tensor) -> None:
    _take(conv, "weight", int((axis == "in") != conv.transposed), kept)
    if conv.groups > 1:
        unit = conv.out_channels // conv.groups
        conv.groups = len(kept) // unit
        conv.in_channels = conv.out_channels = len(kept)
    elif axis == "out":
        conv.out_channels = len(kept)
    else:
        conv.in_channels = len(kept)


def _take(module: nn.Module, name: str, dim: int, kept: Tensor) -> None:
    old = getattr(module, name)
    if old is None:
        return
    new = old.detach().index_select(dim, kept.to(old.device))
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new)
