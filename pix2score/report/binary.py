"""A yes-or-no head in the report of an evaluation: its numbers, charts, and words for pictures."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pix2score.heads.binary import probability
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.protocol import Curves
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report import charts
from pix2score.report.page import Chart
from pix2score.report.protocol import KindPage, Row


class BinaryPage(KindPage):
    """Charts of one probability."""

    rows: ClassVar[tuple[Row, ...]] = (
        ("auc", "AUC: a yes is above a no", ""),
        ("ap", "Average precision", ""),
        ("accuracy", "Accuracy at 0.5", ""),
        ("accuracy_at_threshold", "Accuracy at the threshold", ""),
        ("balanced_accuracy", "Balanced accuracy at the threshold", ""),
        ("brier", "Brier score", "lower"),
        ("nll", "NLL", "lower"),
        ("ece", "Calibration error (ECE)", "lower"),
        ("spearman", "Spearman", ""),
    )
    constant: ClassVar[str] = "the train split's share of yes"

    def note(self, verdict: HeadVerdict) -> str:
        """The line of the calibration, and the threshold."""
        notes = verdict.notes
        if not notes:
            return "Not calibrated."
        return (
            f"Calibrated log odds: {notes['slope']:.2f} times the output, and {notes['offset']:+.2f}. Yes "
            f"from a probability of {notes['threshold']:.3f} on: of best balanced accuracy on the validation "
            "split."
        )

    def charts(self, head: HeadSpec, curves: Curves) -> list[Chart]:
        """Precision against recall, calibration, probabilities of either answer."""
        precision = [(point["recall"], point["precision"]) for point in curves["precision"]]
        held = [
            (step["confidence"], step["correct"])
            for step in curves["reliability"]
            if step["images"] >= charts.MIN_IMAGES
        ]
        sides = {f"truly {name}": shares for name, shares in curves["histogram"].items()}
        steps = [f"{i / len(next(iter(sides.values()))):.2f}" for i in range(len(next(iter(sides.values()))))]
        return [
            Chart(
                charts.lines({head.name: precision}, "recall: share of yes found", "precision"),
                "From left to right more images are called yes. A good head stays high.",
            ),
            Chart(
                charts.lines({head.name: held}, "probability of yes", "share that is yes", diagonal=True),
                "On the dashed line, a probability of 0.4 is yes 4 times in 10.",
            ),
            Chart(
                charts.bars(steps, sides),
                "Probability of the images that are yes, and of those that are no. A good head keeps them "
                "apart.",
            ),
        ]

    def said(self, head: HeadSpec, outputs_A: Any) -> str:
        """The probability."""
        return f"said yes {probability(np.asarray(outputs_A, dtype=np.float64))[0]:.0%}"

    def true(self, head: HeadSpec, target: Any) -> str:
        """Yes or no."""
        return "true yes" if int(target) else "true no"
