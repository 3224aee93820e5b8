"""The numbers of heads that answer with a number.

Shapes: N images; answers are [N, 1], in standard deviations of the train split from its mean.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from pix2score.heads.quantiles import quantile_of
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.metrics.formulas import Floats, Measure, Numbers, spearman
from pix2score.metrics.kept_rows import KeptRows
from pix2score.metrics.measures import values
from pix2score.metrics.number import constant_errors, number_measures
from pix2score.metrics.platt import trusted
from pix2score.metrics.protocol import Accumulator, Answers, Change, Curves, KindNumbers
from pix2score.metrics.value_curves import value_curves

MIN_SLOPE, MAX_SLOPE = 0.01, 10.0
"""Answers never turn round: a model that is worse than the mean gets nearly the mean everywhere."""
SAME = 0.1
"""Deviations that a value may move and still count as the same."""


class ValueAccumulator(KeptRows):
    """Answers and labels of one head."""

    def numbers_of(self, answers: Answers) -> Numbers:
        """Of answers in the label's own unit."""
        return values(_measures(_said(answers), answers.label), len(answers.label))

    def constant_of(self, answers: Answers) -> Numbers:
        """Of the train split's mean, or its median."""
        return _constant(answers)

    def calibration(self) -> dict[str, Any]:
        """``slope`` and ``offset`` of the line that fits labels best, and ``residual_std`` around it."""
        head = _value(self.head)
        centre, scale = head.centre_and_scale
        if not self.num_labelled:
            return {"slope": 1.0, "offset": 0.0, "residual_std": scale}
        outputs, _, labels = self.rows()
        said, wanted = head.standardised(outputs), (labels - centre) / scale
        slope, level = fit_line(said, wanted)
        left = wanted - slope * said - level
        return {
            "slope": slope,
            "offset": centre * (1 - slope) + scale * level,
            "residual_std": scale * float(np.sqrt(((left**2).sum() + 1) / (len(left) + 1))),
        }

    def relative_loss(self) -> float:
        """MSE over that of the train split's mean on the same images."""
        answers = self.answers(self.calibration())
        centre, _ = _value(self.head).centre_and_scale
        constant = ((answers.label - centre) ** 2).mean()
        return float(((_said(answers) - answers.label) ** 2).mean() / max(constant, 1e-300))


def fit_line(said_N: Floats, wanted_N: Floats) -> tuple[float, float]:
    """Slope and offset of the line of least squared error, of standardised answers and labels.

    Normal priors of width 1 draw it to slope 1 and offset 0, with the weight of a handful of images; and of
    the offset stays what chance does not explain (``platt.trusted``).
    """
    x = np.stack([said_N, np.ones(len(said_N))], axis=1)
    slope, level = np.linalg.solve(x.T @ x + np.eye(2), x.T @ wanted_N + np.array([1.0, 0.0]))
    if not MIN_SLOPE <= slope <= MAX_SLOPE:
        slope = np.clip(slope, MIN_SLOPE, MAX_SLOPE)
        level = (wanted_N - slope * said_N).sum() / (len(said_N) + 1)
    left_N = wanted_N - slope * said_N - level
    level = trusted(level, (1 + (left_N**2).sum()) / (1 + len(left_N)) ** 2)
    slope = (said_N @ (wanted_N - level) + 1) / (said_N @ said_N + 1)
    return float(np.clip(slope, MIN_SLOPE, MAX_SLOPE)), level


class ValueNumbers(KindNumbers):
    """How near answers come to labels, in the label's own unit, and whether they rise with them."""

    loss: ClassVar[str] = "mse"
    lower_is_better: ClassVar[tuple[str, ...]] = ("mse", "rmse", "mae")
    higher_is_better: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    summary: ClassVar[tuple[str, ...]] = ("mse", "mae")

    def main(self, head: HeadSpec) -> str:
        """``pearson``."""
        return "pearson"

    def accumulator(self, head: HeadSpec) -> Accumulator:
        """An empty one."""
        return ValueAccumulator(head)

    def measures(self, answers: Answers) -> dict[str, Measure]:
        """Of answers in the label's own unit."""
        return _measures(_said(answers), answers.label)

    def guess_measures(self, answers: Answers, guess: Floats) -> dict[str, Measure]:
        """Of a guess of the number, held within the range as answers are."""
        return _measures(guess.clip(*_value(answers.head).bounds), answers.label)

    def constant(self, answers: Answers) -> Numbers:
        """Of the train split's mean, or its median."""
        return _constant(answers)

    def notes(self, answers: Answers, calibration: Calibration) -> dict[str, Any]:
        """Slope, offset and residual deviation."""
        return {name: float(value) for name, value in calibration.items()}

    def curves(self, answers: Answers, calibration: Calibration) -> Curves:
        """``value_curves.ValueCurves``."""
        return cast(Curves, value_curves(_said(answers), answers.label))

    def score(self, head: HeadSpec, outputs: npt.NDArray[Any]) -> Floats:
        """The answer."""
        return _in_own_unit(head, outputs)

    def has_number(self, head: HeadSpec) -> bool:
        """Always."""
        return True

    def in_label_unit(self, answers: Answers) -> tuple[Floats, Floats] | None:
        """The answer and the label."""
        return _said(answers), answers.label

    def misses(self, head: HeadSpec, outputs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Floats:
        """Distance from the label."""
        return np.asarray(np.abs(_in_own_unit(head, outputs) - truth))

    def change(self, head: HeadSpec, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:
        """In the score, which stands for a probability too; the same: within a tenth of a deviation."""
        quantiles = _value(head).train_quantiles
        scores = [quantile_of(_in_own_unit(head, outputs), quantiles) for outputs in (before, after)]
        moved = float(np.abs(scores[1] - scores[0]).mean())
        is_same = np.abs(after.astype(np.float64) - before)[:, 0] < SAME
        return {
            "images": len(before),
            "mean_prob_change": moved,
            "mean_score_change": moved,
            "same_bin": float(is_same.mean()),
        }

    def ridge_target(self, head: HeadSpec, target: npt.NDArray[Any]) -> Floats | None:
        """The number."""
        return target.astype(np.float64)


def _measures(said_N: Floats, label_N: Floats) -> dict[str, Measure]:
    return {**number_measures(said_N, label_N), "spearman": spearman(said_N, label_N)}


def _constant(answers: Answers) -> Numbers:
    head = _value(answers.head)
    return constant_errors(head.centre_and_scale[0], head.train_quantiles[50], answers.label)


def _said(answers: Answers) -> Floats:
    return _in_own_unit(answers.head, answers.outputs)


def _in_own_unit(head: HeadSpec, outputs: npt.NDArray[Any]) -> Floats:
    """Calibrated outputs [N, 1] as answers [N]."""
    centre, scale = _value(head).centre_and_scale
    return np.asarray(centre + scale * outputs[:, 0].astype(np.float64))


def _value(head: HeadSpec) -> ValueHead:
    assert isinstance(head, ValueHead)
    return head
