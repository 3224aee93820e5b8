"""Heads of a plain number: what outputs mean. Shapes: N images, A outputs, K values of a distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.heads.probabilities import finite, log_softmax
from pix2score.heads.quantiles import NUM_LEVELS, quantile_of
from pix2score.heads.spec import Calibration, Floats
from pix2score.heads.value_labels import ValueLabels

NUM_VALUES = 9
"""Of the distribution whose mean the loss ``expected`` learns, as in ComboLoss."""
NUM_STEPS = 10
"""Of the histogram over scores, by which nights are compared."""


@dataclass(frozen=True, slots=True)
class ValueAnswer:
    """What one head says of N images.

    ``value`` float32 [N] in the label's own unit; ``score`` float32 [N] in [0, 1], its quantile among the
    train rows; ``residual_std``: how far labels of the validation split lay from such answers, if known.
    """

    value: Floats
    score: Floats
    residual_std: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueHead(ValueLabels):
    """A head whose answer is a number; outputs are in standard deviations from the mean."""

    @property
    def centre_and_scale(self) -> tuple[float, float]:
        """Mean and deviation of the train split; 0 and 1 where nothing was learnt yet."""
        return self.mean or 0.0, self.std or 1.0

    @property
    def train_quantiles(self) -> tuple[float, ...]:
        """Every hundredth of the train split's labels."""
        return self.quantiles or tuple(np.linspace(-1, 1, NUM_LEVELS).tolist())

    @property
    def is_expected(self) -> bool:
        """Whether outputs are a distribution, of which the mean is meant."""
        return self.loss_name == "expected"

    @property
    def support(self) -> npt.NDArray[np.float64]:
        """Standardised values [K] of the distribution of ``expected``: evenly over the middle 98 %."""
        spread = self._standardised_quantiles()
        ends = (spread[1], spread[-2]) if spread[1] < spread[-2] else (spread[0], spread[-1])
        return np.linspace(*ends, NUM_VALUES)

    def _standardised_quantiles(self) -> npt.NDArray[np.float64]:
        centre, scale = self.centre_and_scale
        return (np.asarray(self.train_quantiles) - centre) / scale

    def shares(self, standardised_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Each number as shares [N, K] of the two values of ``support`` that it lies between."""
        support = self.support
        step = support[1] - support[0]
        return np.asarray((1 - np.abs(_within(standardised_N, support)[:, None] - support) / step).clip(0))

    @property
    def num_outputs(self) -> int:
        """One; with the loss ``expected`` as many as the distribution has values."""
        return NUM_VALUES if self.is_expected else 1

    def initial_bias(self) -> Floats:
        """The mean, as one number or as a distribution."""
        if not self.is_expected:
            return np.array([self._constant()], dtype=np.float32)
        return np.log(self._mean_shares()).astype(np.float32)

    def _mean_shares(self) -> npt.NDArray[np.float64]:
        shares = _over_train(self.shares(self._standardised_quantiles())) + 1e-3
        return np.asarray(shares / shares.sum())

    def _constant(self) -> float:
        """The standardised answer that costs least if it is the same for all images."""
        if self.loss_name != "smooth_l1":
            return 0.0
        spread, low, high = self._standardised_quantiles(), -3.0, 3.0
        for _ in range(40):  # the slope of the cost grows with the answer
            middle = (low + high) / 2
            low, high = (middle, high) if _over_train((spread - middle).clip(-1, 1)) > 0 else (low, middle)
        return (low + high) / 2

    @property
    def null_cost(self) -> float:
        """What the best constant costs: 1 with mse, the variance in its own unit."""
        if self.loss_name == "mse":
            return 1.0
        if self.loss_name == "pairwise":
            return math.log(2)
        spread = self._standardised_quantiles()
        if self.loss_name == "smooth_l1":
            away = np.abs(spread - self._constant())
            return float(_over_train(np.where(away < 1, away**2 / 2, away - 0.5)))
        shares = self._mean_shares()
        entropy = -(self.shares(spread) * np.log(shares)).sum(axis=1)
        return float(_over_train(entropy) + 1 + (shares @ self.support) ** 2)

    def fields(self) -> list[pa.Field]:
        """``_value`` and ``_score``."""
        return [pa.field(f"{self.name}_{suffix}", pa.float32()) for suffix in ("value", "score")]

    def standardised(self, outputs_NA: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """What outputs say before any calibration, in standard deviations from the mean, [N]."""
        outputs = finite(outputs_NA)
        return outputs[:, 0] if outputs.shape[1] == 1 else np.exp(log_softmax(outputs)) @ self.support

    def answer(self, outputs_NA: Floats, calibration: Calibration) -> ValueAnswer:
        """``calibration`` has ``slope`` and ``offset`` of a line in the label's own unit."""
        centre, scale = self.centre_and_scale
        slope, offset = calibration.get("slope", 1.0), calibration.get("offset", 0.0)
        value = (slope * (centre + scale * self.standardised(outputs_NA)) + offset).clip(*self.bounds)
        score = quantile_of(value, self.train_quantiles).clip(0, 1).astype(np.float32)
        return ValueAnswer(value.astype(np.float32), score, calibration.get("residual_std"))

    def columns(self, answer: ValueAnswer) -> dict[str, pa.Array]:
        """In the order of ``fields``."""
        return {f"{self.name}_value": pa.array(answer.value), f"{self.name}_score": pa.array(answer.score)}

    def measured(self, answer: ValueAnswer) -> Floats:
        """Standard deviations from the mean, [N, 1], whatever the loss."""
        centre, scale = self.centre_and_scale
        return np.asarray(((answer.value.astype(np.float64) - centre) / scale).astype(np.float32)[:, None])

    def plain(self, answer: ValueAnswer, row: int) -> dict[str, Any]:
        """Value, score, and how far such answers lie from labels."""
        value, score = float(answer.value[row]), float(answer.score[row])
        return {"value": value, "score": score, "residual_std": answer.residual_std}

    def text(self, plain: Mapping[str, Any]) -> str:
        """Value, how far it may be off, and score."""
        off = "" if plain["residual_std"] is None else f" ± {plain['residual_std']:.2g}"
        return f"{plain['value']:>12,.4g}{off}   score {plain['score']:.3f}"

    def bad_rows_sql(self) -> dict[str, str]:
        """A number within the range, and a quantile."""
        value, score = f"{self.name}_value", f"{self.name}_score"
        low, high = (float(np.float32(bound)) for bound in self.bounds)
        return {
            f"ok rows whose {self.name} is not a number in its range with its score": (
                f"NOT isfinite({value}) OR NOT {value} BETWEEN {low!r} AND {high!r} "
                f"OR NOT {score} BETWEEN 0 AND 1"
            )
        }

    @property
    def night_columns(self) -> list[str]:
        """Both."""
        return [field.name for field in self.fields()]

    @property
    def order_column(self) -> str:
        """The value."""
        return f"{self.name}_value"

    def histogram(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """Rows by tenths of the score."""
        found = rows.column(f"{self.name}_score").drop_null().to_numpy()
        return np.histogram(found, NUM_STEPS, (0, 1))[0].astype(np.int64)

    def histogram_labels(self) -> list[str]:
        """The values between which each tenth of the train rows lies: ``1.5-2.1``."""
        ends = np.quantile(self.train_quantiles, np.linspace(0, 1, NUM_STEPS + 1))
        return [f"{low:.3g} to {high:.3g}" for low, high in zip(ends, ends[1:], strict=False)]

    def caption(self, row: Mapping[str, Any]) -> str:
        """Value and score."""
        return f"{self.name} {row[f'{self.name}_value']:.3g}, score {row[f'{self.name}_score']:.2f}"


def _over_train(values_Q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over the train split of what is given at its Q quantiles, straight between each two."""
    return np.asarray(((values_Q[1:] + values_Q[:-1]) / 2).mean(axis=0))


def _within(numbers: npt.NDArray[np.float64], support: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return numbers.clip(support[0], support[-1])
