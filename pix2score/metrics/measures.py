"""How good the answers of one head are on labelled images, with how sure that is: every number again on
resampled groups.

Images of one group (an artist) resemble each other, so whole groups are drawn, not images. Every measure
takes a weight per image: how often its group was drawn.

Shapes: N images, K bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.heads.bins import mid_ranks
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.accumulate import ECE_BINS

Floats = npt.NDArray[np.float64]
NUM_DRAWS = 200  # the ends of a 95 % interval are then themselves good to a tenth of its width
MIN_LABELLED = 50
"""Fewer labelled images than this say nothing: the head's metrics are marked unreliable."""
TOPS = {"top20": 0.2, "top5": 0.05}
NUM_CONFIDENCE_BINS = 15  # as in Guo et al. 2017
MAX_ROWS = 200_000
"""Images kept for intervals; shards are mixed, so the first ones are a random sample."""

Measure = Callable[[Floats], float | None]
"""Weights [N] -> the number."""


@dataclass(frozen=True, slots=True)
class Answers:
    """One head on N labelled images: what it said (``log_probs`` [N, K], calibrated) and what was true."""

    head: HeadSpec
    log_probs: Floats
    truth: npt.NDArray[np.int64]
    label: Floats
    group: npt.NDArray[np.int64]
    """Any number that tells groups apart."""

    @property
    def probs(self) -> Floats:
        """[N, K]."""
        return np.exp(self.log_probs)

    @property
    def score(self) -> Floats:
        """Expected quantile, [N]."""
        return np.asarray(self.probs @ mid_ranks(self.head.counts or [1] * self.head.num_bins))


@dataclass(frozen=True, slots=True)
class Guesses:
    """A reference that gives one number per image (a ridge regression on the bin), on the same N images."""

    head: HeadSpec
    value: Floats
    truth: npt.NDArray[np.int64]
    label: Floats


def measures(answers: Answers) -> dict[str, Measure]:
    """Every number of REPORTED on these answers, as functions of image weights."""
    k = answers.head.num_bins
    probs, score, truth, label = answers.probs, answers.score, answers.truth, answers.label
    rows, predicted = np.arange(len(truth)), probs.argmax(axis=1)
    nll = -answers.log_probs[rows, truth]
    rps = ((probs.cumsum(axis=1) - (np.arange(k) >= truth[:, None])) ** 2).sum(axis=1)
    error = np.abs(probs @ np.arange(k) - truth)
    confidence = probs.max(axis=1)
    return {
        "spearman": _spearman(score, label),
        "kappa": _kappa(truth, predicted, k),
        "accuracy": _mean(predicted == truth),
        "within_1": _mean(np.abs(predicted - truth) <= 1),
        "macro_recall": _macro_recall(truth, predicted, k),
        "mae_bins": _mean(error),
        "nll": _mean(nll),
        "rps": _mean(rps),
        "ece": lambda w: calibration_error(confidence, predicted == truth, w),
        **_top_measures(score, label),
    }


def guess_measures(guesses: Guesses) -> dict[str, Measure]:
    """The same numbers of a reference that has no probabilities."""
    k = guesses.head.num_bins
    rounded = np.clip(np.rint(guesses.value), 0, k - 1).astype(np.int64)
    return {
        "spearman": _spearman(guesses.value, guesses.label),
        "kappa": _kappa(guesses.truth, rounded, k),
        "accuracy": _mean(rounded == guesses.truth),
        "within_1": _mean(np.abs(rounded - guesses.truth) <= 1),
        "macro_recall": _macro_recall(guesses.truth, rounded, k),
        "mae_bins": _mean(np.abs(np.clip(guesses.value, 0, k - 1) - guesses.truth)),
        **_top_measures(guesses.value, guesses.label),
    }


def constant_measures(head: HeadSpec, truth: npt.NDArray[np.int64]) -> dict[str, float]:
    """What answers reach that know only the train split: its shares (nll, rps), its median bin (mae_bins),
    its top bin (accuracy)."""
    counts = np.asarray(head.counts or [1] * head.num_bins, dtype=np.float64)
    # A bin that is empty in train counts as one row, so that the constant's NLL stays finite.
    prior = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    upto, k = prior.cumsum(), np.arange(head.num_bins)
    median, top = int(np.searchsorted(upto, 0.5)), int(prior.argmax())
    return {
        "nll": float(-np.log(prior[truth]).mean()),
        "rps": float(((upto - (k >= truth[:, None])) ** 2).sum(axis=1).mean()),
        "mae_bins": float(np.abs(truth - median).mean()),
        "accuracy": float((truth == top).mean()),
    }


def values(functions: Mapping[str, Measure], num_rows: int) -> dict[str, float | None]:
    """Each number with every image counted once."""
    return {name: measure(np.ones(num_rows)) for name, measure in functions.items()}


def draws(group: npt.NDArray[np.int64], *, num_draws: int = NUM_DRAWS, seed: int = 0) -> list[Floats]:
    """``num_draws`` weight vectors [N]: how often each image's group comes when as many groups are drawn with
    replacement."""
    _, index = np.unique(group, return_inverse=True)
    num_groups, rng = int(index.max()) + 1 if len(index) else 0, np.random.default_rng(seed)
    return [
        rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups))[index].astype(np.float64)
        for _ in range(num_draws)
    ]


def intervals(functions: Mapping[str, Measure], weights: list[Floats]) -> dict[str, list[float] | None]:
    """95 % interval of each number over the draws."""
    return {name: interval([measure(w) for w in weights]) for name, measure in functions.items()}


def interval(found: list[float | None]) -> list[float] | None:
    """The middle 95 %, None where the number is mostly undefined."""
    defined = [value for value in found if value is not None]
    if 2 * len(defined) < len(found) or not defined:
        return None
    return [float(v) for v in np.quantile(defined, (0.025, 0.975))]


def paired_interval(candidate: Measure, other: Measure, weights: list[Floats]) -> list[float] | None:
    """95 % interval of candidate minus other, both on the same draws."""
    pairs = [(candidate(w), other(w)) for w in weights]
    return interval([None if a is None or b is None else a - b for a, b in pairs])


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], weight: Floats) -> float | None:
    """ECE: |probability of the predicted bin - how often it is right| in groups of equal weight by that
    probability, averaged.

    As ``metrics.HeadMetrics.ece``, but for weights: an image that lies over a border counts in both groups by
    its parts.
    """
    total = float(weight.sum())
    if not total:
        return None
    order = np.argsort(confidence, kind="stable")
    upto = np.concatenate([[0.0], weight[order].cumsum()])
    surplus = np.concatenate([[0.0], (weight * (confidence - correct))[order].cumsum()])
    share, larger = divmod(total, ECE_BINS)
    borders = np.concatenate([[0.0], (share + (np.arange(ECE_BINS) < int(larger))).cumsum()])
    borders[-1] = total
    return float(np.abs(np.diff(np.interp(borders, upto, surplus))).sum() / total)


def reliability(confidence: Floats, correct: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """Per step of confidence that occurs: ``images``, mean ``confidence``, share ``correct``."""
    _, images, hits, sure = _by_confidence(confidence, correct, np.ones(len(confidence)))
    return [
        {"images": float(n), "confidence": float(s / n), "correct": float(h / n)}
        for n, h, s in zip(images, hits, sure, strict=True)
        if n
    ]


def _by_confidence(
    confidence: Floats, correct: npt.NDArray[np.bool_], weight: Floats
) -> tuple[float, Floats, Floats, Floats]:
    step = np.minimum((confidence * NUM_CONFIDENCE_BINS).astype(np.int64), NUM_CONFIDENCE_BINS - 1)
    images, hits, sure = (
        np.bincount(step, weight * x, NUM_CONFIDENCE_BINS).astype(np.float64)
        for x in (1.0, correct, confidence)
    )
    return float(weight.sum()), images, hits, sure


def softened(log_probs: Floats, temperature: float) -> Floats:
    """Log-probabilities [N, K] as they were before the temperature was applied."""
    raw = log_probs * temperature
    raw = raw - raw.max(axis=1, keepdims=True)
    return np.asarray(raw - np.log(np.exp(raw).sum(axis=1, keepdims=True)))


def confusion(answers: Answers) -> list[list[float | None]]:
    """[K][K]: of the images truly in the row's bin, the share predicted in the column's; None in a row
    without images."""
    k = answers.head.num_bins
    counts = np.bincount(answers.truth * k + answers.probs.argmax(axis=1), minlength=k * k).reshape(k, k)
    return [[float(n / row.sum()) for n in row] if row.sum() else [None] * k for row in counts]


def _mean(value: npt.NDArray[Any]) -> Measure:
    return lambda w: float((value * w).sum() / w.sum()) if w.sum() else None


class _Ranks:
    """Weighted mean ranks of fixed values: sorted once, ranked under any weights in linear time."""

    def __init__(self, value: Floats) -> None:
        _, self._tie = np.unique(value, return_inverse=True)

    def __call__(self, weight: Floats) -> Floats:
        of_tie = np.bincount(self._tie, weight)
        return np.asarray((of_tie.cumsum() - of_tie / 2)[self._tie])


def _spearman(score: Floats, label: Floats) -> Measure:
    ranks = _Ranks(score), _Ranks(label)

    def measure(w: Floats) -> float | None:
        if w.sum() <= 0:
            return None
        a, b = (r(w) - np.average(r(w), weights=w) for r in ranks)
        scale = np.sqrt((w * a * a).sum() * (w * b * b).sum())
        return float((w * a * b).sum() / scale) if scale > 1e-9 else None

    return measure


def _kappa(truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], k: int) -> Measure:
    """Agreement of true and predicted bin with squared distance as weight: 1 perfect, 0 chance."""
    distance = (np.arange(k)[:, None] - np.arange(k)[None, :]) ** 2

    def measure(w: Floats) -> float | None:
        both = np.bincount(truth * k + predicted, w, k * k).reshape(k, k)
        by_chance = (distance * np.outer(both.sum(axis=1), both.sum(axis=0))).sum() / max(both.sum(), 1e-12)
        return float(1 - (distance * both).sum() / by_chance) if by_chance else None

    return measure


def _macro_recall(truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], k: int) -> Measure:
    def measure(w: Floats) -> float | None:
        images, hits = np.bincount(truth, w, k), np.bincount(truth, w * (predicted == truth), k)
        return float((hits[images > 0] / images[images > 0]).mean()) if (images > 0).any() else None

    return measure


def _top_measures(score: Floats, label: Floats) -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    for name, share in TOPS.items():
        positive = label >= np.quantile(label, 1 - share) if len(label) else label > 0
        if positive.mean() > 2 * share:  # a coarse label: its highest class is more than the top
            positive = label > np.quantile(label, 1 - share)
        found |= {f"auc_{name}": _auc(score, positive), f"lift_{name}": _lift(score, positive, share)}
    return found


def _auc(score: Floats, positive: npt.NDArray[np.bool_]) -> Measure:
    """Chance that an image of the top is scored above one that is not."""
    _, tie = np.unique(score, return_inverse=True)

    def measure(w: Floats) -> float | None:
        above, below = np.bincount(tie, w * positive), np.bincount(tie, w * ~positive)
        pairs = above.sum() * below.sum()
        return float((above * (below.cumsum() - below / 2)).sum() / pairs) if pairs else None

    return measure


def _lift(score: Floats, positive: npt.NDArray[np.bool_], share: float) -> Measure:
    """How many times as many of the top are among the best-scored ``share`` as among all."""
    order = np.argsort(-score, kind="stable")

    def measure(w: Floats) -> float | None:
        ordered = w[order]
        room = share * ordered.sum()
        taken = np.clip(room - (ordered.cumsum() - ordered), 0, ordered)
        rate, all_rate = (
            (taken * positive[order]).sum() / max(room, 1e-12),
            (w * positive).sum() / max(w.sum(), 1e-12),
        )
        return float(rate / all_rate) if all_rate else None

    return measure
