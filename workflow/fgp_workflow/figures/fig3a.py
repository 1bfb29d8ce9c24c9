"""Figure 3a: the share k of the scores kept, against accuracy after fine-tuning and measured inference speed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from fgp_workflow.figures import holes, style
from fgp_workflow.summary import Cells, Estimate, estimate


@dataclass(frozen=True)
class Data:
    """What is plotted.

    Attributes:
        task: name of the task.
        accuracy: k -> percent after fine-tuning.
        speed: k -> images a second at the largest batch size measured; empty where latency was not measured.
        dense: the dense network's (accuracy, speed); None where missing.
        batch: that batch size.
        missing: cells without a result.
        holes: k without a result.
        incomplete: what the title says of missing cells.
    """

    task: str
    accuracy: Mapping[float, Estimate]
    speed: Mapping[float, Estimate]
    dense: tuple[Estimate | None, Estimate | None]
    batch: int | None
    missing: tuple[str, ...]
    holes: tuple[float, ...] = ()
    incomplete: str = ""


def prepare(rows: Sequence[Mapping], config: Mapping) -> Data:
    """Choose what to plot from the rows of `cells.csv`."""
    section, cells = config["figures"]["fig3a"], Cells(rows)
    task = section["task"]
    batches = [int(name.split("_")[1][1:]) for name in cells.columns if name.endswith("_images_per_second")]
    batch = max(batches, default=None)

    def value(method: str, selection: str, column: str) -> Estimate | None:
        return estimate(cells.values(task, method, selection, column).values())

    selections = {k: f"cumulative-{k:.2f}" for k in section["k"]}
    accuracy = {k: value("fgp", selection, "after_percent") for k, selection in selections.items()}
    speed = {k: value("fgp", selection, f"latency_b{batch}_images_per_second") for k, selection in selections.items()}
    dense = tuple(value("dense", "unpruned", column) for column in ("after_percent", f"latency_b{batch}_images_per_second"))
    missing = [f"{task}/fgp/{selection}" for k, selection in selections.items() if accuracy[k] is None]
    present = [{k: estimate for k, estimate in sorted(column.items()) if estimate} for column in (accuracy, speed)]
    wanted = [(task, "dense", "unpruned"), *((task, "fgp", selection) for selection in selections.values())]
    return Data(
        task,
        *present,
        dense,
        batch,
        holes.report("3a", missing, any(accuracy.values())),
        tuple(k for k in section["k"] if accuracy[k] is None),
        holes.title(cells, config, {task: wanted}),
    )


def draw(data: Data) -> Figure:
    """Draw two panels over k: accuracy, and speed where it was measured."""
    panels = 2 if data.speed else 1
    figure, axes = style.subplots(1.6 * panels + 0.4, panels, 1, sharex=True, squeeze=False)
    columns = [(data.accuracy, "after fine-tuning, %"), (data.speed, f"images/s at batch {data.batch}")]
    for axis, (values, label), dense, (colour, marker, _) in zip(axes[:, 0], columns, data.dense, style.SERIES, strict=False):
        means = [value.mean for value in values.values()]
        spread = [value.sd or 0 for value in values.values()]
        axis.errorbar(list(values), means, spread, color=colour, marker=marker, label="FGP", **style.ERROR_BARS)
        if dense:
            axis.axhline(dense.mean, color=style.BLACK, linestyle="--", linewidth=0.8, label="dense")
        style.mark_holes(axis, data.holes)
        axis.set_ylabel(label)
        axis.legend(loc="best")
    axes[-1, 0].set_xlabel("k, share of the scores kept")
    counts = {value.n for values, _ in columns for value in values.values()}
    axes[0, 0].set_title(f"{data.task}\n{style.seeds(counts)}" + ("" if data.speed else "\nspeed: not measured"))
    style.mark_incomplete(figure, data.incomplete)
    return figure
