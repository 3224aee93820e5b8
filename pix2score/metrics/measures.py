"""How good the answers of one head are on labelled images: every number as a function of image weights.

Weights of 1 give the number itself, those of ``metrics.intervals`` what it would be on other images.

Shapes: N images, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pix2score.heads.ordered import log_softmax
from pix2score.heads.spec import HeadSpec
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

LOWER_IS_BETTER = ("nll", "rps", "mae_bins", "ece")
HIGHER_IS_BETTER = ("spearman", "kappa", "accuracy", "within_1", "macro_recall")
"""Metrics of a head by which the saved epoch may be chosen."""
TOPS = {"top20": 0.2, "top5": 0.05}


@dataclass(frozen=True, slots=True)
class Answers:
    """One head on N labelled images: what it said (``log_probs`` [N, K], calibrated) and what was true."""

    head: HeadSpec
    log_probs: Floats
    truth: Bins
    label: Floats
    group: Bins
    """Any number that tells groups apart."""

    @property
    def probs(self) -> Floats:
        """[N, K]."""
        return np.exp(self.log_probs)

    @property
    def score(self) -> Floats:
        """Expected quantile, [N]."""
        return np.asarray(self.probs @ self.head.ranks)


@dataclass(frozen=True, slots=True)
class Guesses:
    """A reference that gives one number per image (a ridge regression on the bin), on the same N images."""

    head: HeadSpec
    value: Floats
    truth: Bins
    label: Floats


def main_metric(head: HeadSpec) -> str:
    """The number to judge a head by: ``spearman`` for counts, ``kappa`` for levels."""
    return "spearman" if head.kind == "bins" else "kappa"


def is_metric(best_by: str, heads: Sequence[str]) -> bool:
    """Whether epochs can be ranked by it: ``val_loss``, or ``<head>.<metric>``."""
    head, _, metric = best_by.partition(".")
    return best_by == "val_loss" or (head in heads and metric in LOWER_IS_BETTER + HIGHER_IS_BETTER)


def measures(answers: Answers) -> dict[str, Measure]:
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
        **_top_measures(score, label),
    }


def guess_measures(guesses: Guesses) -> dict[str, Measure]:
    """The same numbers of a reference that has no probabilities."""
    k = guesses.head.num_bins
    rounded = np.clip(np.rint(guesses.value), 0, k - 1).astype(np.int64)
    return {
        "spearman": spearman(guesses.value, guesses.label),
        **_confusion_measures(guesses.truth, rounded, k),
        "mae_bins": weighted_mean(np.abs(np.clip(guesses.value, 0, k - 1) - guesses.truth)),
        **_top_measures(guesses.value, guesses.label),
    }


def constant_numbers(head: HeadSpec, num_true_K: Bins) -> Numbers:
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
