"""Yes-or-no heads: what one output means. Shapes: N images."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.heads import bins
from pix2score.heads.binary_labels import BALANCED, BinaryLabels
from pix2score.heads.probabilities import finite
from pix2score.heads.spec import Calibration, Floats, Guess
from pix2score.storage.quoting import literal

FOCUS = 2.0
"""Exponent of the focal loss, as in Lin et al. 2017."""
NUM_STEPS = 10
"""Of the histogram over probabilities, by which nights are compared."""
LARGEST_LOGIT = 15.0
"""Of a probability that float32 can tell from 1."""
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class BinaryAnswer:
    """What one head says of N images.

    ``prob`` float32 [N] of yes, calibrated; ``score`` float32 [N] in [0, 1], the expected quantile;
    ``threshold``: the probability from which on yes is said.
    """

    prob: Floats
    score: Floats
    threshold: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BinaryHead(BinaryLabels):
    """A head whose answer is the probability of yes."""

    @property
    def prior(self) -> float:
        """Share of yes in the train split; 0.5 where nothing was learnt yet."""
        no, yes = self.counts or (1, 1)
        return min(max(yes, 0.5), no + yes - 0.5) / (no + yes)

    @property
    def weight_of_yes(self) -> float:
        """``positive_weight`` as a number."""
        if self.positive_weight == BALANCED:
            return (1 - self.prior) / self.prior
        return float(self.positive_weight)

    @property
    def constant_logit(self) -> float:
        """The output that costs least if it is the same for all images, under the head's own loss."""
        return _least(self.prior, self.weight_of_yes, self._focus)[0]

    @property
    def prior_logit(self) -> float:
        """Log odds of the train split."""
        return math.log(self.prior / (1 - self.prior))

    @property
    def _focus(self) -> float:
        return FOCUS if self.loss == "focal" else 0.0

    @property
    def ranks(self) -> npt.NDArray[np.float64]:
        """Mean rank in [0, 1] of the train rows that are no, and yes."""
        return bins.mid_ranks(self.counts or (1, 1))

    @property
    def num_outputs(self) -> int:
        """One: log odds."""
        return 1

    def initial_bias(self) -> Floats:
        """``constant_logit``."""
        return np.array([self.constant_logit], dtype=np.float32)

    @property
    def null_cost(self) -> float:
        """What ``constant_logit`` costs: the entropy of the prior, where nothing is weighted."""
        return _least(self.prior, self.weight_of_yes, self._focus)[1]

    def fields(self) -> list[pa.Field]:
        """``_prob`` and ``_score``."""
        return [pa.field(f"{self.name}_{suffix}", pa.float32()) for suffix in ("prob", "score")]

    def answer(self, outputs_NA: Floats, calibration: Calibration) -> BinaryAnswer:
        """Outputs are log odds; ``calibration`` has a ``slope`` and an ``offset`` for them, and the
        ``threshold``."""
        logit = finite(outputs_NA)[:, 0] * calibration.get("slope", 1.0) + calibration.get("offset", 0.0)
        prob = probability(logit)
        no, yes = self.ranks
        score = (no + (yes - no) * prob).clip(0, 1)
        threshold = float(calibration.get("threshold", self.prior))
        return BinaryAnswer(prob.astype(np.float32), score.astype(np.float32), threshold)

    def columns(self, answer: BinaryAnswer) -> dict[str, pa.Array]:
        """In the order of ``fields``."""
        return {f"{self.name}_prob": pa.array(answer.prob), f"{self.name}_score": pa.array(answer.score)}

    def guess_sql(self, least: float) -> Guess:  # noqa: ARG002
        """Yes where that is more probable: 1 or 0, or a text that means yes and one that does not."""
        prob = f"{self.name}_prob"
        yes, no, kind = "1", "0", pa.int64()
        if self.positive is not None:
            yes, no, kind = literal(self.positive[0]), literal(f"not {self.positive[0]}"), pa.string()
        return Guess(
            f"CASE WHEN {prob} >= 0.5 THEN {yes} ELSE {no} END",
            kind,
            f"greatest({prob}, 1 - {prob})",
            f"CASE WHEN {prob} >= 0.5 THEN 'yes' ELSE 'no' END",
        )

    def measured(self, answer: BinaryAnswer) -> Floats:
        """Log odds, [N, 1]."""
        odds = answer.prob.astype(np.float64)
        with np.errstate(divide="ignore"):
            logit = np.log(odds) - np.log1p(-odds)
        return np.asarray(logit.clip(-LARGEST_LOGIT, LARGEST_LOGIT).astype(np.float32)[:, None])

    def plain(self, answer: BinaryAnswer, row: int) -> dict[str, Any]:
        """Probability, score, and whether the probability reaches the threshold."""
        prob = float(answer.prob[row])
        return {"prob": prob, "score": float(answer.score[row]), "yes": prob >= answer.threshold}

    def text(self, plain: Mapping[str, Any]) -> str:
        """Yes or no, probability, score."""
        said = "yes" if plain["yes"] else "no"
        return f"{said:>12} (probability {plain['prob']:.1%})   score {plain['score']:.3f}"

    def bad_rows_sql(self) -> dict[str, str]:
        """Probability and score agree."""
        prob, score, (no, yes) = f"{self.name}_prob", f"{self.name}_score", self.ranks.tolist()
        return {
            f"ok rows whose {self.name} is not a probability with its score": (
                f"NOT {prob} BETWEEN 0 AND 1 OR NOT {score} BETWEEN 0 AND 1 "
                f"OR NOT abs({score} - ({no!r} + {yes - no!r} * {prob})) < {_TOLERANCE}"
            )
        }

    @property
    def night_columns(self) -> list[str]:
        """Both."""
        return [field.name for field in self.fields()]

    @property
    def order_column(self) -> str:
        """The probability."""
        return f"{self.name}_prob"

    def histogram(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """Rows by tenths of the probability."""
        found = rows.column(f"{self.name}_prob").drop_null().to_numpy()
        return np.histogram(found, NUM_STEPS, (0, 1))[0].astype(np.int64)

    def histogram_labels(self) -> list[str]:
        """``0-10 %`` and so on."""
        return [f"{10 * step}-{10 * (step + 1)} %" for step in range(NUM_STEPS)]

    def caption(self, row: Mapping[str, Any]) -> str:
        """Probability."""
        return f"{self.name} {row[f'{self.name}_prob']:.0%}"


def probability(logit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of log odds, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -logit)))


@functools.lru_cache(maxsize=64)
def _least(prior: float, weight: float, focus: float) -> tuple[float, float]:
    """Log odds that cost least as an answer to all images, and that cost."""

    def cost(logit: float) -> float:
        yes = float(probability(np.array([logit]))[0])
        no = 1 - yes
        of_yes, of_no = float(np.logaddexp(0, -logit)), float(np.logaddexp(0, logit))
        return float(weight * prior * no**focus * of_yes + (1 - prior) * yes**focus * of_no)

    best = math.log(weight * prior / (1 - prior)) if not focus else _valley(cost, -20.0, 20.0)
    return best, cost(best)


def _valley(cost: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest, to a millionth."""
    while high - low > 1e-6:
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if cost(a) < cost(b) else (a, high)
    return (low + high) / 2
