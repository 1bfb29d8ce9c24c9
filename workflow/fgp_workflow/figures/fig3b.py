"""Figure 3b: the number of classes, against the points of accuracy lost by pruning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from fgp_workflow.figures import holes, style
from fgp_workflow.summary import Cells, Estimate, paired


@dataclass(frozen=True)
class Data:
    """What is plotted: number of classes -> dense minus pruned, in points, ours (paired by seed) and the paper's.

    `holes` are the numbers of classes without a gap, `incomplete` what the title says of missing cells.
    """

    task: str
    k: float
    gaps: Mapping[int, Estimate]
    printed: Mapping[int, float]
    missing: tuple[str, ...]
    holes: tuple[int, ...] = ()
    incomplete: str = ""


def prepare(rows: Sequence[Mapping], config: Mapping, printed: Mapping) -> Data:
    """Choose what to plot from the rows of `cells.csv`; the paper's gaps only for its own experiment, VGG-16 on CIFAR-100."""
    section, cells = config["figures"]["fig3b"], Cells(rows)
    name, selection = section["task"], f"cumulative-{section['k']:.2f}"
    gaps, missing, wanted = {}, [], []
    for classes in sorted(section["classes"]):
        task = f"{name}-c{classes}"
        pair = [(task, "dense", "unpruned"), (task, "fgp", selection)]
        wanted += pair
        gap = paired(*(cells.values(*path, "after_percent") for path in pair))
        if gap:
            gaps[classes] = gap
        else:
            missing.append(f"{task}/fgp/{selection} with {task}/dense/unpruned")
    task = config["tasks"][name]
    same = (config["datasets"][task["dataset"]]["source"], task["network"]) == ("cifar100", "vgg16")
    quoted = {int(classes): float(gap) for classes, gap in printed["fig3b"]["gaps"].items()} if same else {}
    return Data(
        name,
        section["k"],
        gaps,
        {classes: quoted[classes] for classes in gaps if classes in quoted},
        holes.report("3b", missing, bool(gaps)),
        tuple(classes for classes in section["classes"] if classes not in gaps),
        holes.title(cells, config, {name: wanted}),
    )


def draw(data: Data) -> Figure:
    """Draw the gap over the number of classes."""
    figure, axis = style.subplots(2.2)
    (colour, marker, _), (paper_colour, paper_marker, _) = style.SERIES[:2]
    means = [gap.mean for gap in data.gaps.values()]
    spread = [gap.sd or 0 for gap in data.gaps.values()]
    axis.errorbar(list(data.gaps), means, spread, color=colour, marker=marker, label="measured", **style.ERROR_BARS)
    if data.printed:
        hollow = {"markerfacecolor": "none", "linestyle": "none"}
        axis.plot(
            list(data.printed),
            list(data.printed.values()),
            paper_marker,
            color=paper_colour,
            label="quoted by the paper",
            **hollow,
        )
    style.mark_holes(axis, data.holes)
    if data.printed or data.holes:
        axis.legend(loc="best")
    axis.axhline(0, color=style.BLACK, linewidth=0.6)
    axis.set_xscale("log")
    ticks = sorted([*data.gaps, *data.holes])
    axis.set_xticks(ticks, map(str, ticks))
    axis.minorticks_off()
    axis.set_xlabel("classes (logarithmic)")
    axis.set_ylabel("dense − pruned, points")
    axis.set_title(f"{data.task}, k {data.k:.2f}\n{style.seeds({gap.n for gap in data.gaps.values()})}")
    style.mark_incomplete(figure, data.incomplete)
    return figure
