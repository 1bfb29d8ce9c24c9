"""Running a part of a network: what each layer reads, up to a layer, without what lies before a layer."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from fgp.errors import FgpError


def layer_inputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return {convolution or linear layer: what it reads}, in the order of the calls; `network` is in eval mode.

    Raises:
        FgpError: a layer is called twice.
    """
    inputs: dict[str, Tensor] = {}

    def read(name: str, tensor: Tensor) -> None:
        if name in inputs:
            raise FgpError(f"{name}: called more than once in a forward pass, so it has no single input; give each call a layer")
        inputs[name] = tensor

    with ExitStack() as stack, torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                handle = module.register_forward_pre_hook(lambda _, args, name=name: read(name, args[0]))
                stack.callback(handle.remove)
        network(images)
    return inputs


def forward_to(
    network: nn.Module, images: Tensor, position: str | None, layers: Iterable[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run `network` until module `position` is called; return what it would read, and the outputs of `layers` by name.

    With `position` None the whole network runs and its output takes that place.
    """
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in layers:  # a copy: the network may write into the output
            handle = network.get_submodule(name).register_forward_hook(
                lambda _, __, output, name=name: outputs.update({name: output.clone()})
            )
            stack.callback(handle.remove)
        if position:
            stack.callback(network.get_submodule(position).register_forward_pre_hook(_stop).remove)
        try:
            return network(images), outputs
        except _Reached as reached:
            return reached.maps, outputs


@contextmanager
def replayed(network: nn.Module, images: Tensor, layer: str) -> Iterator[None]:
    """Let the convolutions that run before `layer` give back what they give for `images`, without computing it again."""
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        _, outputs = forward_to(network, images, layer, convolutions)
    with ExitStack() as stack:
        for name, output in outputs.items():
            module = network.get_submodule(name)
            module.forward = lambda _, output=output: output.clone()
            stack.callback(delattr, module, "forward")
        yield


class _Reached(Exception):  # noqa: N818
    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps


def _stop(_: nn.Module, args: tuple) -> None:
    raise _Reached(args[0])
