"""What a yes-or-no head is given and learns: which labels are yes, and how common they are."""

from __future__ import annotations

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
from pix2score.heads.spec import MISSING, Check, HeadSpec, LabelColumn, TrainLabels, are_numbers, are_texts
from pix2score.heads.text_labels import composed, spelled_sql
from pix2score.storage.quoting import literal

BINARY = "binary"
BALANCED = "balanced"
MIN_EACH = 20
"""Training images of either answer below which prepare warns: a validation split then holds one or two."""
_NO_ANSWER = "not_yes_or_no"
_EMPTY = "empty"


@dataclass(frozen=True, kw_only=True, slots=True)
class BinaryLabels(HeadSpec):
    """A head whose label is yes or no.

    The column holds true and false, 1 and 0, or, with ``positive``, texts: those named are yes, every other
    one is no.
    """

    kind: str = BINARY
    loss: str = "auto"
    """auto: bce, the cross-entropy. focal: the same, an image that is answered well counting less."""
    positive: tuple[str, ...] | None = None
    """Texts that mean yes; None: the column holds true and false or 1 and 0."""
    positive_weight: float | str = 1.0
    """How many images without the property one with it counts as in the loss; "balanced": as many as there
    are for each. The calibration takes it back, so that a probability stays one."""
    counts: tuple[int, ...] | None = None
    """Training rows that are no, and yes; set by prepare."""

    LOSSES: ClassVar[tuple[str, ...]] = ("bce", "focal")
    LABEL: ClassVar[str] = 'true or false, 1 or 0, or text of which positive = ["…"] names what means yes'
    CHECKS: ClassVar[Mapping[str, tuple[str, Check]]] = {
        "positive": ("a list of texts", are_texts),
        "positive_weight": ('a number or "balanced"', lambda v: v == BALANCED or are_numbers((v,))),
        "counts": ("a list of numbers", are_numbers),
    }

    @property
    def loss_name(self) -> str:
        """In ``train.step.losses``, where tags have a bce of their own."""
        return "binary_focal" if self.loss == "focal" else "binary_cross_entropy"

    def __post_init__(self) -> None:
        HeadSpec.check(self)
        weight = self.positive_weight
        if weight != BALANCED and not (isinstance(weight, int | float) and 0 < weight < math.inf):
            raise ConfigError(
                f"head {self.name!r}: positive_weight {weight} must be a positive number or balanced"
            )
        if self.positive is not None and not self.positive:
            raise ConfigError(f"head {self.name!r}: positive is empty; name the texts that mean yes")

    @classmethod
    def accepts(cls, column: pa.DataType) -> bool:
        """Whole numbers and other ones, true and false, and text."""
        return can_hold_numbers(column)

    def label_type(self, columns: Sequence[LabelColumn]) -> pa.DataType:
        """int8: 1 is yes."""
        return pa.int8()

    def clean_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: 1 or 0; null where the column says neither."""
        (column,) = columns
        if self.positive is not None:
            yes = ", ".join(literal(composed(text)) for text in self.positive)
            text = spelled_sql(text_of(column))
            return f"CASE WHEN {text} IN ({yes}) THEN 1 WHEN {text} <> '' THEN 0 END::TINYINT"
        return f"CASE WHEN {_is(column, 1)} THEN 1 WHEN {_is(column, 0)} THEN 0 END::TINYINT"

    def given_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: what the column holds."""
        return text_of(columns[0])

    def reason_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: empty or not_yes_or_no."""
        return f"CASE WHEN trim({text_of(columns[0])}) = '' THEN '{_EMPTY}' ELSE '{_NO_ANSWER}' END"

    def expected_label(self, reason: str) -> str:
        """What labels must be."""
        if reason == _EMPTY:
            return ""
        return (
            ': labels must be true or false, or 1 or 0; of texts, positive = ["…"] names those that mean yes'
            "; of other numbers, take kind value or bins"
        )

    def fit(self, labels: TrainLabels) -> Self:
        """With the number of rows of each answer. Raises ``DataError`` without any."""
        sql = "SELECT count(*) FILTER (label = 0), count(*) FILTER (label = 1) FROM labels"
        (no,), (yes,) = (column.to_pylist() for column in next(labels(sql)).columns)
        if not no + yes:
            raise DataError(
                f"head {self.name!r} has no label in the train split; column {self.column!r} is empty there"
            )
        return replace(self, counts=(no, yes))

    def fit_warnings(self, asked: HeadSpec) -> list[str]:
        """An answer that is too rare to be learnt."""
        no, yes = self.counts or (0, 0)
        if min(no, yes) >= MIN_EACH:
            return []
        return [
            f"head {self.name}: {yes} training images are yes and {no} are no; few of either teach little"
        ]

    def check_learnable(self) -> None:
        """Raise ``DataError`` unless both answers occur."""
        no, yes = self.counts or (0, 0)
        if no and yes:
            return
        named = (
            f"; positive = {list(self.positive)} must be written as in the column" if self.positive else ""
        )
        raise DataError(
            f"head {self.name!r}: of {no + yes} training labels in column {self.column!r} {yes} are yes and "
            f"{no} are no; there is nothing to learn{named if not yes else ''}"
        )

    def facts(self) -> dict[str, int]:
        """Rows of each answer."""
        no, yes = self.counts or (0, 0)
        return {"no": no, "yes": yes}

    def target_field(self) -> pa.Field:
        """``<h>_yes``."""
        return pa.field(f"{self.name}_yes", pa.int8(), nullable=False)

    def encode(self, labels: pa.Array) -> pa.Array:
        """1, 0, or ``MISSING``."""
        return labels.fill_null(MISSING).cast(pa.int8())

    def targets(self, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """int64 [N]."""
        return np.asarray(column.fill_null(MISSING).to_numpy().astype(np.int64))

    def label_values(self, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
        """[N]: 1 is yes."""
        return np.asarray(column.cast(pa.float64()).to_numpy())

    def difference_from(self, other: HeadSpec) -> str:
        """Other texts that mean yes."""
        if not isinstance(other, BinaryLabels):
            return f"{self.name} is of kind {self.kind} in the model, {other.kind} in the dataset"
        if self.positive == other.positive:
            return ""
        return f"{self.name} has positive = {self.positive} in the model, {other.positive} in the dataset"


def _is(column: LabelColumn, answer: int) -> str:
    """SQL: whether a column says yes (1) or no (0), as a number, a truth value or the word for it."""
    if pt.is_boolean(column.type):
        return column.sql if answer else f"NOT {column.sql}"
    number = f"TRY_CAST({column.sql} AS DOUBLE) = {answer}"
    is_text = not (pt.is_integer(column.type) or pt.is_floating(column.type) or pt.is_decimal(column.type))
    word = f"lower(trim({text_of(column)})) = '{'true' if answer else 'false'}'"
    return f"({number} OR {word})" if is_text else number
