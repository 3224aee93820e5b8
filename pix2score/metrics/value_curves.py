"""What a report draws of a head that answers with a number. Shapes: N images."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from pix2score.metrics.formulas import Floats

NUM_PARTS = 10
NUM_SCATTER = 400
NUM_STEPS = 25


class LabelsOfPart(TypedDict):
    """A tenth of the images by what was predicted: its mean, and quartiles of their labels."""

    predicted: float
    low: float
    median: float
    high: float


class Pair(TypedDict):
    """One image."""

    predicted: float
    label: float


class ResidualStep(TypedDict):
    """Images whose label lies so far above (or below) what was predicted: middle of the step, and share."""

    residual: float
    share: float


class ValueCurves(TypedDict):
    """All curves of a head."""

    curve: list[LabelsOfPart]
    scatter: list[Pair]
    residuals: list[ResidualStep]


def value_curves(said_N: Floats, label_N: Floats) -> ValueCurves:
    """Curves of at least one image."""
    return {
        "curve": _curve(said_N, label_N),
        "scatter": _scatter(said_N, label_N),
        "residuals": _residuals(label_N - said_N),
    }


def _curve(said: Floats, label: Floats) -> list[LabelsOfPart]:
    found: list[LabelsOfPart] = []
    for part in np.array_split(np.argsort(said, kind="stable"), min(NUM_PARTS, len(said))):
        low, median, high = (float(q) for q in np.quantile(label[part], (0.25, 0.5, 0.75)))
        found.append({"predicted": float(said[part].mean()), "low": low, "median": median, "high": high})
    return found


def _scatter(said: Floats, label: Floats) -> list[Pair]:
    shown = np.linspace(0, len(said) - 1, min(NUM_SCATTER, len(said))).astype(np.int64)
    return [{"predicted": float(said[i]), "label": float(label[i])} for i in shown]


def _residuals(residual: Floats) -> list[ResidualStep]:
    counts, ends = np.histogram(residual, NUM_STEPS)
    middles = (ends[1:] + ends[:-1]) / 2
    return [
        {"residual": float(m), "share": float(n / len(residual))}
        for m, n in zip(middles, counts, strict=True)
    ]
