"""Seeded choices of images. The choice of n images is contained in that of n + 1 with the same seed."""

import numpy as np

from fgp.errors import FgpError


def balanced(labels: np.ndarray, seed: int, *, per_class: int | None = None, limit: int | None = None) -> np.ndarray:
    """Choose images by class.

    Args:
        labels: (N,) class of every image.
        seed: seed of the order.
        per_class: take this many of every class that occurs in `labels`.
        limit: take this many in all (everything if there are fewer), every class as often as the others where it can.

    Returns:
        Indices, int64, in the seeded order (classes mixed).

    Raises:
        FgpError: a class has fewer than `per_class` images; `limit` is below the number of classes.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = _rank_in_class(labels[order])
    names, counts = np.unique(labels, return_counts=True)
    if per_class is not None:
        _at_least_one("per_class", per_class)
        if len(counts) and counts.min() < per_class:
            scarce = names[counts.argmin()]
            raise FgpError(f"per_class {per_class}: class {scarce} has only {counts.min()} images; ask for at most that many")
        return order[rank < per_class]
    _at_least_one("limit", limit)
    if limit < len(names):
        raise FgpError(f"limit {limit}: fewer than the {len(names)} classes; ask for at least one image a class")
    chosen = np.argsort(rank, kind="stable")[:limit]
    return order[np.sort(chosen)]


def plain(count: int, seed: int, limit: int) -> np.ndarray:
    """Choose `limit` of `count` images (all if there are fewer), whatever their labels; indices in a seeded order."""
    _at_least_one("limit", limit)
    return np.random.default_rng(seed).permutation(count)[:limit]


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """Return how many earlier entries have the same label, for each entry."""
    by_class = np.argsort(labels, kind="stable")
    grouped = labels[by_class]
    first = np.searchsorted(grouped, grouped, side="left")
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - first
    return rank


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise FgpError(f"{name} {value}: must be at least 1")
