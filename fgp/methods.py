"""What a comparison method declares about itself."""

from dataclasses import dataclass

KINDS = ("criterion", "sparse-training", "scratch")


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
        plan_of: for kind "scratch", the method whose pruned architecture is trained from random weights.
        equal: for kind "scratch": "epochs" (as many as the dense network) or "flops" (as many training FLOPs, at most twice the
            epochs).
    """

    label: str
    kind: str = "criterion"
    needs: frozenset[str] = frozenset()
    selection: str = "count"
    tasks: frozenset[str] = frozenset({"classification", "segmentation"})
    paper_name: str | None = None
    approximate: str | None = None
    plan_of: str | None = None
    equal: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
