"""One head's section in the report of an evaluation.

Its numbers beside their references, curves, and pictures from the sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.heads.spec import HeadSpec
from pix2score.metrics.curves import Change, Curves
from pix2score.metrics.findings import HeadDetails
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report import charts
from pix2score.report.page import (
    Chart,
    Gallery,
    Line,
    Picture,
    Section,
    TextTable,
    encoded,
    number,
    short_labels,
)
from pix2score.storage.arrow import matrix

NUM_PICTURES = 6
ALTERED_NAMES = {
    "jpeg_75": "saved again as JPEG, quality 75",
    "crop_top_left_5": "5 % cut off at left and top",
    "crop_bottom_right_5": "5 % cut off at right and bottom",
    "resize_75": "shrunk to 75 %",
    "original": "the original instead of the prepared image",
}
PARITY_BOUND = 0.01
ROWS = (
    ("spearman", "Spearman, expected quantile with the raw label", ""),
    ("kappa", "Quadratic weighted kappa", ""),
    ("mae_bins", "Mean error of the expectation, bins", "lower"),
    ("accuracy", "Accuracy", ""),
    ("within_1", "At most one bin off", ""),
    ("macro_recall", "Macro recall", ""),
    ("nll", "NLL", "lower"),
    ("rps", "RPS", "lower"),
    ("ece", "Calibration error (ECE)", "lower"),
    ("auc_top20", "AUC of the top 20 %", ""),
    ("lift_top20", "Lift of the top 20 %", ""),
    ("auc_top5", "AUC of the top 5 %", ""),
    ("lift_top5", "Lift of the top 5 %", ""),
)


def head_section(
    head: HeadSpec, verdict: HeadVerdict, details: HeadDetails, sampled: pa.Table | None
) -> Section:
    """The section of ``head``; ``sampled`` rows carry thumbnails."""
    if details.curves is None:
        return Section(title=head.name, lines=[Line("No labelled image in this split.", "bad")])
    labels = short_labels(head)
    ece = number(verdict.ece_before_temperature)
    text = f"Temperature {verdict.temperature:.2f}: calibration error {ece} without it."
    return Section(
        title=head.name,
        lines=[Line(text, "note")],
        tables=[_numbers(verdict), _robustness(details.altered)],
        charts=_charts(head, details.curves, labels),
        galleries=_galleries(head, sampled, labels),
    )


def _charts(head: HeadSpec, curves: Curves, labels: Sequence[str]) -> list[Chart]:
    against_label = charts.score_against_label(
        curves["curve"], curves["scatter"], head.column, is_count=_is_count(head)
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
            charts.confusion(labels, curves["confusion"]),
            "Each row adds up to 1. A good head is dark along the diagonal.",
        ),
    ]


def _is_count(head: HeadSpec) -> bool:
    return head.kind == "bins" and head.min_value >= 0


def _numbers(verdict: HeadVerdict) -> TextTable:
    rows = [
        [
            title + (" ↓" if better else ""),
            number(verdict.numbers[name]) + interval_text(verdict, name),
            number(verdict.ridge.get(name)),
            number(verdict.constant.get(name)),
        ]
        for name, title, better in ROWS
    ]
    note = "↓: lower is better. Constant: the train split's shares, its median bin or its most frequent bin."
    return TextTable(["", "model", "ridge", "constant"], rows, note)


def interval_text(verdict: HeadVerdict, name: str) -> str:
    """`` [low, high]`` of a number, empty where it has no interval."""
    found = verdict.interval.get(name)
    return f" [{found.low:.3f}, {found.high:.3f}]" if found else ""


def _robustness(altered: Mapping[str, Change]) -> TextTable:
    rows = [
        [
            title,
            str(c["images"]),
            number(c["mean_prob_change"], 4),
            number(c["mean_score_change"], 4),
            f"{c['same_bin']:.0%}",
        ]
        for name, title in ALTERED_NAMES.items()
        if (c := altered.get(name))
    ]
    note = "How far answers move when the same image comes otherwise."
    if original := altered.get("original"):
        verdict = "within" if original["mean_prob_change"] <= PARITY_BOUND else "ABOVE"
        note += (
            f" Prepared images stand for originals: {verdict} the bound of {PARITY_BOUND} on the mean "
            "change of probability."
        )
    return TextTable(["image", "images", "mean |Δ probability|", "mean |Δ score|", "same bin"], rows, note)


def _galleries(head: HeadSpec, sampled: pa.Table | None, labels: Sequence[str]) -> list[Gallery]:
    if sampled is None or not sampled.num_rows:
        return []
    shown = _Shown(head, sampled, labels)
    found = [
        shown.gallery("Highest predicted", np.argsort(-shown.score, kind="stable")),
        shown.gallery("Lowest predicted", np.argsort(shown.score, kind="stable")),
        shown.gallery("Largest misses", shown.misses()),
        *_saliency(head, sampled, shown),
    ]
    return [gallery for gallery in found if gallery.pictures]


def _saliency(head: HeadSpec, sampled: pa.Table, shown: _Shown) -> list[Gallery]:
    name = f"{head.name}_saliency"
    if name not in sampled.column_names or sampled.column(name).null_count == sampled.num_rows:
        return []
    explained = np.flatnonzero(sampled.column(name).is_valid().to_numpy())
    note = "Grad-CAM: bright places raise the score; dark ones do not."
    return [shown.gallery("Where this head looks", explained, name, note)]


class _Shown:
    """The sample as one head answers it."""

    def __init__(self, head: HeadSpec, sampled: pa.Table, labels: Sequence[str]) -> None:
        self._rows, self._labels = sampled, labels
        self._probs = np.exp(matrix(sampled.column(f"{head.name}_log_probs_0")).astype(np.float64))
        self._truth = sampled.column(f"{head.name}_bin").to_numpy()
        self.score = self._probs @ np.linspace(0, 1, head.num_bins)

    def misses(self) -> npt.NDArray[np.int64]:
        """Labelled rows, the farthest from their bin first."""
        expected = self._probs @ np.arange(self._probs.shape[1])
        miss = np.where(self._truth >= 0, np.abs(expected - self._truth), -1)
        order = np.argsort(-miss, kind="stable")
        return order[miss[order] >= 0]

    def gallery(
        self, title: str, order: npt.NDArray[Any], images: str = "thumbnail", note: str = ""
    ) -> Gallery:
        """The first rows of ``order``, with the pictures of column ``images``."""
        return Gallery(title, [self._picture(row, images) for row in order[:NUM_PICTURES].tolist()], note)

    def _picture(self, row: int, images: str) -> Picture:
        key = f"{self._rows.column('illust_id')[row].as_py()} p{self._rows.column('page')[row].as_py()}"
        best, truth = int(self._probs[row].argmax()), int(self._truth[row])
        true = self._labels[truth] if truth >= 0 else "no label"
        said = f"said {self._labels[best]} ({self._probs[row, best]:.0%})"
        return Picture(key, encoded(self._rows.column(images)[row].as_py()), [said, f"true {true}"])
