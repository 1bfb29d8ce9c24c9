"""Stochastic gradient descent."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from fgp.train.recipe import Recipe


class SGD:
    """Computes what `torch.optim.SGD(..., fused=True)` does, bit for bit, without what that imports: a second of torch._dynamo.

    Attributes:
        rate: the learning rate of the next step, a number or a tensor on the device.
    """

    def __init__(self, parameters: Iterable[Tensor], recipe: Recipe, rate: float | Tensor) -> None:
        """Take the parameters, each once; weight decay and the kind of momentum are those of the recipe."""
        self._parameters = list(parameters)
        self._momenta: list[Tensor | None] = [None] * len(self._parameters)
        self._recipe, self.rate = recipe, rate

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters that have a gradient."""
        places = [place for place, parameter in enumerate(self._parameters) if parameter.grad is not None]
        recipe = self._recipe
        momenta = [self._momenta[place] for place in places] if recipe.momentum else []
        sgd(
            [self._parameters[place] for place in places],
            [self._parameters[place].grad for place in places],
            momenta,
            fused=True,
            lr=self.rate,
            momentum=recipe.momentum,
            dampening=0,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            maximize=False,
        )
        for place, momentum in zip(places, momenta, strict=False):
            self._momenta[place] = momentum

    def state_dict(self) -> dict[str, list[Tensor | None]]:
        """Return the momentum of every parameter, None before its first step."""
        return {"momenta": self._momenta}

    def load_state_dict(self, state: dict[str, list[Tensor | None]]) -> None:
        """Take over what `state_dict` returned."""
        pairs = zip(self._parameters, state["momenta"], strict=True)
        self._momenta = [None if momentum is None else momentum.to(parameter.device) for parameter, momentum in pairs]
