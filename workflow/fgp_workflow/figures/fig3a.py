"""Figure 3a: the share k of the scores kept, against accuracy after fine-tuning and measured inference speed."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from fgp_workflow.cells import asked, batch_sizes, by_seed, latency_column, over_seeds, remarks
from fgp_workflow.experiment import DENSE, Experiment, cumulative
from fgp_workflow.figures import holes, style


@dataclass(frozen=True)
class Data:
    """What is plotted.

    Attributes:
        task: name of the task.
        accuracy: percent after fine-tuning, one line a k, columns "mean", "std", "count"; without the k that are not there.
        speed: likewise, images a second at the largest batch size measured; empty where latency was not measured.
        dense: the dense network's mean accuracy and speed; NaN where missing.
        batch: that batch size.
        missing: cells without a result.
        holes: k without a result.
        remarks: what the title says of the cells.
    """

    task: str
    accuracy: pd.DataFrame
    speed: pd.DataFrame
    dense: tuple[float, float]
    batch: int | None
    missing: tuple[str, ...]
    holes: tuple[float, ...] = ()
    remarks: tuple[str, ...] = ()


def prepare(cells: pd.DataFrame, experiment: Experiment) -> Data:
    """Choose what to plot from the cells."""
    section = experiment.config.figures.fig3a
    ks, task = sorted(section.k), section.task
    paths = [(task, *DENSE), *((task, "fgp", cumulative(k)) for k in ks)]
    batch = max(batch_sizes(cells), default=None)

    def values(column: str) -> tuple[float, pd.DataFrame]:
        """Return the dense network's mean and the rest by k."""
        if column not in cells:
            return float("nan"), pd.DataFrame()
        found = over_seeds(by_seed(cells, paths, column))
        return found.loc[0, "mean"], found[1:].set_axis(ks).query("count > 0")

    dense_accuracy, accuracy = values("after_percent")
    dense_speed, speed = values(latency_column(batch, "images_per_second"))
    absent = [k for k in ks if k not in accuracy.index]
    missing = [f"{task}/fgp/{cumulative(k)}" for k in absent]
    return Data(
        task,
        accuracy,
        speed,
        (dense_accuracy, dense_speed),
        batch,
        holes.report("3a", missing, len(accuracy) > 0),
        tuple(absent),
        remarks(cells, asked(experiment, paths)),
    )


def draw(data: Data) -> Figure:
    """Draw two panels over k: accuracy, and speed where it was measured."""
    panels = [(data.accuracy, "after fine-tuning, %"), (data.speed, f"images/s at batch {data.batch}")]
    panels = [(values, label) for values, label in panels if len(values)]
    figure, axes = style.subplots(1.6 * len(panels) + 0.4, len(panels), 1, sharex=True, squeeze=False)
    for axis, (values, label), dense, (colour, marker, _) in zip(axes[:, 0], panels, data.dense, style.SERIES, strict=False):
        axis.errorbar(
            values.index, values["mean"], values["std"].fillna(0), color=colour, marker=marker, label="FGP", **style.ERROR_BARS
        )
        if pd.notna(dense):
            axis.axhline(dense, color=style.BLACK, linestyle="--", linewidth=0.8, label="dense")
        style.mark_holes(axis, data.holes)
        axis.set_ylabel(label)
        axis.legend(loc="best")
    axes[-1, 0].set_xlabel("k, share of the scores kept")
    counts = {int(count) for values, _ in panels for count in values["count"]}
    axes[0, 0].set_title(f"{data.task}\n{style.seeds(counts)}" + ("" if len(data.speed) else "\nspeed: not measured"))
    style.mark(figure, data.remarks)
    return figure
