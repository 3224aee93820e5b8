"""What a report draws of an ordered head: calibration, confusion, score against label, changes.

Shapes: N images, K bins.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from pix2score.heads.ordered import OrderedHead
from pix2score.heads.spec import Calibration
from pix2score.metrics.formulas import Flags, Floats, calibration_error
from pix2score.metrics.measures import OrderedAnswers, softened
from pix2score.metrics.protocol import Answers, Change

NUM_CURVE_POINTS = 10
NUM_SCATTER = 400
NUM_CONFIDENCE_STEPS = 15  # as in Guo et al. 2017


class ReliabilityStep(TypedDict):
    """Images whose predicted bin has about this probability, and the share of them that is right."""

    images: float
    confidence: float
    correct: float


class Reliability(TypedDict):
    """Steps of confidence that occur, before the temperature and after."""

    before: list[ReliabilityStep]
    after: list[ReliabilityStep]


class CurvePoint(TypedDict):
    """A tenth of the images by score: mean ``score``, and quartiles of their raw labels."""

    score: float
    low: float
    median: float
    high: float


class ScatterPoint(TypedDict):
    """One image."""

    score: float
    label: float


class OrderedCurves(TypedDict):
    """All curves of a head."""

    reliability: Reliability
    confusion: list[list[float | None]]
    """[K][K]: of the images truly in the row's bin, the share predicted in the column's; None in a row
    without images."""
    curve: list[CurvePoint]
    scatter: list[ScatterPoint]


def curves(answers: OrderedAnswers, temperature: float) -> OrderedCurves:
    """Curves of a head that has labels."""
    correct = answers.log_probs.argmax(axis=1) == answers.truth
    before = np.exp(softened(answers.log_probs, temperature)).max(axis=1)
    after = answers.probs.max(axis=1)
    return {
        "reliability": {"before": reliability(before, correct), "after": reliability(after, correct)},
        "confusion": confusion_shares(answers),
        "curve": _curve(answers),
        "scatter": _scatter(answers),
    }


def temperature_notes(answers: Answers, calibration: Calibration) -> dict[str, Any]:
    """``temperature``; ``ece_before_temperature``, the calibration error of log-probabilities without it."""
    temperature = float(calibration.get("temperature", 1.0))
    sure_before = np.exp(softened(answers.outputs, temperature)).max(axis=1)
    correct = answers.outputs.argmax(axis=1) == answers.truth
    before = calibration_error(sure_before, correct, np.ones(len(correct)))
    return {"temperature": temperature, "ece_before_temperature": before}


def reliability(confidence: Floats, correct: Flags) -> list[ReliabilityStep]:
    """Per step of confidence that occurs: ``images``, mean ``confidence``, share ``correct``."""
    step = np.minimum((confidence * NUM_CONFIDENCE_STEPS).astype(np.int64), NUM_CONFIDENCE_STEPS - 1)
    ones = np.ones(len(step))
    images, hits, sure = (np.bincount(step, x, NUM_CONFIDENCE_STEPS) for x in (ones, correct, confidence))
    return [
        {"images": float(n), "confidence": float(s / n), "correct": float(h / n)}
        for n, h, s in zip(images, hits, sure, strict=True)
        if n
    ]


def confusion_shares(answers: OrderedAnswers) -> list[list[float | None]]:
    """``OrderedCurves.confusion``."""
    k = answers.head.num_bins
    counts = np.bincount(answers.truth * k + answers.probs.argmax(axis=1), minlength=k * k).reshape(k, k)
    return [[float(n / row.sum()) for n in row] if row.sum() else [None] * k for row in counts]


def _curve(answers: OrderedAnswers) -> list[CurvePoint]:
    num_parts = min(NUM_CURVE_POINTS, len(answers.truth))
    parts = np.array_split(np.argsort(answers.score, kind="stable"), num_parts)
    found: list[CurvePoint] = []
    for part in parts:
        low, median, high = (float(q) for q in np.quantile(answers.label[part], (0.25, 0.5, 0.75)))
        found.append({"score": float(answers.score[part].mean()), "low": low, "median": median, "high": high})
    return found


def _scatter(answers: OrderedAnswers) -> list[ScatterPoint]:
    num = len(answers.truth)
    shown = np.linspace(0, num - 1, min(NUM_SCATTER, num)).astype(np.int64)
    return [
        {"score": float(s), "label": float(v)}
        for s, v in zip(answers.score[shown], answers.label[shown], strict=True)
    ]


def change(head: OrderedHead, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:
    """How far probabilities ``after`` [N, K] lie from those ``before`` of the same images."""
    return {
        "images": len(before),
        "mean_prob_change": float(np.abs(after - before).mean()),
        "mean_score_change": float(np.abs((after - before) @ head.ranks).mean()),
        "same_bin": float((after.argmax(axis=1) == before.argmax(axis=1)).mean()),
    }
