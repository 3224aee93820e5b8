"""The numbers of heads whose bins are ordered. Shapes: N images, K bins."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from pix2score.heads.ordered import OrderedHead
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.metrics.accumulate import OrderedAccumulator
from pix2score.metrics.curves import change, curves, temperature_notes
from pix2score.metrics.formulas import Floats, Measure, Numbers
from pix2score.metrics.measures import (
    OrderedAnswers,
    constant_in_own_unit,
    constant_numbers,
    guess_measures,
    measures,
)
from pix2score.metrics.protocol import Accumulator, Answers, Change, Curves, KindNumbers


class OrderedNumbers(KindNumbers):
    """Rank correlation for counts, agreement for levels; NLL and RPS of the distribution."""

    loss: ClassVar[str] = "nll"
    lower_is_better: ClassVar[tuple[str, ...]] = ("nll", "rps", "mae_bins", "ece")
    higher_is_better: ClassVar[tuple[str, ...]] = (
        "spearman",
        "kappa",
        "accuracy",
        "within_1",
        "macro_recall",
    )
    summary: ClassVar[tuple[str, ...]] = ("nll", "ece", "mae_bins", "accuracy")

    def main(self, head: HeadSpec) -> str:
        """``spearman`` for bins of a number, ``kappa`` for levels."""
        return "spearman" if _ordered(head).is_amount else "kappa"

    def accumulator(self, head: HeadSpec) -> Accumulator:
        """An empty one."""
        return OrderedAccumulator(_ordered(head))

    def measures(self, answers: Answers) -> dict[str, Measure]:
        """``measures.measures``."""
        return measures(OrderedAnswers.of(answers))

    def guess_measures(self, answers: Answers, guess: Floats) -> dict[str, Measure]:
        """Of a guess of the bin."""
        return guess_measures(OrderedAnswers.of(answers), guess)

    def constant(self, answers: Answers) -> Numbers:
        """Of the train split's shares."""
        head = _ordered(answers.head)
        of_bins = constant_numbers(head, np.bincount(answers.truth, minlength=head.num_bins))
        return {**of_bins, **constant_in_own_unit(OrderedAnswers.of(answers))}

    def notes(self, answers: Answers, calibration: Calibration) -> dict[str, Any]:
        """The temperature, and the calibration error without it."""
        return temperature_notes(answers, calibration)

    def curves(self, answers: Answers, calibration: Calibration) -> Curves:
        """``curves.OrderedCurves``."""
        temperature = float(calibration.get("temperature", 1.0))
        return cast(Curves, curves(OrderedAnswers.of(answers), temperature))

    def score(self, head: HeadSpec, outputs: npt.NDArray[Any]) -> Floats:
        """``<h>_score``: the expected quantile."""
        return np.asarray(np.exp(outputs) @ _ordered(head).ranks)

    def has_number(self, head: HeadSpec) -> bool:
        """Not of classes."""
        return not _ordered(head).are_classes

    def in_label_unit(self, answers: Answers) -> tuple[Floats, Floats] | None:
        """``<h>_expected`` and the label; None for classes."""
        if not self.has_number(answers.head):
            return None
        return OrderedAnswers.of(answers).expected, answers.label

    def misses(self, head: HeadSpec, outputs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Floats:
        """Distance of the expected bin from the true one."""
        return np.asarray(np.abs(np.exp(outputs) @ np.arange(outputs.shape[1]) - truth))

    def change(self, head: HeadSpec, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:
        """In probabilities, score and best bin."""
        return change(_ordered(head), np.exp(before), np.exp(after))

    def ridge_target(self, head: HeadSpec, target: npt.NDArray[Any]) -> Floats | None:
        """The bin."""
        return target.astype(np.float64)


def _ordered(head: HeadSpec) -> OrderedHead:
    assert isinstance(head, OrderedHead)
    return head
