"""Formulas on histograms of logits: how many pairs of image and tag lie in each step, and how many are true.

Steps are even in log-odds: the probabilities of rare tags are all near 0, and still have an order.

Shapes: V tags, S steps, ascending; ``true`` and ``all`` are [S] or [V, S], counts or weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.metrics.formulas import Floats

NUM_STEPS = 200
LOW, WIDTH = -15.0, 0.125
"""Logits from -15 to 10 (probabilities from 3e-7): what lies beyond is in the first and the last step."""
EDGES = LOW + WIDTH * np.arange(NUM_STEPS + 1)
CENTRES = EDGES[:-1] + WIDTH / 2
LEAST_SURE = 0.1
"""Probability from which on pairs count in the calibration error: nearly all others are trivially right."""
_GUESS_SCALE = 200.0
"""Guesses of a regression below 1/200 lie in even steps, larger ones in steps even in their logarithm."""


def steps_of(logits: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The step of each logit."""
    return np.asarray(np.clip((logits - LOW) / WIDTH, 0, NUM_STEPS - 1), dtype=np.uint8)


def steps_of_guesses(guess: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Steps in the order of guesses of about 0 to 1, finer the nearer to 0."""
    half = NUM_STEPS // 2
    step = half + 16 * np.arcsinh(guess * _GUESS_SCALE)
    return np.asarray(np.clip(step, 0, NUM_STEPS - 1), dtype=np.uint8)


def from_above(counts: npt.NDArray[Any]) -> Floats:
    """How many lie in each step or above, ascending as the steps."""
    return np.asarray(np.flip(np.flip(counts, -1).cumsum(-1, dtype=np.float64), -1))


def break_even(true_S: npt.NDArray[Any], all_S: npt.NDArray[Any]) -> tuple[float | None, float]:
    """F1 where as many tags are said as are true, so that it is precision and recall at once.

    And the logit from which on tags are then said. None, and 0, without a true one.
    """
    num_true = float(true_S.sum())
    if not num_true:
        return None, 0.0
    said, hits = (np.concatenate([[0.0], from_above(counts)[::-1]]) for counts in (all_S, true_S))
    logit = float(np.interp(num_true, said, EDGES[::-1]))
    return float(np.interp(num_true, said, hits) / num_true), logit


def average_precision(true_VS: npt.NDArray[Any], all_VS: npt.NDArray[Any]) -> Floats:
    """Mean over the true images of a tag of the precision at their step, [V]; of tags with a true image."""
    hits, said = from_above(true_VS), from_above(all_VS)
    precision = hits / np.maximum(said, 1e-12)
    return np.asarray((true_VS * precision).sum(-1) / true_VS.sum(-1))


def slopes_of_average_precision(true_VS: npt.NDArray[Any], all_VS: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """How average precision changes per image more in a step, [V, S]: a true one (surplus), any one.

    A true image counts in both.
    """
    hits, said = from_above(true_VS), np.maximum(from_above(all_VS), 1e-12)
    num_true = true_VS.sum(-1, keepdims=True)
    found = average_precision(true_VS, all_VS)[:, None]
    of_true = (hits / said + (true_VS / said).cumsum(-1) - found) / num_true
    of_any = -(true_VS * hits / said**2).cumsum(-1) / num_true
    return of_true, of_any


def best_f1(true_VS: npt.NDArray[Any], all_VS: npt.NDArray[Any]) -> Floats:
    """Logit of each tag from which on saying it gives the best F1, [V]; the highest of equal ones."""
    hits, said = from_above(true_VS), from_above(all_VS)
    f1 = 2 * hits / np.maximum(said + true_VS.sum(-1, keepdims=True), 1e-12)
    best = NUM_STEPS - 1 - np.flip(f1, -1).argmax(-1)
    return np.asarray(EDGES[best])


def f1_above(true_VS: npt.NDArray[Any], all_VS: npt.NDArray[Any], logit_V: Floats) -> Floats:
    """F1 of each tag said from a logit on, [V], to the nearest step; of tags with a true image."""
    first = np.clip(np.rint((logit_V - LOW) / WIDTH), 0, NUM_STEPS).astype(np.int64)[:, None]
    hits, said = (
        np.take_along_axis(np.pad(from_above(counts), ((0, 0), (0, 1))), first, 1)[:, 0]
        for counts in (true_VS, all_VS)
    )
    return np.asarray(2 * hits / (said + true_VS.sum(-1)))


def pair_error(prob: Floats, num: Floats, num_true: Floats) -> float | None:
    """ECE of pairs whose probability is at least ``LEAST_SURE``: steps of a tenth, weighed by their pairs.

    ``num`` pairs have about probability ``prob``, and ``num_true`` of them are true. None without one.
    """
    sure = prob >= LEAST_SURE
    total = float(num[sure].sum())
    if not total:
        return None
    tenth = np.minimum((prob[sure] * 10).astype(np.int64), 9)
    surplus = np.bincount(tenth, prob[sure] * num[sure] - num_true[sure], 10)
    return float(np.abs(surplus).sum() / total)


def cross_entropy(slope: float, offset: float, true_S: Floats, all_S: Floats) -> float:
    """Nats of all pairs, each at the centre of its step."""
    logits = slope * CENTRES + offset
    return float((all_S * np.logaddexp(0, logits) - true_S * logits).sum())


def fit_calibration(true_S: Floats, all_S: Floats) -> tuple[float, float]:
    """Slope (0.05 to 20) and offset of least cross-entropy; 1 and 0 where all pairs are equal."""
    if not 0 < true_S.sum() < all_S.sum():
        return 1.0, 0.0
    rows = np.stack([CENTRES, np.ones(NUM_STEPS)])
    found, cost = np.array([1.0, 0.0]), cross_entropy(1.0, 0.0, true_S, all_S)
    for _ in range(50):
        prob = 1 / (1 + np.exp(-found @ rows))
        gradient = rows @ (all_S * prob - true_S)
        curvature = (rows * (all_S * prob * (1 - prob))) @ rows.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        for size in 0.5 ** np.arange(12):  # Newton's steps may be too long far from the minimum
            tried = found - size * step
            tried[0] = np.clip(tried[0], 0.05, 20.0)
            cost_there = cross_entropy(tried[0], tried[1], true_S, all_S)
            if cost_there <= cost:
                break
        else:
            break
        moved, found, cost = np.abs(tried - found).max(), tried, cost_there
        if moved < 1e-6:
            break
    return float(found[0]), float(found[1])
