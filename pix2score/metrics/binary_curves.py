"""What a report draws of a yes-or-no head. Shapes: N images."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from pix2score.metrics.curves import ReliabilityStep, reliability
from pix2score.metrics.formulas import Flags, Floats

NUM_POINTS = 100
NUM_STEPS = 20


class PrecisionPoint(TypedDict):
    """Where so many of the images that are yes (``recall``) are found, the share of yes among those found."""

    recall: float
    precision: float


class BinaryCurves(TypedDict):
    """All curves of a head."""

    precision: list[PrecisionPoint]
    reliability: list[ReliabilityStep]
    histogram: dict[str, list[float]]
    """``yes`` and ``no``: share of those images in each twentieth of the probability."""


def binary_curves(prob_N: Floats, yes_N: Flags) -> BinaryCurves:
    """Curves of at least one image."""
    return {
        "precision": _precision(prob_N, yes_N),
        "reliability": reliability(prob_N, yes_N),
        "histogram": {name: _histogram(prob_N[side]) for name, side in (("yes", yes_N), ("no", ~yes_N))},
    }


def _precision(prob_N: Floats, yes_N: Flags) -> list[PrecisionPoint]:
    order = np.argsort(-prob_N, kind="stable")
    prob, found = prob_N[order], yes_N[order].cumsum()
    ends = np.append(np.flatnonzero(prob[1:] < prob[:-1]), len(prob) - 1)  # equal ones come in together
    if not found[-1]:
        return []
    wanted = np.linspace(0, found[-1], NUM_POINTS + 1)[1:]
    shown = np.unique(ends[np.searchsorted(found[ends], wanted - 1e-9)])
    return [{"recall": float(found[i] / found[-1]), "precision": float(found[i] / (i + 1))} for i in shown]


def _histogram(prob: Floats) -> list[float]:
    counts = np.histogram(prob, NUM_STEPS, (0, 1))[0]
    return [float(share) for share in counts / max(1, len(prob))]
