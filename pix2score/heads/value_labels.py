"""What a head of a plain number is given and learns: which labels count, and how they are spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.errors import ConfigError, DataError
from pix2score.heads.number_labels import (
    NOT_A_NUMBER,
    NumberLabels,
    bounded,
    number_sql,
)
from pix2score.heads.quantiles import quantiles_sql
from pix2score.heads.spec import Check, HeadSpec, LabelColumn, TrainLabels, are_numbers, is_number

VALUE = "value"
LARGEST = float(np.finfo(np.float32).max)
FAR = 20.0
"""Standard deviations from the mean at which one label outweighs hundreds in a squared error."""
_OUTSIDE = "outside_range"


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueLabels(NumberLabels):
    """A head whose answer is a number in the label's own unit."""

    kind: str = VALUE
    loss: str = "auto"
    """auto: mse. smooth_l1: beyond a standard deviation the error counts once, not squared. expected: the
    mean of a distribution over 9 values, by its cross-entropy and its squared error (ComboLoss). pairwise:
    the order of every two images of a batch alone; the calibration gives it the label's unit."""
    range: tuple[float, ...] | None = None
    """Least and greatest label; others are dropped, and answers are held within."""
    label_noise: float = 0.0
    """Standard deviation, in the label's own unit, of noise on training labels: about what raters disagree
    by."""
    mean: float | None = None
    """Of the train split; it, ``std`` and ``quantiles`` are set by prepare."""
    std: float | None = None
    quantiles: tuple[float, ...] | None = None
    """Every hundredth, 101 in all."""

    LOSSES: ClassVar[tuple[str, ...]] = ("mse", "smooth_l1", "expected", "pairwise")
    LABEL: ClassVar[str] = "a number"
    CHECKS: ClassVar[Mapping[str, tuple[str, Check]]] = {
        "range": ("a list of two numbers, the least and the greatest label", are_numbers),
        "quantiles": ("a list of numbers", are_numbers),
        "label_noise": ("a number", is_number),
        **dict.fromkeys(("mean", "std"), ("a number", lambda value: value is None or is_number(value))),
    }

    def __post_init__(self) -> None:
        HeadSpec.check(self)
        if not 0 <= self.label_noise < math.inf:
            raise ConfigError(f"head {self.name!r}: label_noise {self.label_noise} must be 0 or more")
        if self.range is None:
            return
        if len(self.range) != 2 or not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise ConfigError(
                f"head {self.name!r}: range {list(self.range)} must be two numbers, the least label and then "
                "the greatest"
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest label and answer: without ``range`` what float32 holds."""
        low, high = self.range or (-LARGEST, LARGEST)
        return float(low), float(high)

    @property
    def label_bounds(self) -> tuple[float, float] | None:
        """``bounds``."""
        return self.bounds

    def clean_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: the number, if it lies in the range."""
        number = number_sql(columns[0])
        return f"CASE WHEN {bounded(number, *self.bounds)} THEN {number} END"

    def reason_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: not_a_number, not_finite or outside_range."""
        number = number_sql(columns[0])
        return (
            f"CASE WHEN {number} IS NULL THEN '{NOT_A_NUMBER}' WHEN NOT isfinite(CAST({number} AS DOUBLE)) "
            f"THEN 'not_finite' ELSE '{_OUTSIDE}' END"
        )

    def expected_label(self, reason: str) -> str:
        """What labels must be."""
        if reason == NOT_A_NUMBER:
            return (
                ": labels must be numbers, with a point and without separators of thousands; of words, kind "
                "binary takes those of positive as yes"
            )
        if reason != _OUTSIDE:
            return ""
        low, high = self.bounds
        return f": range is {low:g} to {high:g}" if self.range else f": at most {LARGEST:.2g} is possible"

    def fit(self, labels: TrainLabels) -> Self:
        """With mean, deviation and quantiles. Raises ``DataError`` without a label."""
        num, total = (sum(column) for column in zip(*_sums(labels, 0.0), strict=True))
        if not num:
            raise DataError(
                f"head {self.name!r} has no label in the train split; column {self.column!r} is empty there"
            )
        mean = total / num
        shift, square = (sum(column) / num for column in zip(*_moments(labels, mean), strict=True))
        quantiles = next(labels(f"SELECT {quantiles_sql('label')} FROM labels")).column(0)[0].as_py()
        return replace(
            self, mean=mean, std=math.sqrt(max(0.0, square - shift**2)), quantiles=tuple(quantiles)
        )

    def fit_warnings(self, asked: HeadSpec) -> list[str]:
        """A label so far from the others that the squared error is about little else."""
        mean, std, ends = self.mean or 0.0, self.std or 0.0, (self.quantiles or (0.0,))
        far = max((ends[0], ends[-1]), key=lambda end: abs(end - mean))
        if not std or abs(far - mean) < FAR * std:
            return []
        return [
            f"head {self.name}: a label of {far:g} lies {abs(far - mean) / std:.0f} standard deviations from "
            f"the mean of {mean:g}; give the range of the labels, or take kind bins for counts"
        ]

    def check_learnable(self) -> None:
        """Raise ``DataError`` unless training labels differ."""
        if not self.std:
            raise DataError(
                f"head {self.name!r}: all training labels in column {self.column!r} are {self.mean:g}; there "
                "is nothing to learn"
            )

    def facts(self) -> dict[str, float | None]:
        """Mean and deviation."""
        return {"mean": self.mean, "std": self.std}

    def target_field(self) -> pa.Field:
        """``<h>_number``, in the label's own unit."""
        return pa.field(f"{self.name}_number", pa.float32(), nullable=False)

    def encode(self, labels: pa.Array) -> pa.Array:
        """float32, NaN where there is no label."""
        return labels.cast(pa.float64(), safe=False).cast(pa.float32(), safe=False).fill_null(math.nan)

    def targets(self, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """float32 [N]."""
        return np.asarray(column.fill_null(math.nan).to_numpy())

    def targets_of(self, label_N: npt.NDArray[np.float64]) -> npt.NDArray[Any] | None:
        """The numbers."""
        return label_N

    def own_noise(self) -> float:
        """``label_noise``."""
        return self.label_noise

    def difference_from(self, other: HeadSpec) -> str:
        """Another kind; what is learnt of the labels may differ, as they stay in their own unit."""
        if isinstance(other, ValueLabels):
            return ""
        return f"{self.name} is of kind {self.kind} in the model, {other.kind} in the dataset"


def _sorted(labels: TrainLabels) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]:
    """Distinct labels and how often each occurs, in one order: sums are then the same on every machine."""
    for batch in labels("SELECT label, count(*) FROM labels GROUP BY 1 ORDER BY 1"):
        values, counts = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        yield values.astype(np.float64), counts


def _sums(labels: TrainLabels, centre: float) -> Iterator[tuple[int, float]]:
    yield 0, 0.0
    for values, counts in _sorted(labels):
        yield int(counts.sum()), float(((values - centre) * counts).sum())


def _moments(labels: TrainLabels, centre: float) -> Iterator[tuple[float, float]]:
    """Sums of the labels' distances from ``centre``, and of their squares."""
    for values, counts in _sorted(labels):
        away = values - centre
        yield float((away * counts).sum()), float((away**2 * counts).sum())
