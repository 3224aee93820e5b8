"""Heads of kind ``classes``: one of several names that have no order.

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
from pix2score.heads.probabilities import finite, log_softmax
from pix2score.heads.spec import (
    MISSING,
    Calibration,
    Check,
    Floats,
    Guess,
    HeadSpec,
    LabelColumn,
    TrainLabels,
    are_numbers,
    are_texts,
    is_whole,
)
from pix2score.heads.text_labels import spelled_sql
from pix2score.storage.arrow import fixed_lists

CLASSES = "classes"
MAX_CLASSES = 1000
_SUM_TOLERANCE = 1e-3  # float32 probabilities of up to 1,000 classes
NUM_SAID = 3


@dataclass(frozen=True, slots=True)
class ClassAnswer:
    """What one head says of N images.

    ``probs`` float32 [N, K], calibrated; ``best`` int64 [N], the most probable class, and ``prob`` float32
    [N], its probability.
    """

    probs: Floats
    best: npt.NDArray[np.int64]
    prob: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassesHead(HeadSpec):
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
        return f"nullif(trim({text_of(columns[0])}), '')"

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
        if not isinstance(other, ClassesHead):
            return f"{self.name} is of kind {self.kind} in the model, {other.kind} in the dataset"
        if self.classes == other.classes:
            return ""
        return f"{self.name} has other classes in the model than in the dataset, or in another order"

    # Network

    @property
    def num_outputs(self) -> int:
        """K."""
        return len(self.classes)

    def initial_bias(self) -> Floats:
        """Logarithms of the train split's shares."""
        return np.log(self.prior).astype(np.float32)

    @property
    def null_cost(self) -> float:
        """Entropy of the train split's shares, nats."""
        return float(-(self.prior * np.log(self.prior)).sum())

    # Answers

    def fields(self) -> list[pa.Field]:
        """``_class``, ``_prob`` and ``_probs``."""
        return [
            pa.field(f"{self.name}_class", pa.string()),
            pa.field(f"{self.name}_prob", pa.float32()),
            pa.field(f"{self.name}_probs", pa.list_(pa.float32(), len(self.classes))),
        ]

    def answer(self, outputs_NA: Floats, calibration: Calibration) -> ClassAnswer:
        """Outputs are logits; ``calibration`` has their temperature."""
        scaled = finite(outputs_NA) / calibration.get("temperature", 1.0)
        probs = np.exp(log_softmax(scaled)).astype(np.float32)
        return ClassAnswer(probs, probs.argmax(axis=1), probs.max(axis=1))

    def columns(self, answer: ClassAnswer) -> dict[str, pa.Array]:
        """In the order of ``fields``."""
        return {
            f"{self.name}_class": pa.array(self.classes, pa.string()).take(pa.array(answer.best)),
            f"{self.name}_prob": pa.array(answer.prob),
            f"{self.name}_probs": fixed_lists(answer.probs),
        }

    def guess_sql(self, least: float) -> Guess:  # noqa: ARG002
        """The most probable class, by name."""
        name = f"{self.name}_class"
        return Guess(name, pa.string(), f"{self.name}_prob", name)

    def measured(self, answer: ClassAnswer) -> Floats:
        """Log-probabilities: logits whose temperature is 1."""
        return np.asarray(np.log(np.maximum(answer.probs, np.finfo(np.float32).tiny)))

    def plain(self, answer: ClassAnswer, row: int) -> dict[str, Any]:
        """Most probable class, and all probabilities."""
        return {
            "class": self.classes[answer.best[row]],
            "prob": float(answer.prob[row]),
            "probs": answer.probs[row].tolist(),
        }

    def text(self, plain: Mapping[str, Any]) -> str:
        """The most probable classes."""
        order = np.argsort(-np.asarray(plain["probs"]), kind="stable")[:NUM_SAID]
        return ", ".join(f"{self.classes[k]} {plain['probs'][k]:.0%}" for k in order)

    def legend(self) -> dict[str, str]:
        """Number of a class -> its name."""
        return {str(k): name for k, name in enumerate(self.classes)}

    # The scores table

    def bad_rows_sql(self) -> dict[str, str]:
        """The class is the most probable one of a distribution."""
        name, probs = self.name, f"{self.name}_probs::FLOAT[]"
        known = ", ".join(f"'{known.replace(chr(39), 2 * chr(39))}'" for known in self.classes)
        return {
            f"ok rows whose {name} is not the most probable class of a distribution": (
                f"NOT abs(list_sum({probs}) - 1) < {_SUM_TOLERANCE} OR list_min({probs}) < 0 "
                f"OR {name}_prob <> list_max({probs}) "
                f"OR {name}_class <> ([{known}])[list_position({probs}, {name}_prob)]"
            )
        }

    @property
    def night_columns(self) -> list[str]:
        """Class and probability."""
        return [f"{self.name}_class", f"{self.name}_prob"]

    @property
    def order_column(self) -> str | None:
        """How sure the answer is."""
        return f"{self.name}_prob"

    def histogram(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """Rows per class."""
        said = rows.column(f"{self.name}_class")
        ids = pc.index_in(said, value_set=pa.array(self.classes, pa.string())).drop_null()
        return np.bincount(ids.to_numpy(), minlength=len(self.classes)).astype(np.int64)

    def histogram_labels(self) -> list[str]:
        """The classes."""
        return list(self.classes)

    def caption(self, row: Mapping[str, Any]) -> str:
        """Class and probability."""
        return f"{self.name} {row[f'{self.name}_class']} ({row[f'{self.name}_prob']:.0%})"
