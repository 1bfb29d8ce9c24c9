"""Figure 4: ways to choose the channels that stay, by FGP's scores or at random."""

import itertools
import math
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fgp_workflow.cells import asked, by_seed, over_seeds, remarks
from fgp_workflow.experiment import DENSE, Experiment, figure4_ways
from fgp_workflow.figures import holes, style


@dataclass(frozen=True)
class Network:
    """One network.

    `accuracy`, percent after fine-tuning, and `macs`, percent of the MACs left: one line a way to choose, columns "mean", "std",
    "count", without the ways that are not there. `dense` is the dense network's mean accuracy, NaN where missing.
    """

    task: str
    accuracy: pd.DataFrame
    macs: pd.DataFrame
    dense: float


@dataclass(frozen=True)
class Data:
    """What is plotted; `ways` are the bars' labels in order, `remarks` is what the title says of the cells."""

    ways: tuple[str, ...]
    networks: tuple[Network, ...]
    missing: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def prepare(cells: pd.DataFrame, experiment: Experiment) -> Data:
    """Choose what to plot from the cells."""
    section = experiment.config.figures.fig4
    ways = figure4_ways(section)
    networks, missing, wanted = [], [], []
    for task in section.tasks:
        paths = [(task, "fgp", selection) for selection in ways]
        accuracy, macs = (
            over_seeds(by_seed(cells, paths, column)).set_axis(list(ways.values())).query("count > 0")
            for column in ("after_percent", "macs_remaining_percent")
        )
        dense = by_seed(cells, [(task, *DENSE)])[0].mean()
        missing += ["/".join(path) for path, label in zip(paths, ways.values(), strict=True) if label not in accuracy.index]
        networks.append(Network(task, accuracy, macs, dense))
        wanted += [(task, *DENSE), *paths]
    found = any(len(network.accuracy) for network in networks)
    return Data(
        tuple(ways.values()), tuple(networks), holes.report("4", missing, found), remarks(cells, asked(experiment, wanted))
    )


def draw(data: Data) -> Figure:
    """Draw grouped bars, accuracy above the MACs that remain; the dense networks as dashed lines."""
    figure, (upper, lower) = style.subplots(3.4, 2, 1, sharex=True, height_ratios=(2, 1))
    width = 0.8 / len(data.networks)
    for i, (network, (colour, _, hatch)) in enumerate(zip(data.networks, itertools.cycle(style.SERIES), strict=False)):
        look = {"width": width, "color": colour, "edgecolor": "white", "hatch": hatch, "error_kw": style.ERROR_BARS}
        for axis, values in ((upper, network.accuracy), (lower, network.macs)):
            places = {way: j + (i - (len(data.networks) - 1) / 2) * width for j, way in enumerate(data.ways)}
            there = [places[way] for way in values.index]
            axis.bar(there, values["mean"], yerr=values["std"].fillna(0), label=network.task, **look)
            style.mark_holes(axis, (place for way, place in places.items() if way not in values.index))
        if pd.notna(network.dense):
            upper.axhline(network.dense, color=colour, linestyle="--", linewidth=0.9)
    floor = _floor(data)
    upper.set_ylim(bottom=floor)
    upper.set_ylabel("after fine-tuning, %" + (f"\n(axis from {floor})" if floor else ""))
    lower.set_ylabel("MACs left, %")
    lower.set_xticks(range(len(data.ways)), data.ways, rotation=35, ha="right", rotation_mode="anchor")
    counts = {int(count) for network in data.networks for count in network.accuracy["count"]}
    entries = dict(zip(*reversed(upper.get_legend_handles_labels()), strict=True))
    entries = {label: entries[label] for label in sorted(entries, key=lambda label: label == style.HOLE)}
    entries["dense, in the network's colour"] = Line2D([], [], color=style.BLACK, linestyle="--", linewidth=0.9)
    title = "\n".join(filter(None, (style.wrapped(data.remarks), style.seeds(counts))))
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=2, title=title, title_fontsize=7)
    return figure


def _floor(data: Data) -> int:
    """Return where the accuracy axis starts: a multiple of ten with room below the lowest bar, 0 where bars go below 50 %."""
    bars = pd.concat([network.accuracy for network in data.networks])
    lowest = (bars["mean"] - bars["std"].fillna(0)).min()
    return 0 if lowest < 50 else 10 * math.floor((lowest - 5) / 10)
