"""Numbers of an ordered head over any number of images in bounded memory: add, merge workers, divide once.

The formulas are those of ``metrics.formulas``. Shapes: B images, K bins, T temperatures of the grid. numpy
only; float64 inside.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.heads.ordered import OrderedHead
from pix2score.heads.probabilities import log_softmax
from pix2score.heads.spec import MISSING, Calibration
from pix2score.metrics.formulas import (
    FROM_CONFUSION,
    Bins,
    Floats,
    Numbers,
    bin_error_by_image,
    calibration_error,
    nll_by_image,
    rank_correlation,
    rps_by_image,
)
from pix2score.metrics.measures import constant_numbers

TEMPERATURES = np.geomspace(0.2, 10.0, 79)  # 5 % steps; the fit interpolates between them
CELL = 12
"""Side of one cell of a confusion matrix, px."""
MAX_KEPT = 50_000
"""Images whose logits are kept for the calibration error: 3 MB at 15 bins; its standard error is then
0.002."""
MAX_PAIRS = 1_000_000
"""Pairs of score and label kept for the rank correlation: 16 MB; its standard error is then 0.001."""


@dataclass
class OrderedAccumulator:
    """Sums over the labelled images of one head. ``merge`` is associative and commutative up to rounding."""

    head: OrderedHead
    temperature: float = 1.0
    confusion: Bins = field(init=False)
    """[K, K]: true bin by predicted bin."""
    nll_by_temperature: Floats = field(default_factory=lambda: np.zeros(len(TEMPERATURES)))
    nll_sum: float = 0.0
    rps_sum: float = 0.0
    bin_error_sum: float = 0.0
    pairs: list[Floats] = field(default_factory=list)
    """Arrays [n, 2] of expected quantile and raw label."""
    kept: list[tuple[npt.NDArray[np.float32], Bins]] = field(default_factory=list)
    """Logits [n, K] and true bins [n] of the first images."""

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.head.num_bins, self.head.num_bins), dtype=np.int64)

    def add(self, logits_BK: npt.NDArray[Any], bin_B: npt.NDArray[Any], label_B: npt.NDArray[Any]) -> None:
        """Add one batch: raw logits, true bins (-1 where missing) and raw labels."""
        labelled = bin_B != MISSING
        logits, truth = logits_BK[labelled].astype(np.float64), bin_B[labelled].astype(np.int64)
        if not len(truth):
            return
        for i, temperature in enumerate(TEMPERATURES):
            self.nll_by_temperature[i] += nll_by_image(log_softmax(logits / temperature), truth).sum()
        if sum(len(bins) for _, bins in self.kept) < MAX_KEPT:
            self.kept.append((logits.astype(np.float32), truth))
        label = label_B[labelled].astype(np.float64)
        self._add_probabilities(log_softmax(logits / self.temperature), truth, label)

    def _add_probabilities(self, log_probs_BK: Floats, truth_B: Bins, label_B: Floats) -> None:
        probs = np.exp(log_probs_BK)
        np.add.at(self.confusion, (truth_B, probs.argmax(1)), 1)
        self.nll_sum += float(nll_by_image(log_probs_BK, truth_B).sum())
        self.rps_sum += float(rps_by_image(probs, truth_B).sum())
        self.bin_error_sum += float(bin_error_by_image(probs, truth_B).sum())
        if sum(map(len, self.pairs)) < MAX_PAIRS:
            self.pairs.append(np.stack([probs @ self.head.ranks, label_B], axis=1))

    def merge(self, other: OrderedAccumulator) -> OrderedAccumulator:
        """The accumulator of both sets of images."""
        merged = OrderedAccumulator(self.head, self.temperature)
        for name in ("confusion", "nll_by_temperature", "nll_sum", "rps_sum", "bin_error_sum"):
            setattr(merged, name, getattr(self, name) + getattr(other, name))
        merged.pairs = [*self.pairs, *other.pairs]
        merged.kept = [*self.kept, *other.kept]
        return merged

    @property
    def num_labelled(self) -> int:
        """Images counted."""
        return int(self.confusion.sum())

    @property
    def least_nll(self) -> float:
        """Mean NLL at the best temperature of the grid, of at least one labelled image."""
        return float(self.nll_by_temperature.min()) / self.num_labelled

    def best_temperature(self) -> float:
        """The temperature of least NLL on the images added, 1.0 if there are none."""
        if not self.num_labelled:
            return 1.0
        nll, log_t = self.nll_by_temperature, np.log(TEMPERATURES)
        i = int(np.clip(nll.argmin(), 1, len(nll) - 2))
        curvature = nll[i - 1] - 2 * nll[i] + nll[i + 1]
        shift = 0.0 if curvature <= 0 else float(np.clip((nll[i - 1] - nll[i + 1]) / (2 * curvature), -1, 1))
        return float(np.exp(log_t[i] + shift * (log_t[1] - log_t[0])).clip(TEMPERATURES[0], TEMPERATURES[-1]))

    def calibrated(self) -> OrderedAccumulator:
        """The same images, at the fitted temperature: as the saved model answers.

        Beyond ``MAX_KEPT`` images only NLL and calibration error are; the temperature hardly moves an order.
        """
        found, temperature = copy.copy(self), self.best_temperature()
        if not self.num_labelled:
            return found
        if sum(len(bins) for _, bins in self.kept) == self.num_labelled:
            logits, truth = (np.concatenate(parts) for parts in zip(*self.kept, strict=True))
            found = OrderedAccumulator(self.head, temperature)
            found.nll_by_temperature, found.kept = self.nll_by_temperature, self.kept
            labels = np.concatenate(self.pairs)[:, 1]
            found._add_probabilities(log_softmax(logits.astype(np.float64) / temperature), truth, labels)
        found.nll_sum, found.temperature = float(self.nll_by_temperature.min()), temperature
        return found

    def result(self) -> Numbers:
        """Every number that sums give, beside those of constants which know only the train split.

        ``prior_*`` answers its shares, or their median bin, ``majority_*`` its top bin. Only ``num_labelled``
        where there is no label.
        """
        n = self.num_labelled
        if not n:
            return {"num_labelled": 0}
        constant = constant_numbers(self.head, self.confusion.sum(axis=1))
        return {
            "num_labelled": n,
            "spearman": self.spearman(),
            **{name: formula(self.confusion) for name, formula in FROM_CONFUSION.items()},
            "mae_bins": self.bin_error_sum / n,
            "nll": self.nll_sum / n,
            "rps": self.rps_sum / n,
            "ece": self.ece({"temperature": self.temperature}),
            "prior_nll": constant["nll"],
            "prior_mae_bins": constant["mae_bins"],
            "majority_accuracy": constant["accuracy"],
        }

    def relative_loss(self) -> float:
        """NLL at the fitted temperature over that of the train split's shares."""
        return self.least_nll / self.head.prior_nll

    def calibration(self) -> dict[str, Any]:
        """The temperature."""
        return {"temperature": self.best_temperature()}

    def ece(self, calibration: Calibration) -> float | None:
        """Calibration error of the images kept; None without a labelled image."""
        if not self.kept:
            return None
        temperature = calibration.get("temperature", 1.0)
        logits, truth = (np.concatenate(parts) for parts in zip(*self.kept, strict=True))
        probs = np.exp(log_softmax(logits.astype(np.float64) / temperature))
        return calibration_error(probs.max(axis=1), probs.argmax(axis=1) == truth, np.ones(len(truth)))

    def spearman(self) -> float | None:
        """Rank correlation of expected quantile and raw label; None where one of them is constant."""
        pairs = np.concatenate(self.pairs)
        return rank_correlation(pairs[:, 0], pairs[:, 1])

    def picture(self) -> npt.NDArray[np.uint8]:
        """Confusion, uint8 [K * CELL, K * CELL, 3]: true bin by row, each row's share from white to blue."""
        share = self.confusion / np.maximum(self.confusion.sum(1, keepdims=True), 1)
        light = (255 * (1 - share)).astype(np.uint8).repeat(CELL, 0).repeat(CELL, 1)
        return np.stack([light, light, np.full_like(light, 255)], axis=2)
