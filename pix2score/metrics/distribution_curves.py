"""What a report draws of a ``distribution`` head. Shapes: N images, K classes."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from pix2score.metrics.curves import NUM_CURVE_POINTS, NUM_SCATTER, CurvePoint, ScatterPoint
from pix2score.metrics.distribution_measures import DistributionAnswers
from pix2score.metrics.formulas import Floats


class DistributionCurves(TypedDict):
    """All curves of a head; ``score`` of a point is the answer, ``label`` or its quartiles what was true."""

    mean_curve: list[CurvePoint]
    mean_scatter: list[ScatterPoint]
    std_curve: list[CurvePoint]
    std_scatter: list[ScatterPoint]
    said_shares: list[float]
    """Mean of the answers, [K]."""
    true_shares: list[float]
    """Mean of the votes' shares, [K]."""


def distribution_curves(answers: DistributionAnswers) -> DistributionCurves:
    """Curves of a head that has labels."""
    said, said_std = answers.head.moments(answers.probs)
    true, true_std = answers.head.moments(answers.shares)
    return {
        "mean_curve": tenths(said, true),
        "mean_scatter": scatter(said, true),
        "std_curve": tenths(said_std, true_std),
        "std_scatter": scatter(said_std, true_std),
        "said_shares": answers.probs.mean(axis=0).tolist(),
        "true_shares": answers.shares.mean(axis=0).tolist(),
    }


def tenths(said_N: Floats, true_N: Floats) -> list[CurvePoint]:
    """Tenths of the images by what was said: its mean, and quartiles of what was true."""
    parts = np.array_split(np.argsort(said_N, kind="stable"), min(NUM_CURVE_POINTS, len(said_N)))
    found: list[CurvePoint] = []
    for part in parts:
        low, median, high = (float(q) for q in np.quantile(true_N[part], (0.25, 0.5, 0.75)))
        found.append({"score": float(said_N[part].mean()), "low": low, "median": median, "high": high})
    return found


def scatter(said_N: Floats, true_N: Floats) -> list[ScatterPoint]:
    """At most ``NUM_SCATTER`` of the images."""
    shown = np.linspace(0, len(said_N) - 1, min(NUM_SCATTER, len(said_N))).astype(np.int64)
    return [{"score": float(said_N[i]), "label": float(true_N[i])} for i in shown]
