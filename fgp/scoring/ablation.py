"""AOFP: what ablating channels does to the outputs of the layers that read them, and a round of the search for the least harm."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgp.errors import FgpError
from fgp.layers import Trail, WatchReLU
from fgp.surgery import Structure

_NOTHING = 1e-12


class Round:
    """One round: random halves of the competing units are ablated, and the damage is credited to each unit of the half.

    A unit is a channel, or the channels of a group that go as one (`fgp.groups.Group.unit`).

    Attributes:
        competing: the units that take part, int64 (S,), on the CPU. The draws follow their order, not their numbers.
        units: of the group.
        ablations: how many halves were credited.
    """

    def __init__(self, competing: Sequence[int] | Tensor, units: int, device: torch.device | str = "cpu") -> None:
        """Start with `competing` out of `units`; damages are added up on `device`."""
        self.competing, self.units = torch.as_tensor(competing, dtype=torch.int64), units
        self.ablations = 0
        self._sums = torch.zeros(units, dtype=torch.float64, device=device)
        self._counts = torch.zeros_like(self._sums)

    def draw(self, generator: torch.Generator, count: int = 1) -> Tensor:
        """Return `count` random halves (rounded down), units as int64 (count, S // 2), on the device of the damages."""
        order = torch.rand(count, len(self.competing), generator=generator, dtype=torch.float64).argsort(1)
        return self.competing[order[:, : len(self.competing) // 2]].to(self._sums.device)

    def credit(self, ablated: Tensor, damages: Tensor) -> None:
        """Add the damage of each half, (M,), to every unit in it; `ablated` (M, S // 2) as drawn."""
        members = self._sums.new_zeros(len(ablated), self.units).scatter_(1, ablated, 1)
        self._sums += damages.to(self._sums) @ members
        self._counts += members.sum(0)
        self.ablations += len(ablated)

    def ranked(self) -> tuple[Tensor, Tensor]:
        """Return the competing units, int64 (S,), least mean damage first, and those means, float64 (S,), both on the CPU.

        A unit that was never ablated comes last, with an infinite mean.
        """
        means = torch.where(self._counts > 0, self._sums / self._counts, torch.inf).cpu()[self.competing]
        order = means.argsort(stable=True)
        return self.competing[order], means[order]

    def state_dict(self) -> dict:
        """Return everything, for `load`."""
        return {"competing": self.competing, "ablations": self.ablations, "sums": self._sums, "counts": self._counts}

    @classmethod
    def load(cls, state: dict, device: torch.device | str) -> Self:
        """Return the round that `state_dict` described."""
        found = cls(state["competing"], len(state["sums"]), device)
        found.ablations = state["ablations"]
        found._sums += state["sums"].to(device)
        found._counts += state["counts"].to(device)
        return found


class Ablations:
    """Measures the damage of ablations during forward passes of a network, which they do not change.

    The damage of ablating units of a group is the sum of (base - ablated)^2 divided by the sum of base^2, over the outputs of the
    layers that read the group, behind the batch normalisation and the ReLU that directly follow a layer, as far as there are any.
    An ablated unit is 0 where it is read. In training mode both are normalised by statistics of their own; no running statistics
    change.

    Attributes:
        chosen: {group leader: units to ablate, int64 (M, any), on the network's device}, M times: measured in the next passes.
    """

    def __init__(self, structure: Structure, model: nn.Module, images: Tensor, kept: Mapping[str, Tensor] | None = None) -> None:
        """Look where the channels of each prunable group are read.

        Args:
            structure: of the network.
            model: the network, left as it is.
            images: (N, C, H, W), one at least; the first is run.
            kept: {group leader: bool (C,)}, the channels not masked, see `fgp.masking.Masks`: a layer's masked outputs do not
                count. None: all count.

        Raises:
            FgpError: a layer that reads channels is neither a Conv2d nor a Linear.
        """
        self.chosen: dict[str, Tensor] = {}
        self._kept = kept or {}
        self._leader_of = {member: group.leader for group in structure.prunable for member in group.members}
        self._reads: dict[str, list[tuple[str, Tensor]]] = {}
        for group in structure.prunable:
            for name, index in structure.consumers(group.leader).items():
                positions = index.reshape(group.channels // group.unit, -1).to(images.device)
                self._reads.setdefault(name, []).append((group.leader, positions))
        for name in self._reads:
            if not isinstance(layer := model.get_submodule(name), nn.Conv2d | nn.Linear):
                kind = type(layer).__name__
                raise FgpError(f"{name}: AOFP ablates inputs of Conv2d and Linear, not of {kind}; choose another method")
        self._readers = _readers(model, images, self._reads)
        self._errors: dict[str, Tensor] = {}
        self._bases: dict[str, Tensor] = {}
        self._handles: list = []

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    def attach(self) -> Self:
        """Start to measure."""
        for name, reader in self._readers.items():
            hook = reader.layer.register_forward_hook(lambda _, args, output, name=name: self._measure(name, args[0], output))
            self._handles.append(hook)
        return self

    def detach(self) -> None:
        """Stop to measure."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def take(self) -> dict[str, Tensor]:
        """Return the damages of the last pass, {group leader: (M,)}, and forget them."""
        damages = {leader: error / self._bases[leader].clamp(min=_NOTHING) for leader, error in self._errors.items()}
        self._errors, self._bases = {}, {}
        return damages

    @torch.no_grad()
    def _measure(self, name: str, features: Tensor, output: Tensor) -> None:
        groups = [(leader, positions) for leader, positions in self._reads[name] if leader in self.chosen]
        if not groups:
            return
        reader, kept = self._readers[name], self._kept.get(self._leader_of.get(name))

        def size(values: Tensor) -> Tensor:
            return (values if kept is None else values * kept.to(values.dtype)[:, None, None]).square().sum().double()

        base = reader.behind(output)
        for leader, positions in groups:
            without = (reader.behind(output - reader.share(features, gone)) for gone in positions[self.chosen[leader]].flatten(1))
            self._errors[leader] = self._errors.get(leader, 0) + torch.stack([size(base - other) for other in without])
            self._bases[leader] = self._bases.get(leader, 0) + size(base)


@dataclass(frozen=True)
class _Reader:
    """A layer, and the batch normalisation and the ReLU that directly follow it."""

    layer: nn.Module
    norm: nn.Module | None
    relu: Callable[[Tensor], Tensor] | None

    def behind(self, output: Tensor) -> Tensor:
        """Return what follows makes of the layer's output."""
        norm = self.norm
        if norm is not None and norm.training:
            output = F.batch_norm(output, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        elif norm is not None:
            output = norm.forward(output)
        return output if self.relu is None else self.relu(output)

    def share(self, features: Tensor, positions: Tensor) -> Tensor:
        """Return what the input channels at `positions`, (any,), add to the layer's output."""
        weight = self.layer.weight[:, positions]
        if isinstance(self.layer, nn.Linear):
            return F.linear(features[..., positions], weight)
        return self.layer._conv_forward(features[:, positions], weight, None)


def _readers(model: nn.Module, images: Tensor, names: Mapping[str, object]) -> dict[str, _Reader]:
    """Find what follows the layers `names`: a copy runs one image, twice, in training mode so that auxiliary heads run too."""
    trail, norms, relus = Trail(), {}, {}

    def pass_on(norm: str, source: Tensor, result: Tensor) -> None:
        if name := trail.follow(source):
            norms[name] = model.get_submodule(norm)
            trail.mark(result, name)

    running = copy.deepcopy(model).train()
    for name, module in running.named_modules():
        if name in names:
            module.register_forward_hook(lambda _, __, output, name=name: trail.mark(output, name))
        elif isinstance(module, _BatchNorm):
            module.register_forward_hook(lambda _, args, output, name=name: pass_on(name, args[0], output))
    watch = WatchReLU(trail, lambda name, relu, _: relus.update({name: relu}))
    with torch.no_grad(), torch.random.fork_rng([images.device] if images.is_cuda else []), watch:
        running(images[:1].repeat(2, 1, 1, 1))
    return {name: _Reader(model.get_submodule(name), norms.get(name), relus.get(name)) for name in names}
