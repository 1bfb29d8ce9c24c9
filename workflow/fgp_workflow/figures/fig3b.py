"""Figure 3b: the number of classes, against the points of accuracy lost by pruning."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from fgp_workflow.cells import asked, by_seed, over_seeds, remarks
from fgp_workflow.experiment import DENSE, Experiment, cumulative
from fgp_workflow.figures import holes, style


@dataclass(frozen=True)
class Data:
    """What is plotted.

    Attributes:
        task: name of the task.
        k: of the pruned networks.
        gaps: dense minus pruned, in points, paired by seed: one line a number of classes, columns "mean", "std", "count".
        printed: number of classes -> the paper's gap.
        missing: cells without a result.
        holes: numbers of classes without a gap.
        remarks: what the title says of the cells.
    """

    task: str
    k: float
    gaps: pd.DataFrame
    printed: Mapping[int, float]
    missing: tuple[str, ...]
    holes: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()


def prepare(cells: pd.DataFrame, experiment: Experiment, printed: Mapping) -> Data:
    """Choose what to plot from the cells; the paper's gaps only for its own experiment, VGG-16 on CIFAR-100."""
    section = experiment.config.figures.fig3b
    tasks = dict(sorted(_tasks(experiment).items()))
    selection = cumulative(section.k)
    dense = [(task, *DENSE) for task in tasks.values()]
    pruned = [(task, "fgp", selection) for task in tasks.values()]
    gaps = over_seeds(by_seed(cells, dense) - by_seed(cells, pruned)).set_axis(list(tasks)).query("count > 0")
    absent = [classes for classes in tasks if classes not in gaps.index]
    missing = [f"{tasks[classes]}/fgp/{selection} with {tasks[classes]}/{'/'.join(DENSE)}" for classes in absent]
    task = experiment.tasks[section.task]
    same = (experiment.datasets[task.dataset].source, task.network) == ("cifar100", "vgg16")
    quoted = {int(classes): float(gap) for classes, gap in printed["fig3b"]["gaps"].items()} if same else {}
    return Data(
        section.task,
        section.k,
        gaps,
        {classes: quoted[classes] for classes in gaps.index if classes in quoted},
        holes.report("3b", missing, len(gaps) > 0),
        tuple(absent),
        remarks(cells, asked(experiment, [*dense, *pruned])),
    )


def _tasks(experiment: Experiment) -> dict[int, str]:
    """Return number of classes -> task of the class sweep."""
    sweep = [name for name in experiment.tasks if name not in experiment.config.tasks]
    return {experiment.datasets[experiment.tasks[name].dataset].classes: name for name in sweep}


def draw(data: Data) -> Figure:
    """Draw the gap over the number of classes."""
    figure, axis = style.subplots(2.2)
    (colour, marker, _), (paper_colour, paper_marker, _) = style.SERIES[:2]
    gaps = data.gaps
    axis.errorbar(
        gaps.index, gaps["mean"], gaps["std"].fillna(0), color=colour, marker=marker, label="measured", **style.ERROR_BARS
    )
    if data.printed:
        look = {"color": paper_colour, "markerfacecolor": "none", "linestyle": "none", "label": "quoted by the paper"}
        axis.plot(list(data.printed), list(data.printed.values()), paper_marker, **look)
    style.mark_holes(axis, data.holes)
    if data.printed or data.holes:
        axis.legend(loc="best")
    axis.axhline(0, color=style.BLACK, linewidth=0.6)
    axis.set_xscale("log")
    ticks = sorted([*gaps.index, *data.holes])
    axis.set_xticks(ticks, map(str, ticks))
    axis.minorticks_off()
    axis.set_xlabel("classes (logarithmic)")
    axis.set_ylabel("dense − pruned, points")
    axis.set_title(f"{data.task}, k {data.k:.2f}\n{style.seeds(set(gaps['count'].astype(int)))}")
    style.mark(figure, data.remarks)
    return figure
