"""What heads of kind ``classes`` are given and learn: names without an order, and how often each occurs.

Shapes: N images, K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pix2score.errors import ConfigError, DataError
from pix2score.heads.number_labels import text_of
from pix2score.heads.spec import (
    MISSING,
    Check,
    HeadSpec,
    LabelColumn,
    TrainLabels,
    are_numbers,
    are_texts,
    is_whole,
)
from pix2score.heads.text_labels import spelled_sql

CLASSES = "classes"
MAX_CLASSES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassLabels(HeadSpec):
    """A head that says which of several classes an image belongs to."""

    kind: str = CLASSES
    names: tuple[str, ...] | None = None
    """``classes`` in a table: the names; by default those of the train split, the most frequent first."""
    min_images: int = 1
    """Names with fewer training images are no class: their labels are missing."""
    counts: tuple[int, ...] | None = None
    """Training rows per class; set by prepare."""

    LOSSES: ClassVar[tuple[str, ...]] = ("cross_entropy",)
    KEYS: ClassVar[Mapping[str, str]] = {"names": "classes"}
    LABEL: ClassVar[str] = "a text or a whole number"
    CHECKS: ClassVar[Mapping[str, tuple[str, Check]]] = {
        "classes": ("a list of texts", are_texts),
        "min_images": ("a whole number", is_whole),
        "counts": ("a list of numbers", are_numbers),
    }

    def __post_init__(self) -> None:
        HeadSpec.check(self)
        names = self.names
        if names is not None and (len(set(names)) < len(names) or not 2 <= len(names) <= MAX_CLASSES):
            raise ConfigError(
                f"head {self.name!r}: {len(names)} classes, {len(set(names))} of them different; between 2 "
                f"and {MAX_CLASSES} different ones are possible"
            )
        if self.min_images < 1:
            raise ConfigError(f"head {self.name!r}: min_images {self.min_images}: at least 1")

    # Labels

    @classmethod
    def accepts(cls, column: pa.DataType) -> bool:
        """Text, whole numbers, true and false."""
        is_text = pt.is_string(column) or pt.is_large_string(column) or pt.is_string_view(column)
        return bool(is_text or pt.is_integer(column) or pt.is_boolean(column) or pt.is_null(column))

    def label_type(self, columns: Sequence[LabelColumn]) -> pa.DataType:
        """Text."""
        return pa.string()

    def clean_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: the name as ``spelled_sql`` has it; of given ``classes`` only those."""
        name = spelled_sql(text_of(columns[0]), self.names or ())
        if self.names is None:
            return f"nullif({name}, '')"
        known = ", ".join(f"('{known.replace(chr(39), 2 * chr(39))}')" for known in self.names)
        return f"CASE WHEN {name} IN ({known}) THEN {name} END"

    def given_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: what the column holds; nothing where that is blank."""
        return f"nullif({spelled_sql(text_of(columns[0]))}, '')"

    def reason_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: no_such_class."""
        return "'no_such_class'"

    def expected_label(self, reason: str) -> str:
        """The classes."""
        return f": classes are {', '.join((self.names or ())[:10])}"

    def fit(self, labels: TrainLabels) -> Self:
        """With names and counts. Raises ``DataError`` for more classes than can be."""
        found: dict[str, int] = {}
        for batch in labels("SELECT label, count(*) FROM labels GROUP BY 1 ORDER BY 2 DESC, 1"):
            found |= dict(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        names = self.names or tuple(name for name, number in found.items() if number >= self.min_images)
        if len(names) > MAX_CLASSES:
            raise DataError(
                f"head {self.name!r}: column {self.column} has {len(names)} classes of at least "
                f"{self.min_images} training images, at most {MAX_CLASSES} are possible; raise min_images"
            )
        if len(names) < 2:
            frequent = ", ".join(f"{name} ({number})" for name, number in list(found.items())[:10])
            raise DataError(
                f"head {self.name!r}: column {self.column} has fewer than two classes of at least "
                f"{self.min_images} training images; it has {frequent or 'no label'}"
            )
        return replace(self, names=names, counts=tuple(found.get(name, 0) for name in names))

    def fit_warnings(self, asked: HeadSpec) -> list[str]:
        """Classes without a training image."""
        empty = [n for n, number in zip(self.classes, self.train_counts, strict=True) if not number]
        return [f"head {self.name}: no training image of {', '.join(empty)}"] if empty else []

    def check_learnable(self) -> None:
        """Raise ``DataError`` where all training labels are of one class."""
        if max(self.train_counts) == sum(self.train_counts):
            raise DataError(
                f"head {self.name!r}: all {sum(self.train_counts)} training labels are of one class; there "
                "is nothing to learn"
            )

    def facts(self) -> int:
        """The number of its classes."""
        return len(self.classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, [K]; none before prepare learnt them."""
        return self.names or ()

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Training rows per class, [K]; one each where nothing was learnt yet."""
        return self.counts or (1,) * len(self.classes)

    @property
    def prior(self) -> npt.NDArray[np.float64]:
        """Share of each class in the train split, [K], none of them 0: an empty one counts as one image."""
        counts = np.maximum(np.asarray(self.train_counts, dtype=np.float64), 1)
        return np.asarray(counts / counts.sum())

    # Targets

    def target_field(self) -> pa.Field:
        """``<h>_id``."""
        return pa.field(f"{self.name}_id", pa.int16(), nullable=False)

    def encode(self, labels: pa.Array) -> pa.Array:
        """Number of each class, ``MISSING`` where the label is null or no class of the train split."""
        found = pc.index_in(labels, value_set=pa.array(self.classes, pa.string()))
        return found.fill_null(MISSING).cast(pa.int16())

    def targets(self, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """int64 [N]."""
        return np.asarray(column.fill_null(MISSING).to_numpy().astype(np.int64))

    def label_values(self, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
        """Number of each class, [N]."""
        ids = pc.index_in(column, value_set=pa.array(self.classes, pa.string()))
        return np.asarray(ids.cast(pa.float64()).to_numpy())

    def difference_from(self, other: HeadSpec) -> str:
        """Other classes."""
        if not isinstance(other, ClassLabels):
            return f"{self.name} is of kind {self.kind} in the model, {other.kind} in the dataset"
        if self.classes == other.classes:
            return ""
        return f"{self.name} has other classes in the model than in the dataset, or in another order"
