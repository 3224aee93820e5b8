"""The numbers of a head that learns from comparisons: how often it orders two images as people did.

An answer is about a set: outputs [N, K] are the logits of its images side by side. Every number is a mean
over pairs, in which those of a set weigh together what the set does.

Shapes: N sets, K images of a set at most, P pairs, D features of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypedDict

import numpy as np
import numpy.typing as npt

from pix2score.heads.compared import AGREEMENT, FIRST_RANK, WEIGHT, Pairs, pairs_of
from pix2score.heads.preference import LEVELS
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.metrics.curves import Reliability, reliability
from pix2score.metrics.formulas import Floats, Measure, Numbers, calibration_error, weighted_mean
from pix2score.metrics.kept_rows import KeptRows
from pix2score.metrics.measures import values
from pix2score.metrics.protocol import Accumulator, Answers, Change, Curves, KindNumbers

LEAST_SHARPNESS, MOST_SHARPNESS = 0.02, 50.0
"""Bounds of what logits are multiplied by; a model that knows nothing would go to 0."""
NUM_MARGINS = 8
"""Steps of the curve of accuracy by margin, of as many pairs each."""
MAX_RIDGE_PAIRS = 4_096
"""Of one batch: 20 MB of differences."""
SAME = 0.1
"""Standard deviations of the reward by which an answer may move and is called the same."""


class MarginStep(TypedDict):
    """Pairs whose rewards lie about this far apart, and the share of them that is ordered right."""

    margin: float
    pairs: int
    correct: float


class PreferenceAccumulator(KeptRows):
    """Keeps outputs and ranks of sets."""

    def answers(self, calibration: Calibration) -> Answers:
        """Logits of every image of the sets kept; every set is a group of its own."""
        outputs, targets, labels = self.rows()
        logits = outputs / calibration.get("temperature", 1.0)
        return Answers(self.head, logits, targets, labels, np.arange(len(targets)))

    def numbers_of(self, answers: Answers) -> Numbers:
        """``measures``."""
        return values(measures(answers), len(answers.truth))

    def constant_of(self, answers: Answers) -> Mapping[str, float | None]:  # noqa: ARG002
        """``CONSTANT``."""
        return CONSTANT

    def calibration(self) -> dict[str, Any]:
        """Temperature of the pairs; mean, std and quantiles of the rewards of their images.

        Of the validation split: its images are new to the model, as those are that it will score, while on
        the train split rewards lie further apart than on new images.
        """
        if not self.num_labelled:
            return {}
        outputs, targets, _ = self.rows()
        reward = outputs[~np.isnan(targets[:, FIRST_RANK:])]
        mean, std = float(reward.mean()), float(max(reward.std(), 1e-6))
        quantiles = np.quantile((reward - mean) / std, LEVELS)
        return {
            "temperature": 1 / best_sharpness(outputs, targets),
            "mean": mean,
            "std": std,
            "quantiles": quantiles.tolist(),
        }

    def relative_loss(self) -> float:
        """NLL at the best temperature over ln 2."""
        nll = values(measures(self.answers(self.calibration())), len(self.rows().targets))["nll"]
        return float(nll or 0.0) / self.head.null_cost

    def ece(self, calibration: Calibration) -> float | None:
        """Calibration error of the pairs."""
        if not self.num_labelled:
            return None
        answers = self.answers(calibration)
        return measures(answers)["ece"](np.ones(len(answers.truth)))


CONSTANT: Numbers = {"pair_accuracy": 0.5, "nll": math.log(2)}
"""Of an answer that has all images equal."""


def best_sharpness(outputs_NK: Floats, target_NT: npt.NDArray[Any]) -> float:
    """What to multiply outputs by for the least NLL: where its derivative, which only grows, is 0."""
    pairs = pairs_of(target_NT)
    margin = margins(outputs_NK, pairs)
    low, high = LEAST_SHARPNESS, MOST_SHARPNESS
    for _ in range(50):
        middle = math.sqrt(low * high)
        slope = -(pairs.weight * margin * _chance(-middle * margin)).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.sqrt(low * high)


def margins(outputs_NK: npt.NDArray[Any], pairs: Pairs) -> Floats:
    """How far the better image of each pair is ahead, [P]."""
    ahead = outputs_NK[pairs.row, pairs.better].astype(np.float64)
    return np.asarray(ahead - outputs_NK[pairs.row, pairs.worse])


def _chance(logit: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(logit / 2)))


def _right(margin: Floats) -> Floats:
    """1 for a pair that is ordered right, 0 for wrong, a half for rewards that are equal."""
    return np.asarray(0.5 + 0.5 * np.sign(margin))


def measures(answers: Answers) -> dict[str, Measure]:
    """Every number, as functions of weights of the sets."""
    pairs = pairs_of(answers.truth)
    margin = margins(answers.outputs, pairs)
    sure = _chance(np.abs(margin))
    half = np.abs(margin) >= np.median(np.abs(margin)) if len(margin) else np.zeros(0, dtype=bool)

    def of_pairs(value: Floats, counted: npt.NDArray[Any] | float = 1.0) -> Measure:
        mean = weighted_mean(value)
        return lambda w: mean(w[pairs.row] * pairs.weight * counted)

    return {
        "pair_accuracy": of_pairs(_right(margin)),
        "nll": of_pairs(np.logaddexp(0, -margin)),
        "ece": lambda w: calibration_error(sure, margin > 0, w[pairs.row] * pairs.weight),
        "accuracy_sure_half": of_pairs(_right(margin), half),
        "rater_agreement": _agreement(answers.truth),
    }


def _agreement(target_NT: npt.NDArray[Any]) -> Measure:
    """How often raters agree with other raters about the same two images."""
    agreement, weight = target_NT[:, AGREEMENT].astype(np.float64), target_NT[:, WEIGHT].astype(np.float64)
    is_known = ~np.isnan(agreement)
    mean = weighted_mean(np.nan_to_num(agreement))
    return lambda w: mean(w * weight * is_known)


class PreferenceNumbers(KindNumbers):
    """Accuracy over pairs."""

    loss: ClassVar[str] = "nll"
    lower_is_better: ClassVar[tuple[str, ...]] = ("nll", "ece")
    higher_is_better: ClassVar[tuple[str, ...]] = ("pair_accuracy", "accuracy_sure_half")
    summary: ClassVar[tuple[str, ...]] = ("nll", "ece", "rater_agreement")

    def main(self, head: HeadSpec) -> str:  # noqa: ARG002
        """``pair_accuracy``."""
        return "pair_accuracy"

    def accumulator(self, head: HeadSpec) -> Accumulator:
        """An empty one."""
        return PreferenceAccumulator(head)

    def measures(self, answers: Answers) -> dict[str, Measure]:
        """``measures``."""
        return measures(answers)

    def guess_measures(self, answers: Answers, guess: Floats) -> dict[str, Measure]:
        """Of a guess of each image's reward, [N, K], in no unit: accuracy alone."""
        found = measures(Answers(answers.head, guess, answers.truth, answers.label, answers.group))
        return {name: found[name] for name in ("pair_accuracy", "accuracy_sure_half")}

    def constant(self, answers: Answers) -> Numbers:  # noqa: ARG002
        """``CONSTANT``."""
        return CONSTANT

    def notes(self, answers: Answers, calibration: Calibration) -> dict[str, Any]:
        """The temperature, the calibration error without it, and how many pairs there are."""
        temperature = float(calibration.get("temperature", 1.0))
        pairs = pairs_of(answers.truth)
        margin = margins(answers.outputs, pairs) * temperature
        before = calibration_error(_chance(np.abs(margin)), margin > 0, pairs.weight)
        return {"temperature": temperature, "ece_before_temperature": before, "num_pairs": len(pairs.row)}

    def curves(self, answers: Answers, calibration: Calibration) -> Curves:
        """``reliability`` of pairs, and ``by_margin``: a list of ``MarginStep``."""
        margin = margins(answers.outputs, pairs_of(answers.truth))
        before = margin * float(calibration.get("temperature", 1.0))
        found: Reliability = {
            "before": reliability(_chance(np.abs(before)), margin > 0),
            "after": reliability(_chance(np.abs(margin)), margin > 0),
        }
        return {"reliability": found, "by_margin": _by_margin(margin)}

    def score(self, head: HeadSpec, outputs: npt.NDArray[Any]) -> Floats:  # noqa: ARG002
        """Logit of the first image."""
        return np.asarray(outputs[:, 0], dtype=np.float64)

    def misses(self, head: HeadSpec, outputs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Floats:  # noqa: ARG002
        """The chance that it gives to the wrong order, averaged over a set's pairs."""
        pairs = pairs_of(truth)
        wrong = _chance(-margins(outputs, pairs))
        num = np.maximum(np.bincount(pairs.row, minlength=len(truth)), 1)
        return np.asarray(np.bincount(pairs.row, wrong, len(truth)) / num)

    def change(self, head: HeadSpec, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:  # noqa: ARG002
        """Of first images: the chance that one is preferred to the other, off from a half; rewards, in their
        standard deviation."""
        moved = np.abs(after[:, 0].astype(np.float64) - before[:, 0])
        spread = max(float(np.std(before[:, 0].astype(np.float64))), 1e-9)
        return {
            "images": len(before),
            "mean_prob_change": float((_chance(moved) - 0.5).mean()),
            "mean_score_change": float((moved / spread).mean()),
            "same_bin": float((moved <= SAME * spread).mean()),
        }

    def ridge_target(self, head: HeadSpec, target: npt.NDArray[Any]) -> Floats | None:  # noqa: ARG002
        """None of an image alone."""
        return None

    def ridge_rows(
        self,
        head: HeadSpec,  # noqa: ARG002
        features_ND: Floats,
        others_MD: Floats,
        counts_N: npt.NDArray[np.int64],
        target: npt.NDArray[Any],
    ) -> tuple[Floats, Floats] | None:
        """Differences of the features of two images, both ways, and which of them is better: 1 or -1."""
        pairs = pairs_of(target)
        chosen = np.arange(0, len(pairs.row), max(1, -(-len(pairs.row) // MAX_RIDGE_PAIRS)))
        if not len(chosen):
            return None
        features = np.concatenate([features_ND, others_MD])
        start = len(features_ND) + counts_N.cumsum() - counts_N - 1
        row = pairs.row[chosen]
        better, worse = (
            features[np.where(place == 0, row, start[row] + place)]
            for place in (pairs.better[chosen], pairs.worse[chosen])
        )
        ahead = np.ones(len(chosen))
        return np.concatenate([better - worse, worse - better]), np.concatenate([ahead, -ahead])


def _by_margin(margin: Floats) -> list[MarginStep]:
    parts = np.array_split(margin[np.argsort(np.abs(margin), kind="stable")], min(NUM_MARGINS, len(margin)))
    return [
        {
            "margin": float(np.abs(part).mean()),
            "pairs": len(part),
            "correct": float(_right(part).mean()),
        }
        for part in parts
    ]
