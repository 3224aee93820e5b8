"""Heads whose bins are ordered: kinds ``bins`` (a number cut into bins) and ``levels`` (an ordered class).

Shapes: N images, K bins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.errors import DataError
from pix2score.heads import bins
from pix2score.heads.ordered_labels import OrderedLabels
from pix2score.heads.probabilities import finite, log_softmax
from pix2score.heads.spec import MISSING, Calibration, Floats, Guess, HeadSpec
from pix2score.storage.arrow import fixed_lists

_LARGEST = float(np.finfo(np.float32).max)  # an expected value beyond it would be infinite in its column
MAX_CLASS_WEIGHT = 10.0
"""A class of few rows may not outweigh more: its rows would be learnt by heart."""
_SUM_TOLERANCE = 1e-3  # float32 probabilities of up to 1,000 bins


@dataclass(frozen=True, slots=True)
class OrderedAnswer:
    """What one head says of N images.

    ``probs`` float32 [N, K], calibrated; ``bin`` int16 [N], their argmax; ``score`` float32 [N] in [0, 1],
    the expected quantile; ``expected`` float32 [N] in the head's own unit; ``median`` int16 [N], the bin in
    which half of the probability is reached: where labels tie, one bin is the most probable one of nearly
    every image, and this one still tells them apart.
    """

    probs: Floats
    bin: npt.NDArray[np.int16]
    score: Floats
    expected: Floats
    median: npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderedHead(OrderedLabels):
    """A head whose answer is a distribution over ordered bins."""

    def fit_warnings(self, asked: HeadSpec) -> list[str]:
        """Bins that ties merged, and bins without a training image."""
        assert isinstance(asked, OrderedLabels)
        found = []
        if asked.needs_learning and self.num_bins != asked.size:
            found.append(f"head {self.name}: ties merged {asked.size} bins into {self.num_bins}")
        empty = [k for k, number in enumerate(self.counts or ()) if not number]
        if empty:
            found.append(f"head {self.name}: no training image in bin {', '.join(map(str, empty))}")
        return found

    def check_learnable(self) -> None:
        """Raise ``DataError`` without labels, or with all of them in one bin."""
        rows = sum(self.counts or ())
        if not rows:
            raise DataError(
                f"head {self.name!r} has no label in the train split: remove the head or map another column"
            )
        if max(self.counts or ()) == rows:
            raise DataError(
                f"head {self.name!r}: all {rows} training labels lie in one bin of {self.num_bins}; there is "
                "nothing to learn"
            )

    def facts(self) -> int:
        """The number of its bins."""
        return self.num_bins

    def target_field(self) -> pa.Field:
        """``<h>_bin``."""
        return pa.field(f"{self.name}_bin", pa.int16(), nullable=False)

    def encode(self, labels: pa.Array) -> pa.Array:
        """Bin of each label, ``MISSING`` where it is null."""
        values = labels.fill_null(0).to_numpy(zero_copy_only=False)
        is_there = labels.is_valid().to_numpy(zero_copy_only=False)
        found = np.where(is_there, bins.digitize(values, self.bin_edges), np.int16(MISSING))
        return pa.array(found.astype(np.int16))

    def targets(self, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """int64 [N]."""
        return np.asarray(column.fill_null(MISSING).to_numpy().astype(np.int64))

    def targets_of(self, label_N: npt.NDArray[np.float64]) -> npt.NDArray[Any] | None:
        """Bins of numbers; of classes the nearest one."""
        edges = np.asarray(self.bin_edges, dtype=np.float64) - (0.5 if self.are_classes else 0.0)
        return np.asarray(np.digitize(np.nan_to_num(label_N), edges).astype(np.int64))

    def difference_from(self, other: HeadSpec) -> str:
        """Other edges."""
        if not isinstance(other, OrderedLabels):
            return f"{self.name} is of kind {self.kind} in the model, {other.kind} in the dataset"
        if self.bin_edges == other.bin_edges:
            return ""
        return f"{self.name} has edges {self.bin_edges} in the model, {other.bin_edges} in the dataset"

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.num_bins

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Share of each bin in the train split, [K], none of them 0: an empty one counts as one image."""
        counts = np.maximum(np.asarray(self.train_counts, dtype=np.float64), 1)
        return np.asarray(counts / counts.sum())

    @property
    def prior_nll(self) -> float:
        """NLL of the train split's shares as constant answer, on images with those shares; nats."""
        return float(-(self.shares * np.log(self.shares)).sum())

    @property
    def class_weights(self) -> npt.NDArray[np.float64]:
        """Weight of a row of each class, [K], 1 on average, with which all classes weigh the same.

        But none weighs more than ``MAX_CLASS_WEIGHT`` rows of a class that is as common as the others.
        """
        share_K = np.asarray(self.train_counts, dtype=np.float64) + 1
        share_K /= share_K.sum()
        weight_K = np.minimum(1 / (self.num_bins * share_K), MAX_CLASS_WEIGHT)
        return np.asarray(weight_K / (weight_K * share_K).sum())

    def initial_bias(self) -> Floats | None:
        """The logits that answer the train split's shares, as its loss sees them."""
        if self.loss_name == "logit_adjusted":  # adds the shares by itself
            return np.zeros(self.num_bins, dtype=np.float32)
        return np.log(self._best_constant()).astype(np.float32)

    @property
    def null_cost(self) -> float:
        """Of the best constant answer on the train split: of its shares, weighted where the loss weighs."""
        if self.loss_name == "squared_emd":
            return self._squared_emd_of_shares()
        return float(-(self._weighted_shares() * np.log(self._best_constant())).sum())

    def _weighted_shares(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.shares * (self.class_weights if self.loss_name == "class_weighted" else 1.0))

    def _best_constant(self) -> npt.NDArray[np.float64]:
        return np.asarray(self._weighted_shares() / self._weighted_shares().sum())

    def _squared_emd_of_shares(self) -> float:
        """As ``train.step.losses`` scales it: a uniform answer to uniform labels costs ln K."""
        steps_KK = np.tri(self.num_bins).T
        uniform_K = np.full(self.num_bins, 1 / self.num_bins)
        costs = [(share_K @ (share_K.cumsum() - steps_KK) ** 2).sum() for share_K in (self.shares, uniform_K)]
        return float(costs[0] / costs[1] * math.log(self.num_bins))

    def fields(self) -> list[pa.Field]:
        """``_bin``, ``_probs``, ``_score``, ``_expected``, and ``_median`` where it has one."""
        median = [pa.field(f"{self.name}_median", pa.int16())] if self.has_median else []
        return [
            pa.field(f"{self.name}_bin", pa.int16()),
            pa.field(f"{self.name}_probs", pa.list_(pa.float32(), self.num_bins)),
            pa.field(f"{self.name}_score", pa.float32()),
            pa.field(f"{self.name}_expected", pa.float32()),
            *median,
        ]

    def answer(self, outputs_NA: Floats, calibration: Calibration) -> OrderedAnswer:
        """Outputs are logits; ``calibration`` has their temperature."""
        scaled = finite(outputs_NA) / calibration.get("temperature", 1.0)
        probs = np.exp(log_softmax(scaled))
        probs_f32 = probs.astype(np.float32)
        expected = (probs @ np.asarray(self.typical_values, dtype=np.float64)).clip(-_LARGEST, _LARGEST)
        return OrderedAnswer(
            probs=probs_f32,
            bin=probs_f32.argmax(axis=1).astype(np.int16),
            score=(probs @ self.ranks).clip(0, 1).astype(np.float32),
            expected=expected.astype(np.float32),
            median=bins.median_bin(probs),
        )

    def columns(self, answer: OrderedAnswer) -> dict[str, pa.Array]:
        """In the order of ``fields``."""
        median = {f"{self.name}_median": pa.array(answer.median)} if self.has_median else {}
        return {
            f"{self.name}_bin": pa.array(answer.bin),
            f"{self.name}_probs": fixed_lists(answer.probs),
            f"{self.name}_score": pa.array(answer.score),
            f"{self.name}_expected": pa.array(answer.expected),
            **median,
        }

    def guess_sql(self, least: float) -> Guess:  # noqa: ARG002
        """The typical value of the most probable bin; of classes its number."""
        best = f"{self.name}_bin"
        values = ", ".join(repr(float(v)) for v in self.typical_values)
        label = best if self.are_classes else f"list_extract([{values}], {best} + 1)"
        kind = pa.int64() if self.are_classes else pa.float64()
        return Guess(label, kind, f"{self.name}_probs[{best} + 1]", f"CAST({best} AS VARCHAR)")

    def measured(self, answer: OrderedAnswer) -> Floats:
        """Log-probabilities: logits whose temperature is 1."""
        return np.asarray(np.log(np.maximum(answer.probs, np.finfo(np.float32).tiny)))

    def plain(self, answer: OrderedAnswer, row: int) -> dict[str, Any]:
        """Most probable bin, its range, and the numbers."""
        best = int(answer.bin[row])
        median = {"median": int(answer.median[row])} if self.has_median else {}
        return {
            "bin": best,
            "label": self.legend()[str(best)],
            "probs": answer.probs[row].tolist(),
            "score": float(answer.score[row]),
            "expected": float(answer.expected[row]),
            **median,
        }

    def text(self, plain: Mapping[str, Any]) -> str:
        """Range and probability of the best bin, expected value, score."""
        return (
            f"{plain['label']:>12} ({plain['probs'][plain['bin']]:4.0%})   expected "
            f"{plain['expected']:>12,.4g}   score {plain['score']:.3f}"
        )

    def legend(self) -> dict[str, str]:
        """Bin -> its range (or class) as people read it."""
        if self.are_classes:
            return {str(k): str(k) for k in range(self.num_bins)}
        return bins.labels(self.bin_edges, self.min_value)

    def bad_rows_sql(self) -> dict[str, str]:
        """Bin, probabilities, score, expected value and median agree."""
        name, probs = self.name, f"{self.name}_probs::FLOAT[]"
        median = f" OR {self._bad_median_sql(probs)}" if self.has_median else ""
        return {
            f"ok rows whose {name} is not a distribution with its argmax": (
                f"{name}_bin NOT BETWEEN 0 AND {self.num_bins - 1} "
                f"OR NOT abs(list_sum({probs}) - 1) < {_SUM_TOLERANCE} OR list_min({probs}) < 0 "
                f"OR ({probs})[{name}_bin + 1] < list_max({probs}) OR NOT isfinite({name}_expected) "
                f"OR NOT {name}_score BETWEEN 0 AND 1{median}"
            )
        }

    def _bad_median_sql(self, probs: str) -> str:
        """SQL: less than half of the probability up to it, or half of it before."""
        median = f"{self.name}_median"
        return (
            f"{median} NOT BETWEEN 0 AND {self.num_bins - 1} "
            f"OR list_sum(({probs})[:{median} + 1]) < 0.5 - {_SUM_TOLERANCE} "
            f"OR coalesce(list_sum(({probs})[:{median}]), 0) > 0.5 + {_SUM_TOLERANCE}"
        )

    @property
    def night_columns(self) -> list[str]:
        """Without the probabilities."""
        return [f"{self.name}_{suffix}" for suffix in ("bin", "score", "expected")]

    @property
    def order_column(self) -> str:
        """The score."""
        return f"{self.name}_score"

    def histogram(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """Rows by the bin of the train split in which their score lies.

        Not by ``_bin``: where labels tie, one bin is the most probable one of nearly every picture.
        """
        score = rows.column(f"{self.name}_score").drop_null().to_numpy()
        found = np.searchsorted(self.shares.cumsum()[:-1], score, side="right")
        return np.bincount(found, minlength=self.num_bins).astype(np.int64)

    def histogram_labels(self) -> list[str]:
        """Ranges as fit below a picture: ``36.9M-109M`` instead of ``36940052-1.08562e+08``."""
        if self.are_classes:
            return list(self.legend().values())
        bounds = [self.min_value, *self.bin_edges, math.inf]
        return [f"{bins.short(low)}-{bins.short(high)}" for low, high in itertools.pairwise(bounds)]

    def caption(self, row: Mapping[str, Any]) -> str:
        """Predicted bin and score."""
        label = self.histogram_labels()[row[f"{self.name}_bin"]]
        return f"{self.name} {label}, score {row[f'{self.name}_score']:.2f}"
