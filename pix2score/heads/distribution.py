"""Heads of kind ``distribution``: how people's votes fall on the values of a scale.

Shapes: N images, K classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.heads.distribution_labels import DistributionLabels
from pix2score.heads.probabilities import finite, log_softmax
from pix2score.heads.quantiles import quantile_of
from pix2score.heads.spec import Calibration, Floats, HeadSpec
from pix2score.heads.votes import shares_of, votes_of
from pix2score.storage.arrow import fixed_lists

NUM_STEPS = 10
"""Of the score, in histograms of a night."""
_NUMBERS = ("value", "std", "score")
_SUM_TOLERANCE = 1e-4  # float32 probabilities of up to 100 classes


@dataclass(frozen=True, slots=True)
class DistributionAnswer:
    """What one head says of N images.

    ``probs`` float32 [N, K], calibrated; ``value`` and ``std`` float32 [N], their mean and standard
    deviation in the unit of the classes' values; ``score`` float32 [N] in [0, 1], the quantile of ``value``
    among the means of the train split.
    """

    probs: Floats
    value: Floats
    std: Floats
    score: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributionHead(DistributionLabels):
    """A head whose answer is a distribution over the values of a scale, as people's votes are."""

    def target_field(self) -> pa.Field:
        """``<h>_shares``: share of each class, then the weight in training; mean 1 in the train split."""
        return pa.field(f"{self.name}_shares", pa.list_(pa.float32(), self.num_classes + 1))

    def encode(self, labels: pa.Array) -> pa.Array:
        """Shares and weight of each label, null where it is null."""
        votes = votes_of(labels.drop_null())
        weight = self.vote_weight(votes) / self.mean_weight
        rows = np.concatenate([shares_of(votes), weight[:, None]], axis=1).astype(np.float32)
        is_there = labels.is_valid().to_numpy(zero_copy_only=False)
        row = np.cumsum(is_there) - 1
        return fixed_lists(rows).take(pa.array(row, mask=~is_there)).cast(self.target_field().type)

    def targets(self, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """float32 [N, K + 1], NaN where missing."""
        return _with_nan(column, self.num_classes + 1).astype(np.float32)

    def label_values(self, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
        """Votes, [N, K]."""
        return _with_nan(column, self.num_classes)

    def difference_from(self, other: HeadSpec) -> str:
        """Other values."""
        if not isinstance(other, DistributionLabels):
            return f"{self.name} is of kind {self.kind} in the model, {other.kind} in the dataset"
        if self.class_values == other.class_values:
            return ""
        return f"{self.name} has values {self.class_values} in the model, {other.class_values} in the dataset"

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.num_classes

    def initial_bias(self) -> Floats:
        """Logarithms of the train split's shares."""
        return np.log(self.prior).astype(np.float32)

    @property
    def null_cost(self) -> float:
        """What the train split's mean shares cost as a constant answer."""
        if self.loss_name == "soft_squared_emd":
            return self.spread or 1.0
        return self.prior_entropy

    @property
    def prior_entropy(self) -> float:
        """Entropy of the train split's shares, nats: what they cost in cross-entropy."""
        return float(-(self.prior * np.log(self.prior)).sum())

    def fields(self) -> list[pa.Field]:
        """``_probs``, ``_value``, ``_std`` and ``_score``."""
        return [
            pa.field(f"{self.name}_probs", pa.list_(pa.float32(), self.num_classes)),
            *(pa.field(f"{self.name}_{suffix}", pa.float32()) for suffix in _NUMBERS),
        ]

    def answer(self, outputs_NA: Floats, calibration: Calibration) -> DistributionAnswer:
        """Outputs are logits; ``calibration`` has their temperature."""
        probs = np.exp(log_softmax(finite(outputs_NA) / calibration.get("temperature", 1.0)))
        mean, std = self.moments(probs)
        return DistributionAnswer(
            probs=probs.astype(np.float32),
            value=mean.astype(np.float32),
            std=std.astype(np.float32),
            score=self.score_of(mean).astype(np.float32),
        )

    def moments(self, shares_NK: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and standard deviation of each row of shares, [N] each."""
        values = np.asarray(self.class_values, dtype=np.float64)
        mean = (shares_NK @ values).clip(values[0], values[-1])
        variance = (shares_NK * (values - mean[:, None]) ** 2).sum(axis=1)
        return mean, np.sqrt(variance)

    def score_of(self, mean_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Quantile of means among those of the train split, [N]; where none were learnt, in the range."""
        return quantile_of(mean_N, self.score_quantiles)

    @property
    def score_quantiles(self) -> tuple[float, ...]:
        """``quantiles``, or the ends of the range where nothing was learnt yet."""
        return self.quantiles or (self.class_values[0], self.class_values[-1])

    def columns(self, answer: DistributionAnswer) -> dict[str, pa.Array]:
        """In the order of ``fields``."""
        return {
            f"{self.name}_probs": fixed_lists(answer.probs),
            **{f"{self.name}_{suffix}": pa.array(getattr(answer, suffix)) for suffix in _NUMBERS},
        }

    def measured(self, answer: DistributionAnswer) -> Floats:
        """Log-probabilities: logits whose temperature is 1."""
        return np.asarray(np.log(np.maximum(answer.probs, np.finfo(np.float32).tiny)))

    def plain(self, answer: DistributionAnswer, row: int) -> dict[str, Any]:
        """Mean, standard deviation, score and probabilities."""
        return {
            "value": float(answer.value[row]),
            "std": float(answer.std[row]),
            "score": float(answer.score[row]),
            "probs": answer.probs[row].tolist(),
        }

    def text(self, plain: Mapping[str, Any]) -> str:
        """Mean and standard deviation, score, and the share of each class."""
        shares = ", ".join(
            f"{label} {share:.0%}" for label, share in zip(self.class_labels, plain["probs"], strict=True)
        )
        return f"{plain['value']:>8.3g} ± {plain['std']:<8.3g} score {plain['score']:.3f}   {shares}"

    @property
    def class_labels(self) -> list[str]:
        """What people call the classes: their values, [K]."""
        return [f"{value:g}" for value in self.class_values]

    def legend(self) -> dict[str, str]:
        """Class -> its value."""
        return {str(k): label for k, label in enumerate(self.class_labels)}

    def bad_rows_sql(self) -> dict[str, str]:
        """Shares add up to 1; mean, standard deviation and score lie where they can."""
        name, probs = self.name, f"{self.name}_probs::FLOAT[]"
        low, high = float(self.class_values[0]), float(self.class_values[-1])
        width = high - low
        values = ", ".join(map(repr, map(float, self.class_values)))
        return {
            f"ok rows whose {name} is not a distribution with its mean": (
                f"NOT abs(list_sum({probs}) - 1) < {_SUM_TOLERANCE} OR list_min({probs}) < 0 "
                f"OR NOT {name}_value BETWEEN CAST({low!r} AS FLOAT) AND CAST({high!r} AS FLOAT) "
                f"OR NOT abs(list_inner_product({probs}::DOUBLE[], [{values}]::DOUBLE[]) - {name}_value) "
                f"< {_SUM_TOLERANCE * max(abs(low), abs(high))} "
                f"OR NOT {name}_std BETWEEN 0 AND {width / 2 * (1 + _SUM_TOLERANCE)} "
                f"OR NOT {name}_score BETWEEN 0 AND 1"
            )
        }

    @property
    def night_columns(self) -> list[str]:
        """Without the probabilities."""
        return [f"{self.name}_{suffix}" for suffix in _NUMBERS]

    @property
    def order_column(self) -> str:
        """The score."""
        return f"{self.name}_score"

    def histogram(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """Rows per tenth of the score."""
        score = rows.column(self.order_column).drop_null().to_numpy()
        step = np.minimum((score * NUM_STEPS).astype(np.int64), NUM_STEPS - 1)
        return np.bincount(step, minlength=NUM_STEPS).astype(np.int64)

    def histogram_labels(self) -> list[str]:
        """Tenths of the score."""
        return [f"{k / NUM_STEPS:.1f}-{(k + 1) / NUM_STEPS:.1f}" for k in range(NUM_STEPS)]

    def caption(self, row: Mapping[str, Any]) -> str:
        """Mean, standard deviation and score."""
        value, std, score = (row[name] for name in self.night_columns)
        return f"{self.name} {value:.3g} ± {std:.2g}, score {score:.2f}"


def _with_nan(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.float64]:
    """Fixed lists as rows [N, width], NaN where a list is null."""
    found = np.full((len(column), width), np.nan)
    is_there = column.is_valid().to_numpy()
    found[is_there] = column.drop_null().combine_chunks().flatten().to_numpy().reshape(-1, width)
    return found
