"""The numbers of heads of kind ``classes``. Shapes: N images, K classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pix2score.heads.classes import ClassesHead
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.metrics.curves import reliability, temperature_notes
from pix2score.metrics.formulas import (
    Floats,
    Measure,
    Numbers,
    accuracy,
    calibration_error,
    macro_recall,
    nll_by_image,
    weighted_mean,
)
from pix2score.metrics.kept_rows import KeptRows
from pix2score.metrics.measures import softened, values
from pix2score.metrics.protocol import Accumulator, Answers, Change, Curves, KindNumbers
from pix2score.metrics.soft_temperature import soft_temperature

MAX_DRAWN = 30
"""Classes of a confusion matrix: the most frequent ones."""


class ClassRows(KeptRows):
    """Numbers of one head from its rows."""

    def numbers_of(self, answers: Answers) -> Numbers:
        """``class_measures``."""
        return values(class_measures(answers), len(answers.truth))

    def constant_of(self, answers: Answers) -> Mapping[str, float | None]:
        """Of the train split's shares."""
        return class_constant(answers)

    def calibration(self) -> dict[str, Any]:
        """The temperature."""
        if not self.num_labelled:
            return {"temperature": 1.0}
        rows = self.rows()
        one_hot = np.eye(self.head.num_outputs)[rows.targets]
        return {"temperature": soft_temperature(rows.outputs, one_hot, np.ones(len(one_hot)))}

    def relative_loss(self) -> float:
        """NLL at the fitted temperature over that of the train split's shares."""
        found = self.answers(self.calibration())
        return float(nll_by_image(found.outputs, found.truth).mean()) / self.head.null_cost

    def ece(self, calibration: Calibration) -> float | None:
        """Of the most probable class."""
        if not self.num_labelled:
            return None
        found = self.answers(calibration)
        return class_measures(found)["ece"](np.ones(len(found.truth)))


class ClassNumbers(KindNumbers):
    """Accuracy and mean recall; NLL and calibration of the probabilities."""

    loss: ClassVar[str] = "nll"
    lower_is_better: ClassVar[tuple[str, ...]] = ("nll", "ece")
    higher_is_better: ClassVar[tuple[str, ...]] = ("accuracy", "macro_recall")
    summary: ClassVar[tuple[str, ...]] = ("nll", "ece", "macro_recall")

    def main(self, head: HeadSpec) -> str:
        """``accuracy``."""
        return "accuracy"

    def accumulator(self, head: HeadSpec) -> Accumulator:
        """An empty one."""
        return ClassRows(head)

    def measures(self, answers: Answers) -> dict[str, Measure]:
        """``class_measures``."""
        return class_measures(answers)

    def guess_measures(self, answers: Answers, guess: Floats) -> dict[str, Measure]:
        """Of guesses [N, K] of which the greatest counts."""
        return _of_predicted(answers.truth, guess.argmax(axis=1), guess.shape[1])

    def constant(self, answers: Answers) -> Numbers:
        """Of the train split's shares."""
        return class_constant(answers)

    def notes(self, answers: Answers, calibration: Calibration) -> dict[str, Any]:
        """The temperature, and the calibration error without it."""
        return temperature_notes(answers, calibration)

    def curves(self, answers: Answers, calibration: Calibration) -> Curves:
        """``reliability`` before and after the temperature, and ``confusion`` of the first classes."""
        correct = answers.outputs.argmax(axis=1) == answers.truth
        before = softened(answers.outputs, float(calibration.get("temperature", 1.0)))
        sure = {"before": np.exp(before).max(axis=1), "after": np.exp(answers.outputs).max(axis=1)}
        k = answers.outputs.shape[1]
        counts = _confusion(answers.truth, answers.outputs.argmax(axis=1), np.ones(len(correct)), k)
        shown = counts[:MAX_DRAWN, :MAX_DRAWN] / np.maximum(counts[:MAX_DRAWN].sum(axis=1, keepdims=True), 1)
        return {
            "reliability": {name: reliability(found, correct) for name, found in sure.items()},
            "confusion": shown.tolist(),
        }

    def score(self, head: HeadSpec, outputs: npt.NDArray[Any]) -> Floats:
        """How sure the answer is."""
        return np.asarray(np.exp(outputs).max(axis=1))

    def misses(self, head: HeadSpec, outputs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Floats:
        """What the true class lacks to certainty."""
        return np.asarray(1 - np.exp(outputs[np.arange(len(truth)), truth]))

    def change(self, head: HeadSpec, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:
        """In probabilities, certainty and class."""
        old, new = np.exp(before), np.exp(after)
        return {
            "images": len(before),
            "mean_prob_change": float(np.abs(new - old).mean()),
            "mean_score_change": float(np.abs(new.max(axis=1) - old.max(axis=1)).mean()),
            "same_bin": float((new.argmax(axis=1) == old.argmax(axis=1)).mean()),
        }

    def ridge_target(self, head: HeadSpec, target: npt.NDArray[Any]) -> Floats | None:
        """1 for the class, 0 for the others, [N, K]."""
        return np.asarray(np.eye(head.num_outputs)[target])


def class_measures(answers: Answers) -> dict[str, Measure]:
    """Every number of calibrated answers."""
    probs, truth = np.exp(answers.outputs), answers.truth
    predicted, sure = probs.argmax(axis=1), probs.max(axis=1)
    return {
        **_of_predicted(truth, predicted, probs.shape[1]),
        "nll": weighted_mean(nll_by_image(answers.outputs, truth)),
        "ece": lambda w: calibration_error(sure, predicted == truth, w),
    }


def class_constant(answers: Answers) -> Numbers:
    """Of the train split's shares, and of its most frequent class."""
    head = answers.head
    assert isinstance(head, ClassesHead)
    return {
        "accuracy": float((answers.truth == int(head.prior.argmax())).mean()),
        "macro_recall": 1 / len(np.unique(answers.truth)),
        "nll": float(-np.log(head.prior)[answers.truth].mean()),
    }


def _of_predicted(truth: npt.NDArray[Any], predicted: npt.NDArray[Any], k: int) -> dict[str, Measure]:
    return {
        "accuracy": lambda w: accuracy(_confusion(truth, predicted, w, k)),
        "macro_recall": lambda w: macro_recall(_confusion(truth, predicted, w, k)),
    }


def _confusion(truth: npt.NDArray[Any], predicted: npt.NDArray[Any], weight: Floats, k: int) -> Floats:
    """[K, K]: true class by predicted class."""
    return np.asarray(np.bincount(truth * k + predicted, weight, k * k).reshape(k, k))
