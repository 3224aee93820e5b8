"""A ``distribution`` head in the report of an evaluation: its numbers, charts, and words for pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pix2score.heads.distribution import DistributionHead
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.protocol import Curves
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report import charts
from pix2score.report.page import Chart, number
from pix2score.report.protocol import KindPage, Row


class DistributionPage(KindPage):
    """Means, and how far votes disagree."""

    rows: ClassVar[tuple[Row, ...]] = (
        ("pearson", "Pearson, predicted mean with the votes' mean", ""),
        ("spearman", "Spearman of the same", ""),
        ("mse", "Mean squared error of the mean", "lower"),
        ("nll", "NLL, cross-entropy of the votes", "lower"),
        ("kl", "KL, the part of it that a model could know", "lower"),
        ("emd", "Distance of the shares (EMD)", "lower"),
        ("std_spearman", "Spearman of the standard deviations", ""),
    )
    constant: ClassVar[str] = "the train split's mean shares"

    def note(self, verdict: HeadVerdict) -> str:
        """The temperature, and what the noise of the votes allows."""
        notes = verdict.notes
        said = f"Temperature {notes['temperature']:.2f}."
        if notes["pearson_ceiling"] is None:
            return said
        return (
            f"{said} The labels are the means of a few votes: their noise alone allows a Pearson of at most "
            f"{number(notes['pearson_ceiling'])}, {number(notes['std_spearman_ceiling'])} for the standard "
            f"deviations, and a mean squared error of at least {number(notes['mse_floor'], 4)}."
        )

    def charts(self, head: HeadSpec, curves: Curves) -> list[Chart]:
        """Means, deviations, shares."""
        assert isinstance(head, DistributionHead)
        named = {"mean": "mean of the votes", "std": "standard deviation of the votes"}
        against = {
            part: charts.score_against_label(
                curves[f"{part}_curve"], curves[f"{part}_scatter"], title, is_count=False, score="predicted"
            )
            for part, title in named.items()
        }
        shares = {"predicted": curves["said_shares"], "votes": curves["true_shares"]}
        return [
            Chart(
                against["mean"],
                "Mean of the votes against the predicted one. Line: median of each tenth; band: "
                "its middle half. A good head climbs.",
            ),
            Chart(against["std"], "How far the votes disagree, against how far they were predicted to."),
            Chart(charts.bars(head.class_labels, shares), "Mean share of each value, over all images."),
        ]

    def examples(
        self, head: HeadSpec, outputs_NA: npt.NDArray[Any], curves: Curves
    ) -> Mapping[str, npt.NDArray[np.int64]]:
        """The pictures that are predicted to divide people most."""
        assert isinstance(head, DistributionHead)
        std = head.moments(np.exp(outputs_NA))[1]
        return {"Most contested": np.argsort(-std, kind="stable")}

    def said(self, head: HeadSpec, outputs_A: Any) -> str:
        """Mean and standard deviation."""
        return f"said {_moments(head, np.exp(outputs_A))}"

    def true(self, head: HeadSpec, target: Any) -> str:
        """The same of the votes."""
        return f"true {_moments(head, target[:-1])}"


def _moments(head: HeadSpec, shares_K: Any) -> str:
    assert isinstance(head, DistributionHead)
    mean, std = head.moments(np.asarray(shares_K, dtype=np.float64)[None])
    return f"{mean[0]:.3g} ± {std[0]:.2g}"
