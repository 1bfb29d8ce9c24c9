"""What a comparison method declares about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = ("criterion", "sparse-training", "gradual", "architecture", "scratch")
OWN_TRAINING = ("sparse-training", "gradual")
"""Kinds whose methods train a network of their own before channels are selected."""
STARTS = ("random", "dense")
RULES = ("score", "sparse_training", "gradual", "prune", "finetune", "train", "scratch")
"""Rules of the suite that a method may replace by one of its own."""


@dataclass(frozen=True)
class Method:
    """The facts of one method; every file in `baselines/` holds one as `METHOD`.

    Attributes:
        label: name in tables and figures.
        kind: one of `KINDS`.
        needs: what scoring reads: any of "weights", "forward", "gradient", "labels", "seed".
        selection: how `macs-<budget>` selects on these scores: "cumulative", "count" (same ratio in every layer) or "global" (one
            threshold over all layers).
        tasks: task types it is defined for.
        paper_name: row name in the paper's printed tables, None where the paper has no such row.
        approximate: what was completed by us, from what; the tables mark the row "approx."; None if the definition is public.
        start: for kinds "sparse-training" and "gradual", what the method's own training begins with: "random" weights or those of
            the "dense" network.
        networks: for kind "architecture", the network that is trained in place of each dense one: {dense network: its name}.
        plan_of: for kind "scratch", the method whose pruned architecture is trained from random weights.
        equal: for kind "scratch": "epochs" (as many as the dense network) or "flops" (as many training FLOPs, at most twice the
            epochs).
        own_rule: the rule of the suite, one of `RULES`, whose place a rule file of this method's own takes,
            `workflow/rules/baselines/<name>.smk`; None: the suite's rules serve it.
    """

    label: str
    kind: str = "criterion"
    needs: frozenset[str] = frozenset()
    selection: str = "count"
    tasks: frozenset[str] = frozenset({"classification", "segmentation"})
    paper_name: str | None = None
    approximate: str | None = None
    start: str = "random"
    networks: Mapping[str, str] = field(default_factory=dict)
    plan_of: str | None = None
    equal: str | None = None
    own_rule: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.start not in STARTS:
            raise ValueError(f"start {self.start!r} is not one of {', '.join(STARTS)}")
        if self.own_rule not in (None, *RULES):
            raise ValueError(f"own_rule {self.own_rule!r} is not one of {', '.join(RULES)}")

    def meant_for(self, task: str, network: str) -> bool:
        """Tell whether the method is defined for networks of a task type and, where it names them, for this one."""
        return task in self.tasks and (self.kind != "architecture" or network in self.networks)
