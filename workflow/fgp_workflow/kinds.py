"""What a kind of method (`fgp.methods.KINDS`) means to the workflow, in one table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What the methods of one kind have in common.

    Attributes:
        rules: the rules that make a cell, in order, after those of the data and, where it is needed, of the dense network.
        own_network: its network before channels are selected, below `<task>/seed<S>/<method>/`; None for the dense network's.
        prunes: whether channels are removed, so that there is a cell for each budget; else there is one, `unpruned`.
        rounds: whether the task's `round_to` holds: methods that prune while they train remove single channels.
        note: what tables say about its training, with `{start}` and `{recipe}`; "" for what every method does.
    """

    rules: tuple[str, ...]
    own_network: str | None = None
    prunes: bool = True
    rounds: bool = True
    note: str = ""


KINDS = {
    "criterion": Kind(("score", "prune", "finetune")),
    "sparse-training": Kind(
        ("sparse_training", "score", "prune", "finetune"),
        own_network="sparse/model.safetensors",
        note="Trains {start} (recipe {recipe}) before channels are selected; then fine-tuned like all.",
    ),
    "gradual": Kind(
        ("gradual", "finetune"),
        rounds=False,
        note="Prunes while it trains {start} (recipe {recipe}); then fine-tuned like all.",
    ),
    "architecture": Kind(
        ("train",),
        prunes=False,
        note="Another architecture, trained {start} (recipe {recipe}); nothing is pruned.",
    ),
    "scratch": Kind(("scratch",)),
}
