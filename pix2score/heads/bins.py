"""Bins of a number: learn their edges, put values into them, name them, rank them.

A bin is the number of edges <= value, so bins are left-inclusive: bin k holds edges[k-1] <= value < edges[k].
Owns no label semantics (which values are legal): that is ``heads``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pix2score.errors import DataError

Number: TypeAlias = int | float
Values: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float64]
ValueCounts: TypeAlias = Iterable[tuple[Values, npt.NDArray[np.int64]]]
"""Batches of (distinct values ascending, how often each occurs), ascending over batches too."""


def digitize(values: Values, edges: Sequence[Number]) -> npt.NDArray[np.int16]:
    """Bin of each value, int16 in [0, len(edges)]. Values must be finite; int64 is compared as int64."""
    return np.searchsorted(np.asarray(edges), values, side="right").astype(np.int16)


def median_bin(probs_NK: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """The first bin up to which half of the probability lies, int16 [N]."""
    before = probs_NK.cumsum(axis=1) < 0.5
    return np.asarray(np.minimum(before.sum(axis=1), probs_NK.shape[1] - 1).astype(np.int16))


def learn_edges(value_counts: Callable[[], ValueCounts], num_bins: int, *, head: str = "") -> list[Number]:
    """Strictly increasing edges of at most ``num_bins`` bins, of as equal count as ties allow.

    Exact, in one pass of bounded memory over the sorted distinct values: for each quantile k/K the edge is
    the distinct value whose number of smaller values is nearest to n*k/K. Equal edges merge; every edge is a
    value that occurs and has a smaller one, so no bin is empty.

    Raises:
        DataError: fewer than two distinct values, so there is nothing to predict.
    """
    total = sum(int(counts.sum()) for _, counts in value_counts())
    targets = total * np.arange(1, num_bins) / num_bins
    best: list[Number | None] = [None] * len(targets)
    distance = np.full(len(targets), np.inf)
    for values, num_before in _with_rank(value_counts()):
        _take_nearer(values, num_before, targets, best, distance)
    edges = sorted({edge for edge in best if edge is not None})
    if not edges:
        raise DataError(
            f"head {head!r} has {total} labelled training rows with fewer than two distinct values: "
            "at least two bins are needed; remove the head or map another column"
        )
    return edges


def _with_rank(value_counts: ValueCounts) -> Iterator[tuple[Values, npt.NDArray[np.int64]]]:
    """Batches of (values, how many rows are smaller than each)."""
    seen = 0
    for values, counts in value_counts:
        upto = seen + np.cumsum(counts)
        yield values, upto - counts
        seen = int(upto[-1]) if len(upto) else seen


def _take_nearer(
    values: Values,
    num_before: npt.NDArray[np.int64],
    targets: npt.NDArray[np.float64],
    best: list[Number | None],
    distance: npt.NDArray[np.float64],
) -> None:
    keep = num_before > 0  # the smallest value of all would leave bin 0 empty
    values, num_before = values[keep], num_before[keep]
    if not len(values):
        return
    right = np.searchsorted(num_before, targets).clip(0, len(values) - 1)
    left = (right - 1).clip(0)
    nearer_left = np.abs(num_before[left] - targets) <= np.abs(num_before[right] - targets)
    chosen = np.where(nearer_left, left, right)
    gap = np.abs(num_before[chosen] - targets)
    for k in np.flatnonzero(gap < distance):
        best[k], distance[k] = values[chosen[k]].item(), gap[k]


def count_bins(value_counts: ValueCounts, edges: Sequence[Number]) -> list[int]:
    """Number of rows in each of the len(edges) + 1 bins."""
    totals = np.zeros(len(edges) + 1, dtype=np.int64)
    for values, counts in value_counts:
        np.add.at(totals, digitize(values, edges), counts)
    return [int(n) for n in totals]


def typical_values(
    value_counts: ValueCounts, edges: Sequence[Number], counts: Sequence[int], min_value: float
) -> list[float]:
    """Median value of each bin; of an empty bin its midpoint, or its edge where it is open."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    ranks = starts[:-1] + (np.asarray(counts) - 1) // 2  # lower median
    found: dict[int, float] = {}
    for values, num_before in _with_rank(value_counts):
        position = np.searchsorted(num_before, ranks, side="right") - 1
        for k, index in enumerate(position):
            if counts[k] and index >= 0:
                found[k] = float(values[index])
    return [found[k] if counts[k] else _midpoint(edges, k, min_value) for k in range(len(counts))]


def _midpoint(edges: Sequence[Number], k: int, min_value: float) -> float:
    low = float(edges[k - 1]) if k else min_value
    high = float(edges[k]) if k < len(edges) else np.inf
    if not np.isfinite(low):
        return high
    return (low + high) / 2 if np.isfinite(high) else low


def labels(edges: Sequence[Number], min_value: float = 0.0) -> dict[str, str]:
    """Bin -> its range as people read it: ``{"0": "0-10", ..., "14": "2700-∞"}``."""
    bounds = [min_value, *edges, np.inf]
    return {
        str(k): f"{_text(low)}-{_text(high)}"
        for k, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False))
    }


def _text(bound: Number) -> str:
    if np.isinf(bound):
        return "∞" if bound > 0 else "-∞"
    return str(int(bound)) if float(bound).is_integer() else f"{bound:.6g}"


def short(bound: Number) -> str:
    """A bound in a few characters: ``36.9M``."""
    if math.isinf(bound):
        return "∞" if bound > 0 else "-∞"
    for unit, size, least in (("G", 1e9, 1e9), ("M", 1e6, 1e6), ("k", 1e3, 1e4)):
        if abs(bound) >= least:
            return f"{bound / size:.3g}{unit}"
    return f"{bound:g}" if abs(bound) < 1000 else f"{bound:.0f}"


def mid_ranks(counts: Sequence[int]) -> npt.NDArray[np.float64]:
    """Mean rank in [0, 1] of the training rows in each bin.

    ``<h>_score`` averages it under the probabilities.
    """
    share = np.asarray(counts, dtype=np.float64) / max(1, sum(counts))
    upto = np.cumsum(share)
    return upto - share / 2
