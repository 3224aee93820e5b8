"""What heads of kind ``distribution`` are given and learn: votes per class, and the answers that those make.

Shapes: K classes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from pix2score.errors import ConfigError, DataError
from pix2score.heads.number_labels import can_hold_numbers, text_of
from pix2score.heads.quantiles import quantiles_sql
from pix2score.heads.spec import (
    Check,
    HeadSpec,
    LabelColumn,
    TrainLabels,
    are_numbers,
    are_texts,
    is_number,
)
from pix2score.heads.votes import VoteSums, votes_of

DISTRIBUTION = "distribution"
MAX_CLASSES = 100  # readable reports; ratings have 5 or 10
MAX_VOTES = 1e30
"""Of one class: their sum stays finite in float32."""
HALF_TRUSTED = 10.0
"""So many votes weigh half of what endless ones do: n / (n + 10)."""
_ROUNDING = 1e-9  # of sums over the train split


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributionLabels(HeadSpec):
    """A head whose label is how people voted, and whose answer is how they would vote.

    Votes may be counts or shares. Classes are values on a scale, in ascending order: stars, or -1, 0, 1.
    """

    kind: str = DISTRIBUTION
    column: str = ""
    """One list column with the votes of all classes."""
    vote_columns: tuple[str, ...] | None = None
    """``columns`` in a table: one column for each class."""
    values: tuple[float, ...] | None = None
    """What each class counts for, strictly increasing; by default 0, 1, …"""
    weight_by_votes: bool = True
    """An image of n votes weighs n / (n + 10) in training, for one vote says little; false: all the same.
    Has no effect on shares, whose votes are not known."""
    num_train: int = 0
    """Training rows; this and what follows is set by prepare."""
    mean_shares: tuple[float, ...] | None = None
    """Mean share of each class, weighted."""
    mean_weight: float = 1.0
    """Of a training row before weights are scaled to a mean of 1."""
    spread: float = 0.0
    """What ``mean_shares`` as a constant answer costs in ``squared_emd``."""
    quantiles: tuple[float, ...] | None = None
    """Every hundredth of the training rows' mean values."""

    LOSSES: ClassVar[tuple[str, ...]] = ("cross_entropy", "squared_emd")
    KEYS: ClassVar[Mapping[str, str]] = {"vote_columns": "columns"}
    LABEL: ClassVar[str] = "a number in each of columns, or a list of numbers in column"
    CHECKS: ClassVar[Mapping[str, tuple[str, Check]]] = {
        "columns": ("a list of column names", are_texts),
        "weight_by_votes": ("true or false", lambda value: isinstance(value, bool)),
        **dict.fromkeys(("values", "mean_shares", "quantiles"), ("a list of numbers", are_numbers)),
        **dict.fromkeys(("num_train", "mean_weight", "spread"), ("a number", is_number)),
    }

    def __post_init__(self) -> None:
        HeadSpec.check(self)
        if bool(self.column) == bool(self.vote_columns):
            raise ConfigError(
                f"head {self.name!r}: give columns = […], one for each class, or column, which holds lists"
            )
        if self.vote_columns and len(set(self.vote_columns)) < len(self.vote_columns):
            raise ConfigError(f"head {self.name!r}: columns {list(self.vote_columns)} name one twice")
        if self.column and self.values is None:
            raise ConfigError(
                f"head {self.name!r}: give values = […], one for each place of the lists in {self.column}"
            )
        self._check_values()

    def _check_values(self) -> None:
        values = self.class_values
        if self.vote_columns and len(values) != len(self.vote_columns):
            raise ConfigError(
                f"head {self.name!r}: {len(self.vote_columns)} columns, but {len(values)} values"
            )
        if not 2 <= len(values) <= MAX_CLASSES:
            raise ConfigError(
                f"head {self.name!r}: {len(values)} classes; between 2 and {MAX_CLASSES} are possible"
            )
        if not all(math.isfinite(v) for v in values) or any(b <= a for a, b in itertools.pairwise(values)):
            raise ConfigError(
                f"head {self.name!r}: values {list(values)} must be finite and strictly increasing; order "
                "the columns by them"
            )

    @property
    def loss_name(self) -> str:
        """Of a whole distribution: the names of an ordered head's losses are those of single labels."""
        return f"soft_{self.LOSSES[0] if self.loss == 'auto' else self.loss}"

    @property
    def class_values(self) -> tuple[float, ...]:
        """What each class counts for, [K]."""
        return (
            self.values if self.values is not None else tuple(map(float, range(len(self.vote_columns or ()))))
        )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_values)

    @property
    def prior(self) -> npt.NDArray[np.float64]:
        """The train split's shares, [K], with one more row spread over all classes, so that none is 0."""
        k = self.num_classes
        shares = np.full(k, 1 / k) if self.mean_shares is None else np.asarray(self.mean_shares)
        return np.asarray((shares * self.num_train + 1 / k) / (self.num_train + 1))

    @property
    def label_columns(self) -> tuple[str, ...]:
        """One for each class, or the one of lists."""
        return self.vote_columns or (self.column,)

    @classmethod
    def accepts(cls, column: pa.DataType) -> bool:
        """Numbers, text that may hold them, and lists of those."""
        return can_hold_numbers(column.value_type if pt.is_list(column) else column)

    def label_type(self, columns: Sequence[LabelColumn]) -> pa.DataType:
        """Votes of each class, a fixed list of float32 [K].

        Raises ``DataError`` where one of ``columns`` holds lists, or ``column`` holds none.
        """
        for name, column in zip(self.label_columns, columns, strict=True):
            if pt.is_list(column.type) == bool(self.vote_columns):
                wanted = "a number: the votes of one class" if self.vote_columns else "a list of numbers"
                raise DataError(
                    f"head {self.name!r}: column {name} is of type {column.type}, expected {wanted}"
                )
        return pa.list_(pa.float32(), self.num_classes)

    def clean_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: the votes, if there are any, and none is missing or negative."""
        votes = self._votes_sql(columns)
        legal = (
            f"len({votes}) = {self.num_classes} AND list_count({votes}) = {self.num_classes} "
            f"AND list_min({votes}) >= 0 AND list_max({votes}) BETWEEN {1 / MAX_VOTES} AND {MAX_VOTES}"
        )
        return f"CASE WHEN {legal} THEN CAST({votes} AS FLOAT[{self.num_classes}]) END"

    def _votes_sql(self, columns: Sequence[LabelColumn]) -> str:
        if not self.vote_columns:
            return f"TRY_CAST({columns[0].sql} AS DOUBLE[])"
        return f"[{', '.join(f'TRY_CAST({column.sql} AS DOUBLE)' for column in columns)}]"

    def given_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: what the columns hold."""
        if not self.vote_columns:
            return text_of(columns[0])
        texts = [text_of(column) for column in columns]
        return f"CASE WHEN coalesce({', '.join(texts)}) IS NOT NULL THEN [{', '.join(texts)}]::VARCHAR END"

    def reason_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: wrong_length, not_a_number, not_finite, negative or all_zero."""
        votes = self._votes_sql(columns)
        return (
            f"CASE WHEN len({votes}) <> {self.num_classes} THEN 'wrong_length' "
            f"WHEN {votes} IS NULL OR list_count({votes}) < {self.num_classes} THEN 'not_a_number' "
            f"WHEN list_min({votes}) < 0 THEN 'negative' "
            f"WHEN list_max({votes}) > {MAX_VOTES} THEN 'not_finite' ELSE 'all_zero' END"
        )

    def expected_label(self, reason: str) -> str:
        """What votes must be."""
        if reason == "wrong_length":
            return f": lists must have {self.num_classes} numbers, one for each of values"
        if reason == "not_a_number":
            return ": every class must have a number, 0 where nobody voted for it"
        return ": votes must not be negative, and some must be above 0"

    def fit(self, labels: TrainLabels) -> Self:
        """With mean shares, mean weight, spread and quantiles. Raises ``DataError`` without labels."""
        sums = VoteSums(self.num_classes)
        for batch in labels("SELECT label, count(*) FROM labels GROUP BY 1 ORDER BY 1"):
            votes, count = votes_of(batch.column(0)), batch.column(1).to_numpy(zero_copy_only=False)
            sums.add(votes, self.vote_weight(votes) * count, count)
        if not sums.rows:
            raise DataError(
                f"head {self.name!r} has no label in the train split; column "
                f"{', '.join(self.label_columns)} is empty there"
            )
        (found,) = labels(f"SELECT {quantiles_sql(self._mean_sql('label'))} FROM labels")
        return replace(
            self,
            num_train=sums.rows,
            mean_shares=tuple((sums.shares / sums.weight).tolist()),
            mean_weight=sums.weight / sums.rows,
            spread=sums.spread(self.steps()),
            quantiles=tuple(found.column(0)[0].as_py()),
        )

    def _mean_sql(self, label: str) -> str:
        values = ", ".join(map(repr, map(float, self.class_values)))
        votes = f"CAST({label} AS DOUBLE[])"
        return f"list_inner_product({votes}, [{values}]::DOUBLE[]) / list_sum({votes})"

    def vote_weight(self, votes_NK: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Weight of each row in training, [N], before it is scaled."""
        num = votes_NK.sum(axis=1, dtype=np.float64)
        return num / (num + HALF_TRUSTED) if self.weight_by_votes else np.ones(len(num))

    def steps(self) -> npt.NDArray[np.float64]:
        """[K - 1]: distance of each value from the next, on average 1."""
        step = np.diff(np.asarray(self.class_values, dtype=np.float64))
        return np.asarray(step / step.mean())

    def fit_warnings(self, asked: HeadSpec) -> list[str]:
        """Classes that nobody voted for."""
        empty = [f"{self.class_values[k]:g}" for k, share in enumerate(self.mean_shares or ()) if not share]
        return [f"head {self.name}: no training image has a vote for {', '.join(empty)}"] if empty else []

    def check_learnable(self) -> None:
        """Raise ``DataError`` where all training labels have the same shares."""
        if self.spread <= _ROUNDING:
            raise DataError(
                f"head {self.name!r}: all {self.num_train} training labels have the same shares; there is "
                "nothing to learn"
            )

    def facts(self) -> int:
        """The number of its classes."""
        return self.num_classes
