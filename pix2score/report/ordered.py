"""An ordered head in the report of an evaluation: its numbers, charts, and words for pictures."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pix2score.heads.ordered import OrderedHead
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.protocol import Curves
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report import charts
from pix2score.report.page import Chart, number
from pix2score.report.protocol import KindPage, Row


class OrderedPage(KindPage):
    """Charts of the distribution over bins."""

    rows: ClassVar[tuple[Row, ...]] = (
        ("spearman", "Spearman, expected quantile with the raw label", ""),
        ("kappa", "Quadratic weighted kappa", ""),
        ("mae_bins", "Mean error of the expectation, bins", "lower"),
        ("accuracy", "Accuracy", ""),
        ("within_1", "At most one bin off", ""),
        ("macro_recall", "Macro recall", ""),
        ("nll", "NLL", "lower"),
        ("rps", "RPS", "lower"),
        ("ece", "Calibration error (ECE)", "lower"),
        ("pearson", "Pearson, expected value with the raw label", ""),
        ("rmse", "Root mean squared error of the expected value", "lower"),
        ("mae", "Mean absolute error of the expected value", "lower"),
        ("auc_top20", "AUC of the top 20 %", ""),
        ("lift_top20", "Lift of the top 20 %", ""),
        ("auc_top5", "AUC of the top 5 %", ""),
        ("lift_top5", "Lift of the top 5 %", ""),
    )
    constant: ClassVar[str] = "the train split's shares, its median bin or its most frequent bin"

    def note(self, verdict: HeadVerdict) -> str:
        """The temperature, and what it mends."""
        before = number(verdict.notes["ece_before_temperature"])
        return f"Temperature {verdict.notes['temperature']:.2f}: calibration error {before} without it."

    def charts(self, head: HeadSpec, curves: Curves) -> list[Chart]:
        """Label against score, calibration, confusion."""
        assert isinstance(head, OrderedHead)
        against_label = charts.score_against_label(
            curves["curve"], curves["scatter"], head.column, is_count=head.are_counts
        )
        return [
            Chart(
                against_label,
                "Raw label against score. Line: median of each tenth of the images; band: its middle half. A "
                "good head climbs.",
            ),
            Chart(
                charts.calibration(curves["reliability"]),
                "On the dashed line, a probability of 0.4 is right 4 times in 10.",
            ),
            Chart(
                charts.confusion(head.histogram_labels(), curves["confusion"]),
                "Each row adds up to 1. A good head is dark along the diagonal.",
            ),
        ]

    def said(self, head: HeadSpec, outputs_A: Any) -> str:
        """The most probable bin."""
        best = int(outputs_A.argmax())
        return f"said {head.histogram_labels()[best]} ({np.exp(outputs_A[best]):.0%})"

    def true(self, head: HeadSpec, target: Any) -> str:
        """The true bin."""
        return f"true {head.histogram_labels()[int(target)]}"
