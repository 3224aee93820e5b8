"""One formula for every number: arrays and a weight per image in, the number out.

Whoever measures uses these: sums over a whole split (``metrics.accumulate``) and resampled images
(``metrics.measures``). Weights of 1 count every image once.

Shapes: N images, K bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Bins: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = dict[str, float | None]
"""Name -> number; None where the images at hand leave it undefined."""
Measure: TypeAlias = Callable[[Floats], float | None]
"""Weights [N] -> the number."""
NUM_ECE_GROUPS = 5


def nll_by_image(log_probs_NK: Floats, truth_N: Bins) -> Floats:
    """Negative log-likelihood of the true bin, [N], nats."""
    return np.asarray(-log_probs_NK[np.arange(len(truth_N)), truth_N])


def rps_by_image(probs_NK: Floats, truth_N: Bins) -> Floats:
    """Ranked probability score, [N]: squared distance of the cumulative distributions, summed over bins."""
    steps = np.arange(probs_NK.shape[1]) >= truth_N[:, None]
    return np.asarray(((probs_NK.cumsum(axis=1) - steps) ** 2).sum(axis=1))


def bin_error_by_image(probs_NK: Floats, truth_N: Bins) -> Floats:
    """Distance of the expected bin from the true one, [N]."""
    return np.abs(probs_NK @ np.arange(probs_NK.shape[1]) - truth_N)


def accuracy(confusion_KK: npt.NDArray[Any]) -> float | None:
    """Share of images whose predicted bin (column) is the true one (row)."""
    total = confusion_KK.sum()
    return float(np.trace(confusion_KK) / total) if total else None


def within_1(confusion_KK: npt.NDArray[Any]) -> float | None:
    """Share of images at most one bin off."""
    total = confusion_KK.sum()
    return float(confusion_KK[bin_distance(len(confusion_KK)) <= 1].sum() / total) if total else None


def macro_recall(confusion_KK: npt.NDArray[Any]) -> float | None:
    """Mean over the true bins that occur of the share predicted right."""
    images = confusion_KK.sum(axis=1)
    occurs = images > 0
    return float((np.diag(confusion_KK)[occurs] / images[occurs]).mean()) if occurs.any() else None


def quadratic_kappa(confusion_KK: npt.NDArray[Any]) -> float | None:
    """Agreement of true and predicted bin with squared distance as weight: 1 perfect, 0 chance.

    None where chance alone agrees fully.
    """
    total, cost = confusion_KK.sum(), bin_distance(len(confusion_KK)) ** 2
    if not total:
        return None
    by_chance = (cost * np.outer(confusion_KK.sum(axis=1), confusion_KK.sum(axis=0))).sum() / total
    return float(1 - (cost * confusion_KK).sum() / by_chance) if by_chance else None


FROM_CONFUSION: Mapping[str, Callable[[npt.NDArray[Any]], float | None]] = {
    "kappa": quadratic_kappa,
    "accuracy": accuracy,
    "within_1": within_1,
    "macro_recall": macro_recall,
}
"""Numbers that a confusion matrix [K, K] determines: true bin by predicted bin, in images or in weight."""


def bin_distance(num_bins: int) -> Bins:
    """[K, K]: how many bins lie between two."""
    k = np.arange(num_bins)
    return np.asarray(np.abs(k[:, None] - k[None, :]))


def calibration_error(confidence_N: Floats, correct_N: Flags, weight_N: Floats) -> float | None:
    """ECE: |probability of the predicted bin - how often it is right|, averaged.

    In groups of equal weight by that probability.

    An image that lies over a border counts in both groups by its parts. None without weight.
    """
    total = float(weight_N.sum())
    if not total:
        return None
    order = np.argsort(confidence_N, kind="stable")
    upto = np.concatenate([[0.0], weight_N[order].cumsum()])
    surplus = np.concatenate([[0.0], (weight_N * (confidence_N - correct_N))[order].cumsum()])
    share, larger = divmod(total, NUM_ECE_GROUPS)
    borders = np.concatenate([[0.0], (share + (np.arange(NUM_ECE_GROUPS) < int(larger))).cumsum()])
    borders[-1] = total
    return float(np.abs(np.diff(np.interp(borders, upto, surplus))).sum() / total)


def weighted_mean(value_N: npt.NDArray[Any]) -> Measure:
    """Mean of a value per image."""
    return lambda w: float((value_N * w).sum() / w.sum()) if w.sum() else None


class _Ranks:
    """Weighted mean ranks of fixed values: sorted once, ranked under any weights in linear time."""

    def __init__(self, value_N: Floats) -> None:
        _, self._tie = np.unique(value_N, return_inverse=True)

    def __call__(self, weight_N: Floats) -> Floats:
        of_tie = np.bincount(self._tie, weight_N)
        return np.asarray((of_tie.cumsum() - of_tie / 2)[self._tie])


def spearman(score_N: Floats, label_N: Floats) -> Measure:
    """Rank correlation, ties at their mean rank; None where one of them is constant."""
    ranks = _Ranks(score_N), _Ranks(label_N)

    def measure(w: Floats) -> float | None:
        if w.sum() <= 0:
            return None
        a, b = (r - np.average(r, weights=w) for r in (rank(w) for rank in ranks))
        scale = np.sqrt((w * a * a).sum() * (w * b * b).sum())
        return float((w * a * b).sum() / scale) if scale > 1e-9 else None

    return measure


def rank_correlation(a_N: Floats, b_N: Floats) -> float | None:
    """``spearman`` with every image counted once."""
    return spearman(a_N, b_N)(np.ones(len(a_N)))


def auc(score_N: Floats, positive_N: Flags) -> Measure:
    """Chance that a positive image is scored above one that is not; equal scores count half."""
    _, tie = np.unique(score_N, return_inverse=True)

    def measure(w: Floats) -> float | None:
        above, below = np.bincount(tie, w * positive_N), np.bincount(tie, w * ~positive_N)
        pairs = above.sum() * below.sum()
        return float((above * (below.cumsum() - below / 2)).sum() / pairs) if pairs else None

    return measure


def lift(score_N: Floats, positive_N: Flags, share: float) -> Measure:
    """How many times as many positives are among the best-scored ``share`` as among all."""
    order = np.argsort(-score_N, kind="stable")

    def measure(w: Floats) -> float | None:
        ordered = w[order]
        room = share * ordered.sum()
        inside = np.clip(room - (ordered.cumsum() - ordered), 0, ordered)
        rate = (inside * positive_N[order]).sum() / max(room, 1e-12)
        rate_of_all = (w * positive_N).sum() / max(w.sum(), 1e-12)
        return float(rate / rate_of_all) if rate_of_all else None

    return measure


def average_precision(score_N: Floats, positive_N: Flags) -> Measure:
    """Mean over the positives of the share of positives among all that are scored as high; None without one.

    Equal scores come in together, as in scikit-learn.
    """
    _, tie = np.unique(-score_N, return_inverse=True)

    def measure(w: Floats) -> float | None:
        found, seen = np.bincount(tie, w * positive_N), np.bincount(tie, w)
        if not found.sum():
            return None
        precision = found.cumsum() / np.maximum(seen.cumsum(), 1e-12)
        return float((found * precision).sum() / found.sum())

    return measure


def pearson(a_N: Floats, b_N: Floats) -> Measure:
    """Correlation of two numbers per image; None where one of them is constant."""
    scale = [max(float(np.abs(x).max(initial=0)), 1e-300) for x in (a_N, b_N)]  # squares stay in range

    def measure(w: Floats) -> float | None:
        if w.sum() <= 0:
            return None
        a, b = (x / s for x, s in zip((a_N, b_N), scale, strict=True))
        a, b = a - np.average(a, weights=w), b - np.average(b, weights=w)
        spread = np.sqrt((w * a * a).sum() * (w * b * b).sum())
        return float((w * a * b).sum() / spread) if spread > 1e-12 * w.sum() else None

    return measure
