"""How good a KPI's expectations are on labelled rows, every number as a function of row weights.

Shapes: N rows. Of a rate ``truth`` is clicks over impressions and ``weight`` the impressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pix2score.kpi.label_rows import Target
from pix2score.metrics.formulas import Floats, Measure, auc, spearman
from pix2score.metrics.intervals import MIN_LABELLED, intervals, paired_interval, resamples
from pix2score.metrics.measures import values

MAIN = {"rate": "normalised_entropy", "number": "rmse"}
"""The number, lower is better, by which the model is chosen."""
BEST_IS_1 = "calibration"
_FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class Truth:
    """Labelled rows of one split."""

    target: Target
    truth: Floats
    weight: Floats
    group: np.typing.NDArray[np.int64]


def measures(rows: Truth, expected_N: Floats) -> dict[str, Measure]:
    """Every number of these expectations."""
    return _of_rate(rows, expected_N) if rows.target == "rate" else _of_number(rows, expected_N)


def _of_rate(rows: Truth, expected_N: Floats) -> dict[str, Measure]:
    clicks_N, said_N = rows.truth * rows.weight, expected_N.clip(_FLOOR, 1 - _FLOOR)
    cost_N = -(clicks_N * np.log(said_N) + (rows.weight - clicks_N) * np.log1p(-said_N))
    pairs = auc(np.tile(expected_N, 2), np.repeat([True, False], len(expected_N)))

    def nll(w: Floats) -> float | None:
        total = float(w @ rows.weight)
        return float(w @ cost_N) / total if total else None

    def normalised_entropy(w: Floats) -> float | None:
        total = float(w @ rows.weight)
        share = float(w @ clicks_N) / total if total else 0.0
        found = nll(w)
        return found / _entropy(share) if found is not None and 0 < share < 1 else None

    def calibration(w: Floats) -> float | None:
        clicks = float(w @ clicks_N)
        return float(w @ (expected_N * rows.weight)) / clicks if clicks else None

    return {
        "normalised_entropy": normalised_entropy,
        "nll": nll,
        "calibration": calibration,
        "auc": lambda w: pairs(np.concatenate([w * clicks_N, w * (rows.weight - clicks_N)])),
    }


def _entropy(share: float) -> float:
    return float(-(share * np.log(share) + (1 - share) * np.log1p(-share)))


def _of_number(rows: Truth, expected_N: Floats) -> dict[str, Measure]:
    square_N = (expected_N - rows.truth) ** 2

    def rmse(w: Floats) -> float | None:
        return float(np.sqrt(np.average(square_N, weights=w))) if w.sum() else None

    def r2(w: Floats) -> float | None:
        if not w.sum():
            return None
        spread_N = (rows.truth - np.average(rows.truth, weights=w)) ** 2
        whole = float(w @ spread_N)
        return 1 - float(w @ square_N) / whole if whole else None

    return {"rmse": rmse, "r2": r2, "spearman": spearman(expected_N, rows.truth)}


def numbers(rows: Truth, expected: Mapping[str, Floats]) -> dict[str, dict[str, Any]]:
    """Model -> its numbers with every row counted once."""
    return {name: values(measures(rows, said), len(said)) for name, said in expected.items()}


def numbers_with_intervals(
    rows: Truth, expected: Mapping[str, Floats], reference: str
) -> dict[str, dict[str, Any]]:
    """Model -> its numbers, their 95 % intervals by group, and of its main number the difference to that of
    ``reference``, paired."""
    weights, main = resamples(rows.group), MAIN[rows.target]
    found = {name: measures(rows, said) for name, said in expected.items()}
    result: dict[str, dict[str, Any]] = {}
    for name, functions in found.items():
        result[name] = {
            **values(functions, len(rows.truth)),
            "intervals": intervals(functions, weights),
            f"{main}_minus_{reference}": paired_interval(functions[main], found[reference][main], weights),
        }
    return result


def is_reliable(rows: Truth) -> bool:
    """Whether there are enough rows to say anything."""
    return len(rows.truth) >= MIN_LABELLED
