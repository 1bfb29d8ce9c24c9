"""Reading the feature maps of convolutions in one forward pass, and their gradients in the backward passes after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgp.errors import FgpError
from fgp.layers import Trail, WatchReLU

Reader = Callable[[str, Tensor], None]


class Capture:
    """Context of one forward pass of `model`.

    The feature of a layer is the output of its convolution, or, with `after_relu`, what the batch normalisation and the ReLU
    directly behind it make of that. It is read before anything can write into it.

    Where no gradient reaches a convolution's input, the graph is made to start at its output: nothing is computed below.

    Attributes:
        starts: the tensors where the graph starts, inputs of `torch.autograd.grad`.
        called: the layers called, in order.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Conv2d],
        on_feature: Reader,
        on_gradient: Reader | None,
        after_relu: bool = False,
    ) -> None:
        """Prepare to read `layers`, the convolutions of `model` by name.

        Args:
            model: the network.
            layers: what to read.
            on_feature: called with name and feature map (N, C, H, W), without history. With `after_relu` it is called again for
                the same layer as its channels pass the normalisation and the ReLU: the last call counts.
            on_gradient: called with name and gradient (N, C, H, W) in every later backward pass. None: no graph is built.
            after_relu: where to read.
        """
        self.starts: list[Tensor] = []
        self.called: list[str] = []
        self._model, self._layers = model, layers
        self._on_feature, self._on_gradient = on_feature, on_gradient
        self._trail = Trail() if after_relu else None
        self._gradient_hooks = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            handle = layer.register_forward_hook(lambda _, __, output, name=name: self._after_convolution(name, output))
            self._stack.callback(handle.remove)
        if self._trail:
            for module in self._model.modules():
                if isinstance(module, _BatchNorm):
                    handle = module.register_forward_hook(lambda _, inputs, output: self._pass_on(inputs[0], output))
                    self._stack.callback(handle.remove)
            self._stack.enter_context(WatchReLU(self._trail, lambda name, _, result: self._read(name, result)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._trail = None

    def _after_convolution(self, name: str, output: Tensor) -> Tensor:
        if name in self.called:
            raise FgpError(
                f"{name}: called more than once in a forward pass, so it has no single feature map; give each call a layer"
            )
        self.called.append(name)
        if self._on_gradient and not output.requires_grad:
            if not torch.is_grad_enabled():
                raise FgpError(f"{name}: the network turns gradients off around this layer; take out the torch.no_grad()")
            start = output.detach().requires_grad_()
            self.starts.append(start)
            output = start.clone()  # not a leaf: the network may write into it
        self._read(name, output)
        return output

    def _pass_on(self, source: Tensor, result: Tensor) -> None:
        if name := self._trail.follow(source):
            self._read(name, result)

    def _read(self, name: str, tensor: Tensor) -> None:
        if self._on_gradient:
            if name in self._gradient_hooks:
                self._gradient_hooks[name].remove()
            self._gradient_hooks[name] = tensor.register_hook(partial(self._on_gradient, name))
        with torch.no_grad():
            self._on_feature(name, tensor.detach())
        if self._trail:
            self._trail.mark(tensor, name)
