"""A head of a number in the report of an evaluation: its numbers, charts, and words for pictures."""

from __future__ import annotations

from typing import Any, ClassVar

from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.metrics.protocol import Curves
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report import charts
from pix2score.report.page import Chart
from pix2score.report.protocol import KindPage, Row


class ValuePage(KindPage):
    """Charts of answers beside labels."""

    rows: ClassVar[tuple[Row, ...]] = (
        ("pearson", "Pearson correlation with the label", ""),
        ("mse", "Mean squared error; of the constant, the variance", "lower"),
        ("rmse", "Root of it", "lower"),
        ("mae", "Mean absolute error", "lower"),
        ("spearman", "Spearman", ""),
    )
    constant: ClassVar[str] = "the train split's mean, and of absolute errors its median"

    def note(self, verdict: HeadVerdict) -> str:
        """The line of the calibration, and what it leaves."""
        notes = verdict.notes
        if not notes:
            return "Not calibrated."
        return (
            f"Calibrated: {notes['slope']:.2f} times the output, and {notes['offset']:+.3g}; labels of the "
            f"validation split lie {notes['residual_std']:.3g} (standard deviation) from that."
        )

    def charts(self, head: HeadSpec, curves: Curves) -> list[Chart]:
        """Label against prediction, and their difference."""
        against_label = charts.predicted_against_label(curves["curve"], curves["scatter"], head.column)
        residuals = charts.shares_along(curves["residuals"], "residual", f"{head.column} less predicted")
        return [
            Chart(
                against_label,
                "Label against prediction. Line: median of each tenth of the images; band: its middle half. "
                "A good head follows the dashed line.",
            ),
            Chart(
                residuals, "How far labels lie above what was predicted (or below). A good head is narrow."
            ),
        ]

    def said(self, head: HeadSpec, outputs_A: Any) -> str:
        """The value."""
        assert isinstance(head, ValueHead)
        centre, scale = head.centre_and_scale
        return f"said {centre + scale * float(outputs_A[0]):.3g}"

    def true(self, head: HeadSpec, target: Any) -> str:
        """The label."""
        return f"true {float(target):.3g}"
