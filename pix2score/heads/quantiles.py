"""Where a number stands among those of the train split: ``<h>_score`` of heads whose answer is a number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NUM_LEVELS = 101
"""Of the quantiles that prepare learns: every hundredth."""


def quantiles_sql(number: str) -> str:
    """SQL aggregate: the ``NUM_LEVELS`` quantiles of ``number``, ascending, as a list."""
    levels = ", ".join(f"{level:.2f}" for level in np.linspace(0, 1, NUM_LEVELS))
    return f"quantile_cont(CAST({number} AS DOUBLE), [{levels}])"


def knots(quantiles: Sequence[float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distinct values, strictly increasing, and the share of train rows below each.

    A value that many rows share stands at the middle of their ranks.
    """
    values, levels = np.asarray(quantiles, dtype=np.float64), np.linspace(0, 1, len(quantiles))
    distinct, index = np.unique(values, return_inverse=True)
    return distinct, np.bincount(index, levels) / np.bincount(index)


def quantile_of(number_N: npt.NDArray[np.float64], quantiles: Sequence[float]) -> npt.NDArray[np.float64]:
    """Share of train rows below each number, in [0, 1], [N]."""
    return np.interp(number_N, *knots(quantiles))
