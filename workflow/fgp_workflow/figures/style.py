"""What all figures share: one-column width, Okabe-Ito colours, and the way to save."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from fgp.files import atomic

WIDTH = 3.3
LETTERS = 56
HOLE = "not there"
DPI = 300
BLACK, GREEN, BLUE, VERMILION, PURPLE = "#000000", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
SERIES = ((BLUE, "o", "//"), (VERMILION, "s", ".."), (GREEN, "^", "\\\\"), (PURPLE, "D", "xx"))
ERROR_BARS = {"capsize": 2, "elinewidth": 0.8}
matplotlib.rcParams.update(
    {
        "font.size": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "axes.titlesize": 7,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
        "hatch.linewidth": 0.5,
        "pdf.fonttype": 42,
    }
)


def subplots(height: float, *args: int, **options: object) -> tuple[plt.Figure, object]:
    """Like `plt.subplots`, on `WIDTH` x `height` inches."""
    return plt.subplots(*args, figsize=(WIDTH, height), layout="constrained", **options)


def wrapped(remarks: Sequence[str]) -> str:
    """Return what a title says of a figure's cells, each remark on lines of its own, no wider than the figure."""
    return "\n".join(line for remark in remarks for line in textwrap.wrap(remark, LETTERS))


def mark(figure: plt.Figure, remarks: Sequence[str]) -> None:
    """Put `remarks`, which cells are missing or made by other code, above the figure, if there are any."""
    if remarks:
        figure.suptitle(wrapped(remarks), fontsize=7, color=VERMILION)


def mark_holes(axis: plt.Axes, places: Iterable[float]) -> None:
    """Put a cross on the horizontal axis wherever a value is not there."""
    if places := list(places):
        look = {"color": BLACK, "linestyle": "none", "clip_on": False, "label": HOLE}
        axis.plot(places, [0.04] * len(places), "x", transform=axis.get_xaxis_transform(), **look)


def save(figure: plt.Figure, stem: Path) -> None:
    """Write `<stem>.pdf` and `<stem>.png`, without a date in them, and close the figure."""
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", None)):
        content = io.BytesIO()  # on a full disk, the PDF backend does not say why it failed
        figure.savefig(content, format=suffix, dpi=DPI, metadata=metadata)
        with atomic(stem.with_name(f"{stem.name}.{suffix}")) as aside:
            aside.write_bytes(content.getbuffer())
    plt.close(figure)


def seeds(counts: set[int]) -> str:
    """Say how many seeds stand behind means and error bars: "1 seed", "mean ± sd, n = 2 seeds", "mean ± sd, n = 1 to 3 seeds"."""
    if counts <= {1}:
        return "1 seed"
    low, high = min(counts), max(counts)
    return f"mean ± sd, n = {high} seeds" if low == high else f"mean ± sd, n = {low} to {high} seeds"
