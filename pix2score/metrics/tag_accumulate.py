"""Numbers of a head of tags over any number of images in bounded memory: histograms of each tag's logits.

Shapes: B images, V tags, S steps of ``tag_histograms``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import Calibration, present
from pix2score.heads.tags import TagsHead
from pix2score.metrics.formulas import Floats, Numbers
from pix2score.metrics.tag_histograms import (
    CENTRES,
    NUM_STEPS,
    average_precision,
    best_f1,
    break_even,
    cross_entropy,
    f1_above,
    fit_calibration,
    pair_error,
    steps_of,
)

MIN_TRUE = 10
"""Images that a tag must truly be on to have an average precision or F1 of its own."""
ENOUGH_TRUE = 20
"""Validation images from which on a tag's best threshold is its own; of fewer, that of all tags weighs in."""
NUM_BEST = 5
BANDS = ("head", "middle", "tail")
"""Thirds of the tags that are measured, by train images."""


@dataclass
class TagHistograms:
    """Pairs of image and tag by step of the logit, [V, S] int32: 8 MB at 5,000 tags."""

    true: npt.NDArray[np.int32]
    all: npt.NDArray[np.int32]

    @classmethod
    def zeros(cls, num_tags: int) -> TagHistograms:
        """Of no image."""
        return cls(*(np.zeros((num_tags, NUM_STEPS), dtype=np.int32) for _ in range(2)))

    def add(self, step_BV: npt.NDArray[np.uint8], target_BV: npt.NDArray[Any]) -> None:
        """Count labelled images."""
        num_tags = step_BV.shape[1]
        place = step_BV + NUM_STEPS * np.arange(num_tags)
        self.all += _counted(place.ravel(), num_tags)
        self.true += _counted(place[target_BV == 1], num_tags)

    def merge(self, other: TagHistograms) -> TagHistograms:
        """Of both sets of images."""
        return TagHistograms(self.true + other.true, self.all + other.all)

    @property
    def num_true(self) -> npt.NDArray[np.int64]:
        """Images that each tag is truly on, [V]."""
        return np.asarray(self.true.sum(axis=1, dtype=np.int64))


@dataclass
class TagAccumulator:
    """Sums over the labelled images of one head; ``merge`` is associative and commutative."""

    head: TagsHead
    applied: Calibration = field(default_factory=dict)
    """What ``result`` answers with."""
    tags: TagHistograms = field(init=False)
    num_labelled: int = 0
    nll_sum: float = 0.0
    """Without any calibration."""
    num_hits: int = 0
    """Right ones among the ``NUM_BEST`` most probable tags of each image."""

    def __post_init__(self) -> None:
        self.tags = TagHistograms.zeros(self.head.num_outputs)

    def add(
        self, outputs_BA: npt.NDArray[Any], target_B: npt.NDArray[Any], label_B: npt.NDArray[Any]
    ) -> None:
        """Add one batch: raw logits [B, V], targets [B, V] and numbers of tags, missing ones included."""
        labelled = present(target_B)
        logits, target = outputs_BA[labelled], target_B[labelled]
        if len(logits):
            self.num_labelled += len(logits)
            self.tags.add(steps_of(logits), target)
            self.nll_sum += float(nll_by_image(logits, target).sum())
            self.num_hits += int(hits_by_image(logits, target).sum())

    def merge(self, other: TagAccumulator) -> TagAccumulator:
        """The accumulator of both sets of images."""
        merged = copy.copy(self)
        merged.tags = self.tags.merge(other.tags)
        for name in ("num_labelled", "nll_sum", "num_hits"):
            setattr(merged, name, getattr(self, name) + getattr(other, name))
        return merged

    @property
    def _pooled(self) -> tuple[Floats, Floats]:
        """Histograms of all tags together, [S] each."""
        return self.tags.true.sum(0, dtype=np.float64), self.tags.all.sum(0, dtype=np.float64)

    def calibration(self) -> dict[str, Any]:
        """``slope`` and ``offset`` of the logits, ``threshold`` at precision = recall, ``thresholds`` by tag.

        Both thresholds are calibrated probabilities.
        """
        slope, offset = fit_calibration(*self._pooled)
        _, of_all = break_even(*self._pooled)
        own = best_f1(self.tags.true, self.tags.all)
        sure = np.minimum(self.tags.num_true / ENOUGH_TRUE, 1)
        logits = np.append(sure * own + (1 - sure) * of_all, of_all)
        found = 1 / (1 + np.exp(-np.clip(slope * logits + offset, -30, 30)))
        if not self.num_labelled:
            found[:] = 0.5
        thresholds = [float(f"{p:.4g}") for p in found]
        return {
            "slope": slope,
            "offset": offset,
            "threshold": thresholds[-1],
            "thresholds": thresholds[:-1],
        }

    def calibrated(self) -> TagAccumulator:
        """The same sums as the saved model answers."""
        found = copy.copy(self)
        found.applied = self.calibration() if self.num_labelled else {}
        return found

    def relative_loss(self) -> float:
        """Cross-entropy at the fitted calibration over that of the train split's prevalences."""
        fitted = cross_entropy(*fit_calibration(*self._pooled), *self._pooled)
        return fitted / self.num_labelled / self.head.entropy

    def ece(self, calibration: Calibration) -> float | None:
        """Calibration error of the pairs of at least ``tag_histograms.LEAST_SURE``."""
        true, num = self._pooled
        logits = calibration.get("slope", 1.0) * CENTRES + calibration.get("offset", 0.0)
        return pair_error(1 / (1 + np.exp(-logits)), num, true)

    def result(self) -> Numbers:
        """Every number that histograms give, beside ``prior_nll``; F1 by tag only with known thresholds."""
        if not self.num_labelled:
            return {"num_labelled": 0}
        slope, offset = (float(self.applied.get(name, d)) for name, d in (("slope", 1.0), ("offset", 0.0)))
        nll = cross_entropy(slope, offset, *self._pooled) if self.applied else self.nll_sum
        enough = self.tags.num_true >= MIN_TRUE
        true, num = self.tags.true[enough], self.tags.all[enough]
        found: Numbers = {
            "num_labelled": self.num_labelled,
            "micro_f1": break_even(*self._pooled)[0],
            **by_band("map", self.head, enough, average_precision(true, num)),
            f"precision_{NUM_BEST}": self.num_hits / self.num_labelled / num_best(self.head),
            "nll": nll / self.num_labelled,
            "ece": self.ece(self.applied),
            "prior_nll": prior_nll(self.head, self.tags.num_true, self.num_labelled),
        }
        if "thresholds" in self.applied:
            share = np.asarray(self.applied["thresholds"])[enough]
            logits = (np.log(share) - np.log1p(-share) - offset) / slope
            found |= by_band("macro_f1", self.head, enough, f1_above(true, num, logits))
        return found

    def picture(self) -> npt.NDArray[np.uint8] | None:
        """None."""
        return None


def _counted(place: npt.NDArray[np.int64], num_tags: int) -> npt.NDArray[np.int32]:
    found = np.bincount(place, minlength=num_tags * NUM_STEPS)
    return np.asarray(found.reshape(num_tags, NUM_STEPS), dtype=np.int32)


def num_best(head: TagsHead) -> int:
    """``NUM_BEST``, or all tags if they are fewer."""
    return min(NUM_BEST, head.num_outputs)


def bands(head: TagsHead, measured_T: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number in ``BANDS`` of each of the tags measured, [T]."""
    order = np.argsort(-np.asarray(head.counts)[measured_T], kind="stable")
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order)) * len(BANDS) // max(1, len(order))
    return found


def by_band(name: str, head: TagsHead, chosen_V: npt.NDArray[np.bool_], value_T: Floats) -> Numbers:
    """Mean of a number of the T chosen tags, and by band; None of none."""
    band = bands(head, np.flatnonzero(chosen_V))
    of = {name: value_T, **{f"{name}_{word}": value_T[band == i] for i, word in enumerate(BANDS)}}
    return {key: float(part.mean()) if len(part) else None for key, part in of.items()}


def nll_by_image(logits_BV: npt.NDArray[Any], target_BV: npt.NDArray[Any]) -> Floats:
    """Cross-entropy summed over tags, [B], nats."""
    wide = logits_BV.astype(np.float64)
    return np.asarray(np.logaddexp(0, wide).sum(1) - np.where(target_BV == 1, wide, 0.0).sum(1))


def hits_by_image(score_BV: npt.NDArray[Any], target_BV: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Right ones among the ``NUM_BEST`` tags of the highest score, [B]."""
    num = min(NUM_BEST, score_BV.shape[1])
    best = np.argpartition(-score_BV, num - 1, axis=1)[:, :num]
    return np.asarray((np.take_along_axis(target_BV, best, 1) == 1).sum(1))


def prior_nll(head: TagsHead, num_true_V: npt.NDArray[Any], num_images: int) -> float:
    """Cross-entropy of the train split's prevalences per image, nats."""
    share = head.prevalences
    absent = num_images - num_true_V
    return float(-(num_true_V * np.log(share) + absent * np.log1p(-share)).sum() / num_images)
