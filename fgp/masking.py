"""Channels that count as removed while the network still has them: those who read them see zeros in their place."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fgp.surgery import Structure


class Masks:
    """Multiplies the channels of every prunable group, where other layers read them, by a gate.

    The masked network computes what the pruned one computes (see `fgp.surgery`), batch statistics of training aside, which are of
    channels and therefore the same. The gates are set on forward pre-hooks between `attach` and `detach`.

    Attributes:
        kept: {group leader: bool tensor (C,)}; set an entry to False and the channel counts as removed.
        gates: {group leader: float tensor (N, C)}, those of the last forward pass with `per_sample`; their gradient is, for each
            image, the sum over all readers and positions of a * dL/da.
    """

    def __init__(self, structure: Structure, model: nn.Module, per_sample: bool = False) -> None:
        """Prepare masks for the groups that may lose channels.

        Args:
            structure: of the network.
            model: the network that runs, or a copy of it with the same names.
            per_sample: make fresh gates that require a gradient in every forward pass with gradients on, one an image.
        """
        device = next(model.parameters()).device
        self.kept = {group.leader: torch.ones(group.channels, dtype=torch.bool, device=device) for group in structure.prunable}
        self.gates: dict[str, Tensor] = {}
        self._model = model
        self._per_sample = per_sample
        self._readers: dict[str, list[tuple[str, Tensor]]] = {}
        for leader in self.kept:
            for name, index in structure.consumers(leader).items():
                self._readers.setdefault(name, []).append((leader, index.to(device)))
        self._handles: list = []

    def attach(self) -> "Masks":
        """Start to mask."""
        modules = dict(self._model.named_modules())
        self._handles.append(self._model.register_forward_pre_hook(self._renew))
        for name in self._readers:
            self._handles.append(
                modules[name].register_forward_pre_hook(lambda module, args, name=name: (self._masked(module, name, args[0]),))
            )
        return self

    def detach(self) -> None:
        """Stop to mask."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def plan(self) -> dict[str, list[int]]:
        """Return the plan {group leader: kept indices} that the masks amount to."""
        return {leader: kept.nonzero().flatten().tolist() for leader, kept in self.kept.items()}

    def load(self, plan: Mapping[str, list[int]]) -> None:
        """Set the masks to a plan."""
        for leader, indices in plan.items():
            self.kept[leader][:] = False
            self.kept[leader][indices] = True

    def _renew(self, _: nn.Module, args: tuple) -> None:
        self.gates = {}
        if self._per_sample and torch.is_grad_enabled():
            images = args[0]
            for leader, kept in self.kept.items():
                self.gates[leader] = kept.to(images.dtype).expand(len(images), -1).clone().requires_grad_()

    def _masked(self, module: nn.Module, name: str, features: Tensor) -> Tensor:
        axis = features.ndim - 1 if isinstance(module, nn.Linear) else 1
        factor = features.new_ones(len(features) if self.gates else 1, features.shape[axis])
        for leader, index in self._readers[name]:
            gate = self.gates[leader] if self.gates else self.kept[leader][None]
            factor = factor.index_copy(1, index.flatten(), gate.repeat_interleave(index.shape[1], dim=1).to(factor.dtype))
        shape = [len(factor)] + [1] * (features.ndim - 1)
        shape[axis] = features.shape[axis]
        return features * factor.view(shape)
