"""The numbers of yes-or-no heads. Shapes: N images; answers are calibrated log odds [N, 1]."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from pix2score.heads.binary import BinaryHead, probability
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.metrics.binary_curves import binary_curves
from pix2score.metrics.formulas import (
    Flags,
    Floats,
    Measure,
    Numbers,
    auc,
    average_precision,
    calibration_error,
    spearman,
    weighted_mean,
)
from pix2score.metrics.kept_rows import KeptRows
from pix2score.metrics.measures import values
from pix2score.metrics.platt import NUM_ENOUGH, best_threshold, fit_line
from pix2score.metrics.protocol import Accumulator, Answers, Change, Curves, KindNumbers

RIDGE_ROOM = 0.01
"""A regression's guess is held so far from 0 and 1, so that its likelihood can be told."""


class BinaryAccumulator(KeptRows):
    """Log odds and answers of one head."""

    def numbers_of(self, answers: Answers) -> Numbers:
        """``BinaryNumbers.measures``."""
        return values(_measures(answers), len(answers.truth))

    def constant_of(self, answers: Answers) -> Numbers:
        """Of the train split's share of yes."""
        return _constant(answers)

    def calibration(self) -> dict[str, Any]:
        """``slope`` and ``offset`` of the log odds, and the ``threshold`` of best balanced accuracy.

        The fit starts from the train split's odds, which a weighted loss has moved the outputs away from; so
        with few rows, or none, a probability is one all the same.
        """
        head = _binary(self.head)
        start = (head.constant_logit, head.prior_logit)
        if not self.num_labelled:
            slope, offset = fit_line(np.zeros(0), np.zeros(0, bool), *start)
            return {"slope": slope, "offset": offset, "threshold": head.prior}
        outputs, truth, _ = self.rows()
        yes = truth == 1
        slope, offset = fit_line(outputs[:, 0], yes, *start)
        prob = probability(slope * outputs[:, 0] + offset)
        is_enough = min(yes.sum(), (~yes).sum()) >= NUM_ENOUGH
        threshold = best_threshold(prob, yes, head.prior) if is_enough else head.prior
        return {"slope": slope, "offset": offset, "threshold": threshold}

    def relative_loss(self) -> float:
        """NLL over that of the train split's share on the same images."""
        answers = self.answers(self.calibration())
        found, constant = _nll(answers.outputs[:, 0], answers.truth == 1).mean(), _constant(answers)["nll"]
        assert constant is not None, "at least one labelled image"
        return float(found) / constant

    def ece(self, calibration: Calibration) -> float | None:
        """Of the probability of yes."""
        if not self.num_labelled:
            return None
        answers = self.answers(calibration)
        prob, yes = probability(answers.outputs[:, 0]), answers.truth == 1
        return calibration_error(prob, yes, np.ones(len(yes)))


class BinaryNumbers(KindNumbers):
    """How well yes and no are told apart, and whether a probability is one."""

    loss: ClassVar[str] = "nll"
    lower_is_better: ClassVar[tuple[str, ...]] = ("nll", "brier", "ece")
    higher_is_better: ClassVar[tuple[str, ...]] = (
        "auc",
        "ap",
        "accuracy",
        "accuracy_at_threshold",
        "balanced_accuracy",
    )
    summary: ClassVar[tuple[str, ...]] = ("nll", "ece", "ap", "balanced_accuracy")

    @property
    def part_summary(self) -> tuple[str, ...]:
        """AP, accuracies, and the threshold that suits the part best, with what it reaches there."""
        at_best = ("best_threshold", "balanced_accuracy_at_best_threshold")
        return ("share_yes", "ap", "accuracy", "accuracy_at_threshold", *at_best)

    def main(self, head: HeadSpec) -> str:
        """``auc``."""
        return "auc"

    def accumulator(self, head: HeadSpec) -> Accumulator:
        """An empty one."""
        return BinaryAccumulator(head)

    def measures(self, answers: Answers) -> dict[str, Measure]:
        """Those at the threshold only where the calibration is known."""
        return _measures(answers)

    def guess_measures(self, answers: Answers, guess: Floats) -> dict[str, Measure]:
        """Of a guess of the probability, which says yes above the train split's share."""
        yes, prior = answers.truth == 1, _binary(answers.head).prior
        prob = guess.clip(RIDGE_ROOM, 1 - RIDGE_ROOM)
        logit = np.log(prob / (1 - prob))
        return {**_of_probabilities(guess, logit, yes), **_at_threshold(guess, yes, prior)}

    def constant(self, answers: Answers) -> Numbers:
        """Of the train split's share of yes."""
        return _constant(answers)

    def notes(self, answers: Answers, calibration: Calibration) -> dict[str, Any]:
        """Slope, offset and threshold."""
        return {name: float(value) for name, value in calibration.items()}

    def part_notes(self, answers: Answers) -> dict[str, float]:
        """The share of yes; and the threshold of best balanced accuracy on these very images, with what it
        reaches on them: optimistic, and only where ``NUM_ENOUGH`` images have either answer."""
        prob, yes = probability(answers.outputs[:, 0]), answers.truth == 1
        found = {"share_yes": float(yes.mean())}
        if min(yes.sum(), (~yes).sum()) < NUM_ENOUGH:
            return found
        threshold = best_threshold(prob, yes, _binary(answers.head).prior)
        reached = values(_at_threshold(prob, yes, threshold), len(yes))
        told = {f"{name.removesuffix('_at_threshold')}_at_best_threshold": x for name, x in reached.items()}
        return {**found, "best_threshold": threshold, **{n: x for n, x in told.items() if x is not None}}

    def curves(self, answers: Answers, calibration: Calibration) -> Curves:
        """``binary_curves.BinaryCurves``."""
        return cast(Curves, binary_curves(probability(answers.outputs[:, 0]), answers.truth == 1))

    def score(self, head: HeadSpec, outputs: npt.NDArray[Any]) -> Floats:
        """The probability."""
        return probability(outputs[:, 0].astype(np.float64))

    def misses(self, head: HeadSpec, outputs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Floats:
        """Probability of the wrong answer."""
        return np.asarray(np.abs(self.score(head, outputs) - truth))

    def change(self, head: HeadSpec, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:
        """In the probability, the score, and the side of the train split's share."""
        p, q, known = self.score(head, before), self.score(head, after), _binary(head)
        no, yes = known.ranks
        return {
            "images": len(before),
            "mean_prob_change": float(np.abs(q - p).mean()),
            "mean_score_change": float(np.abs((yes - no) * (q - p)).mean()),
            "same_bin": float(((p >= known.prior) == (q >= known.prior)).mean()),
        }

    def ridge_target(self, head: HeadSpec, target: npt.NDArray[Any]) -> Floats | None:
        """1 and 0."""
        return target.astype(np.float64)


def _measures(answers: Answers) -> dict[str, Measure]:
    logit, yes = answers.outputs[:, 0], answers.truth == 1
    prob, threshold = probability(logit), answers.calibration.get("threshold")
    told = {} if threshold is None else _at_threshold(prob, yes, threshold)
    return {**_of_probabilities(prob, logit, yes), **told}


def _of_probabilities(prob: Floats, logit: Floats, yes: Flags) -> dict[str, Measure]:
    """``logit``: of the same probabilities, from which the likelihood is told."""
    return {
        "auc": auc(prob, yes),
        "ap": average_precision(prob, yes),
        "accuracy": weighted_mean((prob >= 0.5) == yes),
        "brier": weighted_mean((probability(logit) - yes) ** 2),
        "nll": weighted_mean(_nll(logit, yes)),
        "ece": lambda w: calibration_error(probability(logit), yes, w),
        "spearman": spearman(prob, yes.astype(np.float64)),
    }


def _at_threshold(prob: Floats, yes: Flags, threshold: float) -> dict[str, Measure]:
    right = (prob >= threshold) == yes

    def balanced(w: Floats) -> float | None:
        each = [weighted_mean(right)(w * side) for side in (yes, ~yes)]
        known = [share for share in each if share is not None]
        return sum(known) / len(known) if known else None

    return {"accuracy_at_threshold": weighted_mean(right), "balanced_accuracy": balanced}


def _constant(answers: Answers) -> Numbers:
    head, yes = _binary(answers.head), answers.truth == 1
    prior, share = head.prior, float(yes.mean())
    nll = -(share * np.log(prior) + (1 - share) * np.log1p(-prior))
    return {
        "auc": 0.5,
        "ap": share,
        "accuracy": share if prior >= 0.5 else 1 - share,
        "accuracy_at_threshold": share if prior >= 0.5 else 1 - share,
        "balanced_accuracy": 0.5,
        "brier": share * (1 - prior) ** 2 + (1 - share) * prior**2,
        "nll": float(nll),
        "ece": abs(prior - share),
    }


def _nll(logit: Floats, yes: Flags) -> Floats:
    return np.asarray(np.logaddexp(0, np.where(yes, -logit, logit)))


def _binary(head: HeadSpec) -> BinaryHead:
    assert isinstance(head, BinaryHead)
    return head
