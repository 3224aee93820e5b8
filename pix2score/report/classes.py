"""A head of classes in the report of an evaluation: its numbers, charts, and words for pictures."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pix2score.heads.classes import ClassesHead
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.protocol import Curves
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report import charts
from pix2score.report.page import Chart, number
from pix2score.report.protocol import KindPage, Row


class ClassesPage(KindPage):
    """Calibration, and which classes are taken for which."""

    rows: ClassVar[tuple[Row, ...]] = (
        ("accuracy", "Accuracy", ""),
        ("macro_recall", "Macro recall", ""),
        ("nll", "NLL", "lower"),
        ("ece", "Calibration error (ECE)", "lower"),
    )
    constant: ClassVar[str] = "the train split's shares, or its most frequent class"

    def note(self, verdict: HeadVerdict) -> str:
        """The temperature, and what it mends."""
        before = number(verdict.notes["ece_before_temperature"])
        return f"Temperature {verdict.notes['temperature']:.2f}: calibration error {before} without it."

    def charts(self, head: HeadSpec, curves: Curves) -> list[Chart]:
        """Calibration, confusion."""
        assert isinstance(head, ClassesHead)
        return [
            Chart(
                charts.calibration(curves["reliability"]),
                "On the dashed line, a probability of 0.4 is right 4 times in 10.",
            ),
            Chart(
                charts.confusion(head.classes[: len(curves["confusion"])], curves["confusion"]),
                "Of the images of each row's class, the share said to be of the column's. A good head is "
                "dark along the diagonal.",
            ),
        ]

    def said(self, head: HeadSpec, outputs_A: Any) -> str:
        """The most probable class."""
        assert isinstance(head, ClassesHead)
        best = int(outputs_A.argmax())
        return f"said {head.classes[best]} ({np.exp(outputs_A[best]):.0%})"

    def true(self, head: HeadSpec, target: Any) -> str:
        """The true class."""
        assert isinstance(head, ClassesHead)
        return f"true {head.classes[int(target)]}"
