"""One head's section in the report of an evaluation.

Its numbers beside their references, curves, and pictures from the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.heads.compared import key_text
from pix2score.heads.spec import HeadSpec, present
from pix2score.metrics.findings import ADVERSARIAL_REACH, HeadDetails
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.protocol import Change, Curves
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report.kinds import page_of
from pix2score.report.page import (
    Gallery,
    Line,
    Picture,
    Section,
    TextTable,
    encoded,
    number,
)
from pix2score.report.protocol import KindPage
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


def head_section(
    head: HeadSpec, verdict: HeadVerdict, details: HeadDetails, sampled: pa.Table | None
) -> Section:
    """The section of ``head``; ``sampled`` rows carry thumbnails."""
    if details.curves is None:
        return Section(title=head.name, lines=[Line("No labelled image in this split.", "bad")])
    page = page_of(head)
    return Section(
        title=head.name,
        lines=[Line(page.note(verdict), "note"), *_adversarial(details)],
        tables=[_numbers(page, verdict), _robustness(details.altered)],
        charts=page.charts(head, details.curves),
        galleries=_galleries(head, sampled, details.curves),
    )


def _numbers(page: KindPage, verdict: HeadVerdict) -> TextTable:
    rows = [
        [
            title + (" ↓" if better else ""),
            number(verdict.numbers.get(name)) + interval_text(verdict, name),
            number(verdict.ridge.get(name)),
            number(verdict.constant.get(name)),
        ]
        for name, title, better in page.rows
    ]
    note = f"↓: lower is better. Constant: {page.constant}."
    return TextTable(["", "model", "ridge", "constant"], rows, note)


def interval_text(verdict: HeadVerdict, name: str) -> str:
    """`` [low, high]`` of a number, which a line does not break; empty where it has no interval."""
    found = verdict.interval.get(name)
    return f" [{number(found.low)},\N{NO-BREAK SPACE}{number(found.high)}]" if found else ""


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


def _adversarial(details: HeadDetails) -> list[Line]:
    found = details.adversarial
    if found is None:
        return []
    return [
        Line(
            f"Adversarial: {found['changed']:.0%} of {found['images']} images are answered otherwise once "
            f"pixels move, against the model, by at most {ADVERSARIAL_REACH} of 255, which nobody sees. "
            "Otherwise is: another most probable bin, class or tag; no for yes; of a number, a score that "
            "moved by a twentieth. Expect nearly all: little protects a model not trained against it.",
            "note",
        )
    ]


def _galleries(head: HeadSpec, sampled: pa.Table | None, curves: Curves) -> list[Gallery]:
    if sampled is None or not sampled.num_rows:
        return []
    shown = _Shown(head, sampled)
    found = [shown.gallery(title, shown.order(by)) for title, by in page_of(head).galleries]
    found += [*_saliency(head, sampled, shown), *shown.examples(curves)]
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

    def __init__(self, head: HeadSpec, sampled: pa.Table) -> None:
        self._rows, self._head = sampled, head
        self._outputs = matrix(sampled.column(f"{head.name}_outputs_0")).astype(np.float64)
        self._targets = head.targets(sampled.column(head.target_field().name))
        self._labelled = present(self._targets)
        self.score = numbers_of(head).score(head, self._outputs)

    def order(self, by: str) -> npt.NDArray[np.int64]:
        """Rows in an order of ``KindPage.galleries``."""
        if by == "hits":
            return self.misses()[::-1]
        if by == "misses":
            return self.misses()
        return np.argsort(-self.score if by == "highest" else self.score, kind="stable")

    def misses(self) -> npt.NDArray[np.int64]:
        """Labelled rows, the farthest from their label first."""
        miss = numbers_of(self._head).misses(self._head, self._outputs, self._targets)
        order = np.argsort(-np.where(self._labelled, miss, -1), kind="stable")
        return order[self._labelled[order]]

    def examples(self, curves: Curves) -> list[Gallery]:
        """Galleries of the head's kind."""
        orders = page_of(self._head).examples(self._head, self._outputs, curves)
        return [self.gallery(title, order) for title, order in orders.items()]

    def gallery(
        self, title: str, order: npt.NDArray[Any], images: str = "thumbnail", note: str = ""
    ) -> Gallery:
        """The first rows of ``order``, with the pictures of column ``images``."""
        return Gallery(title, [self._picture(row, images) for row in order[:NUM_PICTURES].tolist()], note)

    def _picture(self, row: int, images: str) -> Picture:
        key = key_text(self._rows.column("illust_id")[row].as_py(), self._rows.column("page")[row].as_py())
        page = page_of(self._head)
        true = page.true(self._head, self._targets[row]) if self._labelled[row] else "true no label"
        said = page.said(self._head, self._outputs[row])
        return Picture(key, encoded(self._rows.column(images)[row].as_py()), [said, true])
