"""Discrimination-aware selection: classifiers on inner feature maps, and channels admitted one after another by gradient."""

import copy
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgp.errors import FgpError
from fgp.partial import layer_inputs, replayed
from fgp.scoring.norms import with_output_layers
from fgp.surgery import Scores, Structure
from fgp.train.admission import Objective, Reader, Settings, admission_order
from fgp.train.hooks import Hook, Run
from fgp.train.loss import Loss


class Head(nn.Module):
    """Classifier of a feature map: maps (N, C, H, W) to logits W^T avgpool(ReLU(BN(maps))) + b, (N, outputs)."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(channels), nn.Linear(channels, outputs)
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Return logits."""
        return self.linear(self.norm(maps).relu().mean((2, 3)))


class Discrimination(Hook):
    """Fine-tunes in stages, stage p with the loss of head p added, and orders the channels of a stage's layers at its end.

    The last stage trains by the network's own loss alone. The SGD steps are divided evenly over the stages. The network that
    `begin` meets is the dense one, whose feature maps the selection reconstructs.

    Attributes:
        structure: of the network, from `begin` on.
        positions: names of the convolutions whose inputs are classified, one a stage but the last.
        heads: their classifiers.
        stage_of: {group leader: stage at whose end its channels are ordered}.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the settings."""
        self.settings = settings
        self.structure: Structure
        self.positions: list[str] = []
        self.heads = nn.ModuleList()
        self.stage_of: dict[str, int] = {}
        self._stage = self._steps = 0
        self._ranks: Scores = {}

    def begin(self, run: Run) -> None:
        """Keep a frozen copy of the network, choose the positions and make the heads, random under the run's seed.

        Raises:
            FgpError: the task is no classification.
        """
        if run.task != "classification":
            raise FgpError(f"discrimination-aware pruning classifies whole images, the task is {run.task}; choose another method")
        self._run, self._maps, self._handle = run, None, None
        self._dense = _frozen(run.model)
        self._images, self._labels = spread(run.batches, self.settings.images)
        self.structure = Structure(run.model, self._images[:1], tied=self.settings.residual)
        inputs = layer_inputs(self._dense, self._images[:1])
        self.positions = loss_positions(self.structure, inputs, self.settings.losses)
        self._calls = list(inputs)
        for group in self.structure.prunable:
            last = max(map(self._calls.index, self.structure.consumers(group.leader)))
            self.stage_of[group.leader] = sum(self._calls.index(position) <= last for position in self.positions)
        with torch.random.fork_rng([run.device] if run.device.type == "cuda" else []):
            torch.manual_seed(run.seed)
            self.heads.extend(Head(inputs[position].shape[1], run.outputs) for position in self.positions)
        self.heads.to(run.device)
        self._watch()

    def parameters(self) -> list[nn.Parameter]:
        """Return the heads' parameters."""
        return list(self.heads.parameters())

    def criterion(self, default: Loss) -> Loss:
        """Return `default` plus the cross-entropy of the current stage's head."""

        def loss(output: Tensor | tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
            total, maps, self._maps = default(output, labels), self._maps, None
            return total if maps is None else total + F.cross_entropy(self.heads[self._stage](maps), labels)

        return loss

    def after_backward(self, images: Tensor, labels: Tensor) -> None:
        """Give heads of other stages a gradient of zero: fused SGD takes no parameter whose first gradient comes later."""
        for parameter in self.heads.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Count the step; at the end of a stage, order its channels."""
        self._steps += 1
        while self._stage < self._steps * self._stages // self._run.steps:
            self._finish_stage()

    def end(self) -> None:
        """Order what is left (without steps, everything) and take the hook off."""
        while self._stage < self._stages:
            self._finish_stage()
        del self._dense, self._images, self._labels

    def scores(self) -> Scores:
        """Return {convolution: float32 (C_out,) on the CPU}: C for the channel admitted first, 1 for the last, 0 for none.

        Members of a group share the score equally. Convolutions outside the groups that may be pruned score 1.
        """
        shared = {}
        for group in self.structure.prunable:
            shared |= {member: self._ranks[group.leader] / len(group.members) for member in group.members}
        return with_output_layers(self._run.model, shared)

    def state_dict(self) -> dict:
        """Return the heads, the steps done and the ranks of the stages that are over."""
        return {"heads": dict(self.heads.state_dict()), "steps": self._steps, "stage": self._stage, "ranks": dict(self._ranks)}

    def load_state_dict(self, state: dict) -> None:
        """Go on within the stage."""
        self.heads.load_state_dict(state["heads"])
        self._steps, self._stage, self._ranks = state["steps"], state["stage"], dict(state["ranks"])
        self._watch()

    @property
    def _stages(self) -> int:
        return len(self.positions) + 1

    def _watch(self) -> None:
        """Read the feature map of the current stage's head from now on; of none after the last head's stage."""
        if self._handle:
            self._handle.remove()
            self._handle = None
        if self._stage < len(self.positions):

            def keep(_: nn.Module, args: tuple) -> None:
                self._maps = args[0]

            self._handle = self._run.model.get_submodule(self.positions[self._stage]).register_forward_pre_hook(keep)

    def _finish_stage(self) -> None:
        stage, self._stage = self._stage, self._stage + 1
        position = self.positions[stage] if stage < len(self.positions) else None
        head = _frozen(self.heads[stage]) if position else nn.Identity()
        self._watch()
        network = _frozen(self._run.model)
        for group in self.structure.prunable:
            if self.stage_of[group.leader] == stage:
                names = self.structure.consumers(group.leader)
                objective = Objective(
                    network, self._dense, list(names), position, head, self._images, self._labels, self.settings.balance
                )
                readers = [Reader(network.get_submodule(name), index) for name, index in names.items()]
                with replayed(network, self._images, min(names, key=self._calls.index)):
                    order = admission_order(readers, objective, group.unit, self.settings).cpu()
                ranks = torch.zeros(group.channels)
                ranks[order] = torch.arange(group.channels, group.channels - len(order), -1.0)
                self._ranks[group.leader] = ranks


def loss_positions(structure: Structure, inputs: Mapping[str, Tensor], losses: int | None) -> list[str]:
    """Return the convolutions in front of which a head sits, at most `losses`, evenly spaced.

    Counted are the feature maps between layers that are prunable at their inputs; in a network with residual sums only the maps
    behind a sum, which carry all that comes before them. Of n maps, the last one being the network's end, those with the numbers
    p * (floor(n / (losses + 1)) + 1) are taken, as in the repository of DCP.

    Args:
        structure: of the network.
        inputs: see `layer_inputs`.
        losses: how many; None: 3 with residual sums, else 2.
    """
    sums = [group for group in structure.groups if group.residual]
    readers = {name for group in sums or structure.groups for name in structure.consumers(group.leader)}
    ends: dict[int, str] = {}
    for name, tensor in inputs.items():
        if name in readers and tensor.ndim == 4:
            ends.setdefault(id(tensor), name)
    count = len(ends) + 1
    losses = (3 if sums else 2) if losses is None else losses
    spacing = count // (losses + 1) + 1
    chosen = sorted({min(spacing * turn, count - 1) for turn in range(1, losses + 1)} - {0})
    return [list(ends.values())[number - 1] for number in chosen]


def spread(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """Return `count` images and their labels at even distances, all if there are fewer; `batches` is read twice.

    Raises:
        FgpError: there is no image.
    """
    total, start, parts = sum(len(labels) for _, labels in batches), 0, []
    if not total:
        raise FgpError("batches: holds no image; give at least one batch of (images, labels)")
    chosen = torch.linspace(0, total - 1, min(count, total)).round().long()
    for images, labels in batches:
        here = chosen[(chosen >= start) & (chosen < start + len(labels))] - start
        parts.append((images[here], labels[here]))
        start += len(labels)
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return images, labels


def _frozen(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)
