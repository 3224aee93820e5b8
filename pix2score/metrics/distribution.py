"""The numbers of heads of kind ``distribution``. Shapes: N images, K classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from pix2score.heads.distribution import DistributionHead
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.metrics.distribution_curves import distribution_curves
from pix2score.metrics.distribution_measures import (
    DistributionAnswers,
    constant_numbers,
    costs_by_image,
    guess_measures,
    measures,
)
from pix2score.metrics.formulas import Floats, Measure, Numbers
from pix2score.metrics.kept_rows import KeptRows
from pix2score.metrics.measures import values
from pix2score.metrics.protocol import Accumulator, Answers, Change, Curves, KindNumbers
from pix2score.metrics.soft_temperature import soft_temperature
from pix2score.metrics.vote_noise import vote_noise

STEADY = 0.1
"""A mean that moves by less than this part of the train means' deviation counts as the same."""


class DistributionRows(KeptRows):
    """Numbers of one head from its rows."""

    def numbers_of(self, answers: Answers) -> Numbers:
        """``distribution_measures.measures``."""
        return values(measures(DistributionAnswers.of(answers)), len(answers.truth))

    def constant_of(self, answers: Answers) -> Mapping[str, float | None]:
        """Of the train split's mean shares."""
        return constant_numbers(DistributionAnswers.of(answers))

    def calibration(self) -> dict[str, Any]:
        """The temperature; images count by their votes, as in training."""
        if not self.num_labelled:
            return {"temperature": 1.0}
        rows = self.rows()
        shares, weight = rows.targets[:, :-1].astype(np.float64), rows.targets[:, -1].astype(np.float64)
        return {"temperature": soft_temperature(rows.outputs, shares, weight)}

    def relative_loss(self) -> float:
        """Cross-entropy at the fitted temperature, weighted as in training, over that of the constant."""
        found = self.answers(self.calibration())
        cost = costs_by_image(DistributionAnswers.of(found))["nll"]
        mean = np.average(cost, weights=found.truth[:, -1])
        return float(mean) / _distribution(self.head).prior_entropy


class DistributionNumbers(KindNumbers):
    """Correlation of the mean; NLL, KL and EMD of the whole distribution."""

    loss: ClassVar[str] = "nll"
    lower_is_better: ClassVar[tuple[str, ...]] = ("nll", "kl", "emd", "mse")
    higher_is_better: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "std_spearman")
    summary: ClassVar[tuple[str, ...]] = ("nll", "mse", "std_spearman")

    def main(self, head: HeadSpec) -> str:
        """``pearson``, of the mean."""
        return "pearson"

    def accumulator(self, head: HeadSpec) -> Accumulator:
        """An empty one."""
        return DistributionRows(head)

    def measures(self, answers: Answers) -> dict[str, Measure]:
        """``distribution_measures.measures``."""
        return measures(DistributionAnswers.of(answers))

    def guess_measures(self, answers: Answers, guess: Floats) -> dict[str, Measure]:
        """Of guessed shares."""
        return guess_measures(DistributionAnswers.of(answers), guess)

    def constant(self, answers: Answers) -> Numbers:
        """Of the train split's mean shares."""
        return constant_numbers(DistributionAnswers.of(answers))

    def notes(self, answers: Answers, calibration: Calibration) -> dict[str, Any]:
        """The temperature, and what the noise of the votes allows."""
        of_votes = vote_noise(_distribution(answers.head), answers.label)
        return {"temperature": float(calibration.get("temperature", 1.0)), **of_votes}

    def curves(self, answers: Answers, calibration: Calibration) -> Curves:
        """``distribution_curves.DistributionCurves``."""
        return cast(Curves, distribution_curves(DistributionAnswers.of(answers)))

    def score(self, head: HeadSpec, outputs: npt.NDArray[Any]) -> Floats:
        """Quantile of the mean."""
        ours = _distribution(head)
        return ours.score_of(ours.moments(np.exp(outputs))[0])

    def has_number(self, head: HeadSpec) -> bool:
        """Always."""
        return True

    def in_label_unit(self, answers: Answers) -> tuple[Floats, Floats] | None:
        """Means of the answer and of the votes."""
        found = DistributionAnswers.of(answers)
        moments = found.head.moments
        return moments(found.probs)[0], moments(found.shares)[0]

    def label_number(self, head: HeadSpec, label: Floats) -> Floats | None:
        """Mean of the votes."""
        votes = label.sum(axis=1, keepdims=True)
        return _distribution(head).moments(label / np.where(votes > 0, votes, np.nan))[0]

    def misses(self, head: HeadSpec, outputs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Floats:
        """Distance of the mean from that of the votes."""
        ours = _distribution(head)
        return np.abs(ours.moments(np.exp(outputs))[0] - ours.moments(truth[:, :-1])[0])

    def change(self, head: HeadSpec, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:
        """In probabilities, score and mean."""
        ours = _distribution(head)
        (old, _), (new, _) = (ours.moments(np.exp(outputs)) for outputs in (before, after))
        return {
            "images": len(before),
            "mean_prob_change": float(np.abs(np.exp(after) - np.exp(before)).mean()),
            "mean_score_change": float(np.abs(ours.score_of(new) - ours.score_of(old)).mean()),
            "same_bin": float((np.abs(new - old) < STEADY * np.std(ours.score_quantiles)).mean()),
        }

    def ridge_target(self, head: HeadSpec, target: npt.NDArray[Any]) -> Floats | None:
        """The shares."""
        return target[:, :-1].astype(np.float64)


def _distribution(head: HeadSpec) -> DistributionHead:
    assert isinstance(head, DistributionHead)
    return head
