"""How near answers that are numbers come to labels, in the label's own unit. Shapes: N images."""

from __future__ import annotations

import numpy as np

from pix2score.metrics.formulas import Floats, Measure, Numbers, pearson, weighted_mean


def number_measures(said_N: Floats, label_N: Floats) -> dict[str, Measure]:
    """``pearson``, ``mse``, ``rmse`` and ``mae`` of answers, as functions of image weights."""
    mse = weighted_mean((said_N - label_N) ** 2)

    def rmse(w: Floats) -> float | None:
        found = mse(w)
        return None if found is None else float(np.sqrt(found))

    return {
        "pearson": pearson(said_N, label_N),
        "mse": mse,
        "rmse": rmse,
        "mae": weighted_mean(np.abs(said_N - label_N)),
    }


def constant_errors(mean: float, median: float, label_N: Floats) -> Numbers:
    """Of at least one image: squared errors of answering a mean, absolute ones of answering a median."""
    mse = float(((label_N - mean) ** 2).mean())
    return {"mse": mse, "rmse": float(np.sqrt(mse)), "mae": float(np.abs(label_N - median).mean())}
