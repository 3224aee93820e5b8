"""A head that learns from comparisons, in the report of an evaluation: pairs of images, right and wrong."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

from pix2score.heads.compared import FIRST_RANK
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.protocol import Curves
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report import charts
from pix2score.report.page import Chart, number
from pix2score.report.protocol import KindPage, Row


class PreferencePage(KindPage):
    """Charts of pairs; its pictures are sets, side by side."""

    rows: ClassVar[tuple[Row, ...]] = (
        ("pair_accuracy", "Pairs ordered right", ""),
        ("accuracy_sure_half", "The same, of the half it is surest of", ""),
        ("rater_agreement", "Raters who agree with another rater", ""),
        ("nll", "NLL", "lower"),
        ("ece", "Calibration error (ECE)", "lower"),
    )
    constant: ClassVar[str] = "all images are equally good"
    galleries: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Most surely right", "hits"),
        ("Most surely wrong", "misses"),
    )

    def note(self, verdict: HeadVerdict) -> str:
        """How many pairs, the temperature and what it mends, and what raters reach."""
        notes, agreement = verdict.notes, verdict.numbers.get("rater_agreement")
        before = number(notes["ece_before_temperature"])
        raters = (
            "" if agreement is None else f" Raters agree with each other on {agreement:.0%} of the pairs."
        )
        return (
            f"{verdict.num_labelled} sets with {notes['num_pairs']} pairs. Temperature "
            f"{notes['temperature']:.2f}: calibration error {before} without it.{raters}"
        )

    def charts(self, head: HeadSpec, curves: Curves) -> list[Chart]:  # noqa: ARG002
        """Calibration, and accuracy by margin."""
        return [
            Chart(
                charts.calibration(curves["reliability"], "the better image"),
                "On the dashed line, a probability of 0.8 is right 8 times in 10.",
            ),
            Chart(
                charts.share_right(curves["by_margin"], "margin", "difference of logits"),
                "Pairs by how far apart the model has them, in steps of as many pairs. A good head climbs.",
            ),
        ]

    def said(self, head: HeadSpec, outputs_A: Any) -> str:  # noqa: ARG002
        """The order, and of two images how sure it is."""
        logits = outputs_A[~np.isnan(outputs_A)]
        if len(logits) == 1:
            return f"logit {logits[0]:+.2f}"
        sure = 1 / (1 + math.exp(-abs(float(logits[0] - logits[1])))) if len(logits) == 2 else None
        return f"said {_order(-logits)}" + ("" if sure is None else f" ({sure:.0%})")

    def true(self, head: HeadSpec, target: Any) -> str:  # noqa: ARG002
        """The order."""
        ranks = target[FIRST_RANK:]
        return f"true {_order(ranks[~np.isnan(ranks)])}"


def _order(rank_K: Any) -> str:
    """Images by place, the best first: ``left before right``, or ``2, 1 = 3``."""
    if len(rank_K) == 2 and rank_K[0] != rank_K[1]:
        return "left before right" if rank_K[0] < rank_K[1] else "right before left"
    order = np.argsort(rank_K, kind="stable").tolist()
    tied = [[str(i + 1) for i in same] for _, same in groupby(order, key=lambda i: float(rank_K[i]))]
    return ", ".join(" = ".join(names) for names in tied)
