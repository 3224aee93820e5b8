"""How good an ordered head's answers are on labelled images: every number as a function of image weights.

Weights of 1 give the number itself, those of ``metrics.intervals`` what it would be on other images.

Shapes: N images, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pix2score.heads.ordered import OrderedHead
from pix2score.heads.probabilities import log_softmax
from pix2score.metrics.formulas import (
    FROM_CONFUSION,
    Bins,
    Floats,
    Measure,
    Numbers,
    auc,
    bin_error_by_image,
    calibration_error,
    lift,
    nll_by_image,
    rps_by_image,
    spearman,
    weighted_mean,
)
from pix2score.metrics.number import constant_errors, number_measures
from pix2score.metrics.protocol import Answers

TOPS = {"top20": 0.2, "top5": 0.05}


@dataclass(frozen=True, slots=True)
class OrderedAnswers:
    """One head on N labelled images: what it said (``log_probs`` [N, K], calibrated) and what was true."""

    head: OrderedHead
    log_probs: Floats
    truth: Bins
    label: Floats

    @classmethod
    def of(cls, answers: Answers) -> OrderedAnswers:
        """The same, known to be an ordered head's."""
        assert isinstance(answers.head, OrderedHead)
        return cls(answers.head, answers.outputs, answers.truth, answers.label)

    @property
    def probs(self) -> Floats:
        """[N, K]."""
        return np.exp(self.log_probs)

    @property
    def score(self) -> Floats:
        """Expected quantile, [N]."""
        return np.asarray(self.probs @ self.head.ranks)

    @property
    def expected(self) -> Floats:
        """Expected value in the label's own unit, [N]."""
        return np.asarray(self.probs @ np.asarray(self.head.typical_values, dtype=np.float64))


def measures(answers: OrderedAnswers) -> dict[str, Measure]:
    """Every number of these answers, as functions of image weights."""
    probs, score, truth, label = answers.probs, answers.score, answers.truth, answers.label
    predicted, confidence = probs.argmax(axis=1), probs.max(axis=1)
    return {
        "spearman": spearman(score, label),
        **_confusion_measures(truth, predicted, answers.head.num_bins),
        "mae_bins": weighted_mean(bin_error_by_image(probs, truth)),
        "nll": weighted_mean(nll_by_image(answers.log_probs, truth)),
        "rps": weighted_mean(rps_by_image(probs, truth)),
        "ece": lambda w: calibration_error(confidence, predicted == truth, w),
        **number_measures(answers.expected, label),
        **_top_measures(score, label),
    }


def guess_measures(answers: OrderedAnswers, guess: Floats) -> dict[str, Measure]:
    """The same numbers of a reference that gives a bin per image, with fractions, and no probabilities."""
    k = answers.head.num_bins
    rounded = np.clip(np.rint(guess), 0, k - 1).astype(np.int64)
    return {
        "spearman": spearman(guess, answers.label),
        **_confusion_measures(answers.truth, rounded, k),
        "mae_bins": weighted_mean(np.abs(np.clip(guess, 0, k - 1) - answers.truth)),
        **number_measures(np.interp(guess, np.arange(k), answers.head.typical_values), answers.label),
        **_top_measures(guess, answers.label),
    }


def constant_numbers(head: OrderedHead, num_true_K: Bins) -> Numbers:
    """What answers reach that know only the train split.

    Its shares (nll, rps), its median bin (mae_bins), its top bin (accuracy).

    ``num_true_K``: images truly in each bin, at least one in all.
    """
    # A bin that is empty in train counts as one row, so that the constant's NLL stays finite.
    counts = np.maximum(np.asarray(head.train_counts, dtype=np.float64), 1)
    prior, bins, num = counts / counts.sum(), np.arange(head.num_bins), num_true_K.sum()
    median, top = int(np.searchsorted(prior.cumsum(), 0.5)), int(prior.argmax())
    rps = rps_by_image(np.broadcast_to(prior, (len(bins), len(bins))), bins)
    return {
        "nll": float(-(num_true_K * np.log(prior)).sum() / num),
        "rps": float((num_true_K * rps).sum() / num),
        "mae_bins": float((num_true_K * np.abs(bins - median)).sum() / num),
        "accuracy": float(num_true_K[top] / num),
    }


def constant_in_own_unit(answers: OrderedAnswers) -> Numbers:
    """Errors of the train split's mean and median, both from the typical values of its bins."""
    counts = np.asarray(answers.head.train_counts, dtype=np.float64)
    share, typical = counts / counts.sum(), np.asarray(answers.head.typical_values, dtype=np.float64)
    median = typical[int(np.searchsorted(share.cumsum(), 0.5))]
    return constant_errors(float(share @ typical), float(median), answers.label)


def values(functions: Mapping[str, Measure], num_rows: int) -> Numbers:
    """Each number with every image counted once."""
    return {name: measure(np.ones(num_rows)) for name, measure in functions.items()}


def softened(log_probs: Floats, temperature: float) -> Floats:
    """Log-probabilities [N, K] as they were before the temperature was applied."""
    return log_softmax(log_probs * temperature)


def _confusion_measures(truth: Bins, predicted: Bins, k: int) -> dict[str, Measure]:
    cell = truth * k + predicted

    def measure(name: str) -> Measure:
        return lambda w: FROM_CONFUSION[name](np.bincount(cell, w, k * k).reshape(k, k))

    return {name: measure(name) for name in FROM_CONFUSION}


def _top_measures(score: Floats, label: Floats) -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    for name, share in TOPS.items():
        positive = label >= np.quantile(label, 1 - share) if len(label) else label > 0
        if positive.mean() > 2 * share:  # a coarse label: its highest class is more than the top
            positive = label > np.quantile(label, 1 - share)
        found |= {f"auc_{name}": auc(score, positive), f"lift_{name}": lift(score, positive, share)}
    return found
