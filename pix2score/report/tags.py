"""A head of tags in the report of an evaluation: numbers, precision against recall, tags with pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import HeadSpec
from pix2score.heads.tags import TagsHead, named, probabilities
from pix2score.metrics.protocol import Curves
from pix2score.metrics.tag_accumulate import BANDS, MIN_TRUE, NUM_BEST
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report import charts
from pix2score.report.page import Chart, number
from pix2score.report.protocol import KindPage, Row

NUM_SAID, NUM_TRUE = 6, 12
NUM_TAGS_SHOWN = 3
"""Of the best tags, and of the worst, that get pictures."""


def _by_band(name: str, title: str) -> list[Row]:
    words = ("the most frequent third of them", "the middle third", "the rarest third")
    return [(name, title, ""), *((f"{name}_{b}", f"… {w}", "") for b, w in zip(BANDS, words, strict=True))]


class TagsPage(KindPage):
    """Numbers over all tags, and single tags with pictures."""

    rows: ClassVar[tuple[Row, ...]] = (
        ("micro_f1", "Micro-F1 where precision = recall", ""),
        *_by_band("map", f"Mean average precision (tags on ≥ {MIN_TRUE} images)"),
        *_by_band("macro_f1", "Macro-F1 at the tags' thresholds (the same tags)"),
        (f"precision_{NUM_BEST}", f"Right among the {NUM_BEST} surest tags", ""),
        ("nll", "NLL, summed over tags", "lower"),
        ("ece", "Calibration error (ECE) of tags said with ≥ 0.1", "lower"),
    )
    constant: ClassVar[str] = "each tag's share of the train split's images"

    def note(self, verdict: HeadVerdict) -> str:
        """How many tags are measured, and where they are said from."""
        notes = verdict.notes
        return (
            f"{notes['tags']} tags, {notes['tags_per_image']:.1f} an image; {notes['tags_measured']} of them "
            f"are on at least {MIN_TRUE} images. On the validation split precision is recall at a "
            f"probability of {number(notes['threshold'], 2)}; each tag has a threshold of its own around it."
        )

    def charts(self, head: HeadSpec, curves: Curves) -> list[Chart]:
        """Precision against recall, and the best and worst tags."""
        found = []
        if curves["precision_recall"]:
            caption = "All tags together: what share of the tags said is right, by what share is found."
            found.append(Chart(charts.precision_recall(curves["precision_recall"]), caption))
        told = [*curves["best"], *reversed(curves["worst"])]
        if told:
            names = [f"{tag['tag']} ({tag['images']})" for tag in told]
            drawn = charts.named_bars(names, [t["average_precision"] for t in told], "average precision")
            caption = f"Best and worst of the tags on at least {MIN_TRUE} images, and how many those are."
            found.append(Chart(drawn, caption))
        return found

    def examples(
        self, head: HeadSpec, outputs_NA: npt.NDArray[Any], curves: Curves
    ) -> Mapping[str, npt.NDArray[np.int64]]:
        """Pictures for which the best and the worst tags are most probable."""
        return {
            f"{word} tag {tag['tag']!r}: average precision {tag['average_precision']:.2f}": np.argsort(
                -outputs_NA[:, tag["id"]], kind="stable"
            )
            for word, key in (("Good", "best"), ("Bad", "worst"))
            for tag in curves[key][:NUM_TAGS_SHOWN]
        }

    def said(self, head: HeadSpec, outputs_A: Any) -> str:
        """The surest tags."""
        best = np.argsort(-outputs_A, kind="stable")[:NUM_SAID]
        return f"said {named([_tags(head).names[i] for i in best], probabilities(outputs_A[best]), NUM_SAID)}"

    def true(self, head: HeadSpec, target: Any) -> str:
        """Its tags, the most frequent last."""
        found = [_tags(head).names[i] for i in np.flatnonzero(target == 1)[::-1]]
        more = [f"{len(found) - NUM_TRUE} more"] if len(found) > NUM_TRUE else []
        return f"true {', '.join([*found[:NUM_TRUE], *more]) or 'none of the tags'}"


def _tags(head: HeadSpec) -> TagsHead:
    assert isinstance(head, TagsHead)
    return head
