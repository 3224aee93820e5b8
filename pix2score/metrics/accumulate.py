"""Mergeable quality accumulators per head: add batches, merge workers, divide once at the end.

Shapes: B images, K bins, T temperatures of the grid. numpy only; float64 inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.heads.bins import MISSING, mid_ranks
from pix2score.heads.spec import HeadSpec

LOWER_IS_BETTER = ("nll", "rps", "mae_bins", "ece")
HIGHER_IS_BETTER = ("spearman", "kappa", "accuracy", "within_1", "macro_recall")
"""Metrics of a head by which the saved epoch may be chosen."""
TEMPERATURES = np.geomspace(0.2, 10.0, 79)  # 5 % steps; the fit interpolates between them
Floats = npt.NDArray[np.float64]
ECE_BINS = 5
# images whose probabilities are kept for the calibration error: 3 MB at 15 bins; its standard error is then
# 0.002
MAX_KEPT = 50_000
MAX_PAIRS = (
    1_000_000  # (score, label) pairs kept for rank correlation: 16 MB; its standard error is then 0.001
)


@dataclass
class HeadMetrics:
    """Sums over the labelled images of one head. ``merge`` is associative and commutative up to rounding."""

    head: HeadSpec
    temperature: float = 1.0
    confusion: npt.NDArray[np.int64] = field(init=False)
    """[K, K]: true bin by predicted bin."""
    nll_by_temperature: Floats = field(default_factory=lambda: np.zeros(len(TEMPERATURES)))
    nll_sum: float = 0.0
    rps_sum: float = 0.0
    bin_error_sum: float = 0.0
    pairs: list[Floats] = field(default_factory=list)
    """Arrays [n, 2] of expected quantile and raw label."""
    kept: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]] = field(default_factory=list)
    """Logits [n, K] and true bins [n] of the first images."""

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.head.num_bins, self.head.num_bins), dtype=np.int64)

    def add(self, logits_BK: npt.NDArray[Any], bin_B: npt.NDArray[Any], label_B: npt.NDArray[Any]) -> None:
        """Add one batch: raw logits, true bins (-1 where missing) and raw labels."""
        labelled = bin_B != MISSING
        logits, truth, label = (
            logits_BK[labelled].astype(np.float64),
            bin_B[labelled].astype(np.int64),
            label_B[labelled],
        )
        if not len(truth):
            return
        for i, temperature in enumerate(TEMPERATURES):
            self.nll_by_temperature[i] -= _log_softmax(logits / temperature)[
                np.arange(len(truth)), truth
            ].sum()
        if sum(len(bins) for _, bins in self.kept) < MAX_KEPT:
            self.kept.append((logits.astype(np.float32), truth))
        self._add_probabilities(_log_softmax(logits / self.temperature), truth, label)

    def _add_probabilities(
        self, log_probs_BK: Floats, truth_B: npt.NDArray[np.int64], label_B: npt.NDArray[Any]
    ) -> None:
        probs, rows = np.exp(log_probs_BK), np.arange(len(truth_B))
        np.add.at(self.confusion, (truth_B, probs.argmax(1)), 1)
        self.nll_sum -= float(log_probs_BK[rows, truth_B].sum())
        steps = np.arange(self.head.num_bins) >= truth_B[:, None]
        self.rps_sum += float(((probs.cumsum(1) - steps) ** 2).sum())
        self.bin_error_sum += float(np.abs(probs @ np.arange(self.head.num_bins) - truth_B).sum())
        score = probs @ mid_ranks(self.head.counts or [1] * self.head.num_bins)
        if sum(map(len, self.pairs)) < MAX_PAIRS:
            self.pairs.append(np.stack([score, label_B.astype(np.float64)], axis=1))

    def merge(self, other: HeadMetrics) -> HeadMetrics:
        """The accumulator of both sets of images."""
        merged = HeadMetrics(self.head, self.temperature)
        merged.confusion = self.confusion + other.confusion
        merged.nll_by_temperature = self.nll_by_temperature + other.nll_by_temperature
        merged.nll_sum, merged.rps_sum = self.nll_sum + other.nll_sum, self.rps_sum + other.rps_sum
        merged.bin_error_sum = self.bin_error_sum + other.bin_error_sum
        merged.pairs = [*self.pairs, *other.pairs]
        merged.kept = [*self.kept, *other.kept]
        return merged

    @property
    def num_labelled(self) -> int:
        """Images counted."""
        return int(self.confusion.sum())

    def best_temperature(self) -> float:
        """The temperature of least NLL on the images added, 1.0 if there are none."""
        if not self.num_labelled:
            return 1.0
        nll, log_t = self.nll_by_temperature, np.log(TEMPERATURES)
        i = int(np.clip(nll.argmin(), 1, len(nll) - 2))
        curvature = nll[i - 1] - 2 * nll[i] + nll[i + 1]
        shift = 0.0 if curvature <= 0 else float(np.clip((nll[i - 1] - nll[i + 1]) / (2 * curvature), -1, 1))
        return float(np.exp(log_t[i] + shift * (log_t[1] - log_t[0])).clip(TEMPERATURES[0], TEMPERATURES[-1]))

    def result(self) -> dict[str, float | int | None]:
        """Quality beside that of constants which know only the train split: ``prior_*`` answers its shares,
        ``majority_*`` its top bin."""
        n = self.num_labelled
        if not n:
            return {"num_labelled": 0}
        prior = np.asarray(self.head.counts or [1] * self.head.num_bins, dtype=np.float64)
        prior = prior / prior.sum()
        truth = self.confusion.sum(1)
        distance = _distance(self.head.num_bins)
        present = truth > 0
        median_bin = int(np.searchsorted(prior.cumsum(), 0.5))
        return {
            "num_labelled": n,
            "spearman": self.spearman(),
            "kappa": _quadratic_kappa(self.confusion),
            "accuracy": float(np.trace(self.confusion) / n),
            "within_1": float(self.confusion[distance <= 1].sum() / n),
            "macro_recall": float((np.diag(self.confusion)[present] / truth[present]).mean()),
            "mae_bins": self.bin_error_sum / n,
            "nll": self.nll_sum / n,
            "rps": self.rps_sum / n,
            "ece": self.ece(self.temperature),
            # A bin that is empty in train has no prior: count it as one row, so that the constant's NLL stays
            # finite.
            "prior_nll": float(
                -(truth * np.log(np.maximum(prior, 1 / (sum(self.head.counts or [1]) + 1)))).sum() / n
            ),
            "prior_mae_bins": float((truth * distance[median_bin]).sum() / n),
            "majority_accuracy": float(truth[prior.argmax()] / n),
        }

    def ece(self, temperature: float) -> float | None:
        """Expected calibration error of the most probable bin: |confidence - accuracy| in groups of equal
        size by confidence, averaged.

        None without a labelled image.
        """
        if not self.kept:
            return None
        logits, truth = (
            np.concatenate([x for x, _ in self.kept]).astype(np.float64),
            np.concatenate([b for _, b in self.kept]),
        )
        probs = np.exp(_log_softmax(logits / temperature))
        confidence, right = probs.max(1), probs.argmax(1) == truth
        order = np.argsort(confidence, kind="stable")
        gaps = [
            abs(float((confidence[g] - right[g]).sum())) for g in np.array_split(order, ECE_BINS) if len(g)
        ]
        return sum(gaps) / len(order)

    def spearman(self) -> float | None:
        """Rank correlation of the expected quantile with the raw label; None where one of them is
        constant."""
        pairs = np.concatenate(self.pairs)
        return rank_correlation(pairs[:, 0], pairs[:, 1])


def rank_correlation(a_N: Floats, b_N: Floats) -> float | None:
    """Spearman's, ties at their mean rank; None where one of them is constant."""
    ranks = np.stack([_average_ranks(a_N), _average_ranks(b_N)])
    if (ranks.std(axis=1) == 0).any():
        return None
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def _log_softmax(logits_BK: Floats) -> Floats:
    shifted = logits_BK - logits_BK.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _distance(num_bins: int) -> Any:
    """[K, K]: how many bins lie between two."""
    k = np.arange(num_bins)
    return np.abs(k[:, None] - k[None, :])


def _average_ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    upto = counts.cumsum()
    return np.asarray((upto - (counts - 1) / 2)[inverse])


def _quadratic_kappa(confusion: npt.NDArray[np.int64]) -> float | None:
    """Agreement of true and predicted bin, squared distance as weight; None where chance alone agrees
    fully."""
    k, n = len(confusion), confusion.sum()
    weight = _distance(k) ** 2
    expected = np.outer(confusion.sum(1), confusion.sum(0)) / n
    disagreement = (weight * expected).sum()
    return float(1 - (weight * confusion).sum() / disagreement) if disagreement else None


def main_metric(head: HeadSpec) -> str:
    """The number to judge a head by: ``spearman`` for counts, ``kappa`` for levels."""
    return "spearman" if head.kind == "bins" else "kappa"


def results(metrics: Sequence[HeadMetrics]) -> dict[str, dict[str, float | int | None]]:
    """Head -> ``HeadMetrics.result``."""
    return {m.head.name: m.result() for m in metrics}


def is_metric(best_by: str, heads: Sequence[str]) -> bool:
    """Whether epochs can be ranked by it: ``val_loss``, or ``<head>.<metric>``."""
    head, _, metric = best_by.partition(".")
    return best_by == "val_loss" or (head in heads and metric in LOWER_IS_BETTER + HIGHER_IS_BETTER)
