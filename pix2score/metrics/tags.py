"""The numbers of heads of tags. Shapes: N images, V tags, S steps of ``tag_histograms``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.heads.tags import TagsHead, probabilities
from pix2score.metrics.formulas import Floats, Measure, Numbers, weighted_mean
from pix2score.metrics.protocol import Accumulator, Answers, Change, Curves, KindNumbers
from pix2score.metrics.tag_accumulate import (
    BANDS,
    MIN_TRUE,
    NUM_BEST,
    TagAccumulator,
    TagHistograms,
    bands,
    by_band,
    hits_by_image,
    nll_by_image,
    num_best,
    prior_nll,
)
from pix2score.metrics.tag_histograms import (
    LEAST_SURE,
    average_precision,
    from_above,
    pair_error,
    steps_of,
    steps_of_guesses,
)
from pix2score.metrics.tag_measures import f1_measures, map_measures, pooled_measures

NUM_TOLD = 6
"""Tags that a report names as the best, and as the worst."""
NUM_CURVE = 40
CHUNK_PAIRS = 4_000_000
"""Pairs of image and tag worked on at a time: some 100 MB of float64 and what is derived of it."""


class TagNumbers(KindNumbers):
    """F1 at precision = recall over all pairs; average precision and F1 by tag; calibration of sure pairs."""

    loss: ClassVar[str] = "nll"
    lower_is_better: ClassVar[tuple[str, ...]] = ("nll", "ece")
    higher_is_better: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "map", f"precision_{NUM_BEST}")
    summary: ClassVar[tuple[str, ...]] = ("map", f"precision_{NUM_BEST}", "nll", "ece")

    def main(self, head: HeadSpec) -> str:
        """``micro_f1``."""
        return "micro_f1"

    def accumulator(self, head: HeadSpec) -> Accumulator:
        """An empty one."""
        return TagAccumulator(_tags(head))

    def measures(self, answers: Answers) -> dict[str, Measure]:
        """Of calibrated logits; F1 by tag at the thresholds of the calibration."""
        head, truth = _tags(answers.head), answers.truth
        nll, hits = (
            np.concatenate([of(answers.outputs[part], truth[part]) for part in _chunks(truth)])
            for of in (nll_by_image, hits_by_image)
        )
        return {
            **_ranking(head, answers.outputs, truth, steps_of),
            f"precision_{NUM_BEST}": weighted_mean(hits / num_best(head)),
            "nll": weighted_mean(nll),
            **f1_measures(head, answers.outputs, truth, answers.calibration),
        }

    def guess_measures(self, answers: Answers, guess: Floats) -> dict[str, Measure]:
        """Of guesses [N, V] that have an order, and are no probabilities."""
        head = _tags(answers.head)
        found = _ranking(head, guess, answers.truth, steps_of_guesses)
        hits = hits_by_image(guess, answers.truth) / num_best(head)
        del found["ece"]
        return {**found, f"precision_{NUM_BEST}": weighted_mean(hits)}

    def constant(self, answers: Answers) -> Numbers:
        """Of the train split's prevalences."""
        head, num = _tags(answers.head), len(answers.truth)
        num_true, share = (answers.truth == 1).sum(0), head.prevalences
        ranked = num_true[np.argsort(-share, kind="stable")]
        total, enough = int(num_true.sum()), num_true >= MIN_TRUE
        said = np.concatenate([[0], num * np.arange(1, len(ranked) + 1)])
        hits = np.concatenate([[0], ranked.cumsum()])
        return {
            "micro_f1": float(np.interp(total, said, hits) / total) if total else None,
            **by_band("map", head, enough, num_true[enough] / num),
            f"precision_{NUM_BEST}": float(ranked[: num_best(head)].sum() / num / num_best(head)),
            "nll": prior_nll(head, num_true, num),
            "ece": pair_error(share, np.full(len(share), float(num)), num_true.astype(np.float64)),
        }

    def notes(self, answers: Answers, calibration: Calibration) -> dict[str, Any]:
        """What the calibration does, without the tags' own thresholds, and what the numbers are of."""
        num_true = (answers.truth == 1).sum(0)
        return {
            **{name: calibration.get(name) for name in ("slope", "offset", "threshold")},
            "tags": len(num_true),
            "tags_measured": int((num_true >= MIN_TRUE).sum()),
            "tags_per_image": float(num_true.sum() / len(answers.truth)),
        }

    def curves(self, answers: Answers, calibration: Calibration) -> Curves:
        """``precision_recall`` of all pairs, and ``best`` and ``worst`` tags."""
        head = _tags(answers.head)
        tags = TagHistograms.zeros(head.num_outputs)
        for part in _chunks(answers.truth):
            tags.add(steps_of(answers.outputs[part]), answers.truth[part])
        chosen = np.flatnonzero(tags.num_true >= MIN_TRUE)
        found, band = average_precision(tags.true[chosen], tags.all[chosen]), bands(head, chosen)
        told: list[dict[str, Any]] = [
            {
                "tag": head.names[i],
                "id": int(i),
                "average_precision": float(value),
                "images": int(tags.num_true[i]),
                "band": BANDS[b],
            }
            for i, value, b in zip(chosen, found, band, strict=True)
        ]
        told.sort(key=lambda tag: tag["average_precision"], reverse=True)
        num = min(NUM_TOLD, len(told) // 2)
        return {
            "precision_recall": _precision_recall(tags),
            "best": told[:num],
            "worst": told[::-1][:num],
        }

    def score(self, head: HeadSpec, outputs: npt.NDArray[Any]) -> Floats:
        """How many tags are to be expected."""
        return np.asarray(probabilities(outputs).sum(1), dtype=np.float64)

    def misses(self, head: HeadSpec, outputs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Floats:
        """Cross-entropy."""
        return nll_by_image(outputs, truth)

    def change(self, head: HeadSpec, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:
        """In probabilities of pairs that were or are likely, in how many tags are expected, in the surest."""
        a, b = probabilities(before), probabilities(after)
        likely = np.maximum(a, b) >= LEAST_SURE
        return {
            "images": len(before),
            "mean_prob_change": float(np.abs(b - a)[likely].mean()) if likely.any() else 0.0,
            "mean_score_change": float(np.abs(b.sum(1) - a.sum(1)).mean()),
            "same_bin": float((before.argmax(1) == after.argmax(1)).mean()),
        }

    def ridge_target(self, head: HeadSpec, target: npt.NDArray[Any]) -> Floats | None:
        """1 with the tag, 0 without, [N, V]."""
        return target.astype(np.float64)


def _ranking(
    head: TagsHead,
    outputs: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    to_steps: Callable[[npt.NDArray[Any]], npt.NDArray[np.uint8]],
) -> dict[str, Measure]:
    """The numbers that steps give."""
    steps = np.concatenate([to_steps(outputs[part]) for part in _chunks(truth)] or [np.zeros_like(truth)])
    return {
        **pooled_measures(steps, truth, _chunks(truth)),
        **map_measures(head, steps, truth, _chunks(truth)),
    }


def _chunks(truth_NV: npt.NDArray[Any]) -> list[slice]:
    rows = max(1, CHUNK_PAIRS // truth_NV.shape[1])
    return [slice(i, i + rows) for i in range(0, len(truth_NV), rows)]


def _precision_recall(tags: TagHistograms) -> list[dict[str, float]]:
    """About ``NUM_CURVE`` points, the surest first."""
    true, num = tags.true.sum(0, dtype=np.float64), tags.all.sum(0, dtype=np.float64)
    hits, said = from_above(true)[::-1], from_above(num)[::-1]
    if not true.sum():
        return []
    recall, precision = hits / hits[-1], hits / np.maximum(said, 1)
    at = np.unique(np.searchsorted(recall, np.linspace(1 / NUM_CURVE, 1, NUM_CURVE)).clip(0, len(recall) - 1))
    return [{"recall": float(recall[i]), "precision": float(precision[i])} for i in at]


def _tags(head: HeadSpec) -> TagsHead:
    assert isinstance(head, TagsHead)
    return head
