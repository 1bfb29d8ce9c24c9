"""Group norm: the squared norm of all weights that a channel owns, over all layers that are coupled by it.

Paper: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (arXiv 2301.12900), Section 3.3, the variant
without sparse learning ("w/o SL").
Equation: I[k] = sum over the group's layers of ||w[k]||_2^2, s[k] = I[k] / mean over the group's channels of I. w[k] are the
filters that make channel k, the scales of the batch normalisations behind them and, in every layer that reads it, the kernels for
it. One ranking over all groups.
Official repository: VainF/Torch-Pruning (pruner/importance.py, GroupMagnitudeImportance; reproduce/main.py, method group_norm).
Reads the channel: the weights of the whole group, without biases and shifts.
Deviations:
1. The repository prunes in many small steps and takes the norms of what is left after each; here the dense network is scored once
   and selection and fine-tuning are shared.
2. One ranking over all groups, as for the paper's results (--global-pruning); the default of the library is a ratio a layer.
3. The paper's formula normalises by the mean of the N largest I; here by the mean of all, as in the repository.
4. The repository averages over the layers of a group, which the normalisation cancels.
5. The filters of a depthwise convolution count; the repository passes them over.
6. A group's score is divided among its convolutions, because the suite sums over them. A convolution that is never pruned (the
   network's outputs) scores 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fgp.methods import Method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="Group norm", needs=frozenset({"weights"}), selection="global")


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}; of `batches` the shape of the first image is read, `seed` is not.

    Raises:
        FgpError: `batches` is empty, or the channels of the network cannot be followed.
    """
    import torch

    from fgp.scoring.checks import example_of
    from fgp.scoring.group_norms import GroupWeights, layer_scores
    from fgp.surgery import Structure

    structure = Structure(model, example_of(model, batches), tied=True)
    norms = GroupWeights(structure, model).squared_norms()
    tiny = torch.finfo(torch.float32).tiny
    return layer_scores(structure, model, {leader: values / values.mean().clamp(min=tiny) for leader, values in norms.items()})
