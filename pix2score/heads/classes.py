"""Heads of kind ``classes``: one of several names that have no order.

Shapes: N images, K classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.heads.class_labels import ClassLabels
from pix2score.heads.probabilities import finite, log_softmax
from pix2score.heads.spec import (
    Calibration,
    Floats,
    Guess,
)
from pix2score.storage.arrow import fixed_lists

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
class ClassesHead(ClassLabels):
    """A head that says which of several classes an image belongs to."""

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
