"""Figure 4: ways to choose the channels that stay, by FGP's scores or at random."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fgp_workflow.figures import holes, style
from fgp_workflow.summary import Cells, Estimate, estimate


@dataclass(frozen=True)
class Network:
    """One network: way to choose -> percent after fine-tuning and percent of MACs left; the dense network's accuracy."""

    task: str
    accuracy: Mapping[str, Estimate]
    macs: Mapping[str, Estimate]
    dense: Estimate | None


@dataclass(frozen=True)
class Data:
    """What is plotted; `ways` are the bars' labels in order, `incomplete` is what the title says of missing cells."""

    ways: tuple[str, ...]
    networks: tuple[Network, ...]
    missing: tuple[str, ...]
    incomplete: str = ""


def ways(section: Mapping) -> dict[str, str]:
    """Return selection -> label, labels as in the paper."""
    k, share, of = section["k"], section["share"], section["of"]
    percent, pair = f"{100 * share:.0f} %", f"{100 * share:.0f}/{100 * of:.0f} Rand"
    return {
        f"cumulative-{k:.2f}": f"Cumul. k {k:.2f}",
        f"peak-{share:.2f}": f"Peak {percent}",
        f"peak-rand-{share:.2f}-of-{of:.2f}": f"Peak {pair}",
        f"rand-{share:.2f}": f"Rand {percent}",
        f"bottom-rand-{share:.2f}-of-{of:.2f}": f"Bot {pair}",
        f"bottom-{share:.2f}": f"Bot {percent}",
    }


def prepare(rows: Sequence[Mapping], config: Mapping) -> Data:
    """Choose what to plot from the rows of `cells.csv`."""
    section, cells = config["figures"]["fig4"], Cells(rows)
    labels = ways(section)
    networks, missing = [], []
    for task in section["tasks"]:
        columns = {
            column: {
                label: estimate(cells.values(task, "fgp", selection, column).values()) for selection, label in labels.items()
            }
            for column in ("after_percent", "macs_remaining_percent")
        }
        missing += [f"{task}/fgp/{selection}" for selection, label in labels.items() if columns["after_percent"][label] is None]
        present = [{label: value for label, value in column.items() if value} for column in columns.values()]
        dense = estimate(cells.values(task, "dense", "unpruned", "after_percent").values())
        networks.append(Network(task, *present, dense))
    paths = [("dense", "unpruned"), *(("fgp", selection) for selection in labels)]
    return Data(
        tuple(labels.values()),
        tuple(networks),
        holes.report("4", missing, any(network.accuracy for network in networks)),
        holes.title(cells, config, {task: [(task, *path) for path in paths] for task in section["tasks"]}),
    )


def draw(data: Data) -> Figure:
    """Draw grouped bars, accuracy above the MACs that remain; the dense networks as dashed lines."""
    figure, (upper, lower) = style.subplots(3.4, 2, 1, sharex=True, height_ratios=(2, 1))
    width = 0.8 / len(data.networks)
    for i, (network, (colour, _, hatch)) in enumerate(zip(data.networks, itertools.cycle(style.SERIES), strict=False)):
        look = {"width": width, "color": colour, "edgecolor": "white", "hatch": hatch, "error_kw": style.ERROR_BARS}
        for axis, values in ((upper, network.accuracy), (lower, network.macs)):
            places = {way: j + (i - (len(data.networks) - 1) / 2) * width for j, way in enumerate(data.ways)}
            means, spread = [v.mean for v in values.values()], [v.sd or 0 for v in values.values()]
            axis.bar([places[way] for way in values], means, yerr=spread, label=network.task, **look)
            style.mark_holes(axis, (place for way, place in places.items() if way not in values))
        if network.dense:
            upper.axhline(network.dense.mean, color=colour, linestyle="--", linewidth=0.9)
    floor = _floor(data)
    upper.set_ylim(bottom=floor)
    upper.set_ylabel("after fine-tuning, %" + (f"\n(axis from {floor})" if floor else ""))
    lower.set_ylabel("MACs left, %")
    lower.set_xticks(range(len(data.ways)), data.ways, rotation=35, ha="right", rotation_mode="anchor")
    counts = {value.n for network in data.networks for value in network.accuracy.values()}
    entries = dict(zip(*reversed(upper.get_legend_handles_labels()), strict=True))
    entries = {label: entries[label] for label in sorted(entries, key=lambda label: label == style.HOLE)}
    entries["dense, in the network's colour"] = Line2D([], [], color=style.BLACK, linestyle="--", linewidth=0.9)
    title = "\n".join(filter(None, (data.incomplete, style.seeds(counts))))
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=2, title=title, title_fontsize=7)
    return figure


def _floor(data: Data) -> int:
    """Return where the accuracy axis starts: a multiple of ten with room below the lowest bar, 0 where bars go below 50 %."""
    lowest = min(value.mean - (value.sd or 0) for network in data.networks for value in network.accuracy.values())
    return 0 if lowest < 50 else 10 * math.floor((lowest - 5) / 10)
