"""Rank correlations of numbers that are nearly equal: their order is rounding's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, spearmanr


def spearman_bounds(scores: npt.ArrayLike, labels: npt.ArrayLike, error: float) -> tuple[float, float]:
    """Least and most Spearman correlation with ``labels`` of numbers off by ``error`` at most: of two
    nearly equal ones the lower label comes last, or first. Both of shape (N,)."""
    low, high = (_correlation(np.asarray(scores), side * rankdata(labels), error) for side in (-1, 1))
    return -low, high


def _correlation(scores: npt.NDArray[np.float64], ranks: npt.NDArray[np.float64], error: float) -> float:
    order = np.argsort(scores, kind="stable").tolist()
    is_sorted = False
    while not is_sorted:
        is_sorted = True
        for i in range(len(order) - 1):
            a, b = order[i : i + 2]
            if ranks[a] > ranks[b] and abs(scores[a] - scores[b]) <= 2 * error:
                order[i : i + 2], is_sorted = [b, a], False
    return float(spearmanr(np.argsort(order), ranks)[0])
