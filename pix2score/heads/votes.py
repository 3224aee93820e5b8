"""Votes of people: as numbers, as shares, and their sums over the train split.

Shapes: N images, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def votes_of(labels: pa.Array) -> npt.NDArray[np.float32]:
    """Votes [N, K] of labels without nulls."""
    return np.asarray(labels.flatten().to_numpy(zero_copy_only=False).reshape(len(labels), -1))


def shares_of(votes_NK: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Votes as shares, float64 [N, K]."""
    return np.asarray(votes_NK / votes_NK.sum(axis=1, keepdims=True, dtype=np.float64))


class VoteSums:
    """What a head of votes learns from: sums over training rows.

    ``rows`` is their number, ``weight`` what they weigh together, ``shares`` [K] the weighted sum of shares.
    """

    def __init__(self, num_classes: int) -> None:
        self.rows, self.weight = 0, 0.0
        self.shares = np.zeros(num_classes)
        self._squares = np.zeros(num_classes - 1)  # of the cumulative shares

    def add(
        self,
        votes_NK: npt.NDArray[np.float32],
        weight_N: npt.NDArray[np.float64],
        count_N: npt.NDArray[np.int64],
    ) -> None:
        """Add distinct labels, what all rows of each weigh together, and how many rows those are."""
        shares = shares_of(votes_NK)
        self.rows += int(count_N.sum())
        self.weight += float(weight_N.sum())
        self.shares += weight_N @ shares
        self._squares += weight_N @ shares.cumsum(axis=1)[:, :-1] ** 2

    def spread(self, steps: npt.NDArray[np.float64]) -> float:
        """Weighted mean of the squared distances of cumulative shares from their mean, over ``steps`` [K - 1]
        between the classes."""
        mean = (self.shares / self.weight).cumsum()[:-1]
        return float(((self._squares / self.weight - mean**2).clip(0) * steps).sum())
