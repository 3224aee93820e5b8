"""What turns log odds into probabilities that hold: a slope and an offset (Platt 1999), and a threshold.

Shapes: N images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pix2score.heads.binary import probability
from pix2score.metrics.formulas import Flags, Floats

MIN_SLOPE, MAX_SLOPE = 0.01, 20.0
"""Odds never turn round: a model that ranks worse than chance gets nearly the same probability everywhere."""
MAX_LEVEL = 15.0
NUM_ENOUGH = 10
"""Images of either answer from which on a threshold is chosen by them."""
_MAX_STEPS = 50
NUM_AGREEING = 5
"""Images of one artist or series agree, so that so many tell of the level of all no more than one would."""


def fit_line(logit_N: Floats, yes_N: Flags, centre: float, start: float) -> tuple[float, float]:
    """Slope and offset for which ``slope * logit + offset`` are the likeliest log odds.

    As likely as they are under normal priors of width 1: of the slope around 1, and of the log odds at
    ``centre``, the constant answer, around ``start``, those of the train split. That weighs as much as a
    handful of images; so 5 images move nothing far, and none give the odds of the train split. A level that
    chance explains is drawn to ``start``, as ``trusted`` says.
    """
    x = np.stack([logit_N - centre, np.ones(len(logit_N))], axis=1)
    prior = np.array([1.0, start])
    found = _newton(x, yes_N, prior, free=np.array([True, True]))
    if not MIN_SLOPE <= found[0] <= MAX_SLOPE:
        bound = np.array([np.clip(found[0], MIN_SLOPE, MAX_SLOPE), start])
        found = _newton(x, yes_N, bound, free=np.array([False, True]))
    spread = probability(x @ found)
    level = start + trusted(found[1] - start, 1 / (1 + (spread * (1 - spread)).sum()))
    if found[0] < MAX_SLOPE:
        found = _newton(x, yes_N, np.array([prior[0], level]), free=np.array([True, False]))
    slope = float(np.clip(found[0], MIN_SLOPE, MAX_SLOPE))
    return slope, float(np.clip(level, -MAX_LEVEL, MAX_LEVEL)) - slope * centre


def trusted(shift: float, variance: float) -> float:
    """The part of a shift that chance does not explain, by James and Stein's rule.

    ``variance`` is that of images which are independent; ``NUM_AGREEING`` are taken for one.
    """
    return float(shift * max(0.0, 1 - NUM_AGREEING * variance / max(shift**2, 1e-300)))


def _newton(x_N2: Floats, yes_N: Flags, prior: Floats, free: npt.NDArray[np.bool_]) -> Floats:
    """The most likely of both numbers, those not ``free`` as they are: Newton's steps, halved where they
    overshoot."""
    at = prior.copy()
    for _ in range(_MAX_STEPS):
        prob = probability(x_N2 @ at)
        slope = (x_N2 * (prob - yes_N)[:, None]).sum(0) + (at - prior)
        bend = (x_N2 * (prob * (1 - prob))[:, None]).T @ x_N2 + np.eye(2)
        step = np.zeros(2)
        step[free] = np.linalg.solve(bend[np.ix_(free, free)], slope[free])
        cost = _cost(x_N2, yes_N, at, prior)
        while _cost(x_N2, yes_N, at - step, prior) > cost and np.abs(step).max() > 1e-9:
            step /= 2
        at = at - step
        if np.abs(step).max() < 1e-8:
            break
    return at


def _cost(x_N2: Floats, yes_N: Flags, at: Floats, prior: Floats) -> float:
    logit = x_N2 @ at
    return float(np.logaddexp(0, np.where(yes_N, -logit, logit)).sum() + ((at - prior) ** 2).sum() / 2)


def best_threshold(prob_N: Floats, yes_N: Flags, prior: float) -> float:
    """The probability from which on yes is said for the best mean of both recalls; both answers must occur.

    Between two images; of equally good places the one nearest to ``prior``, where it lies for probabilities
    that hold.
    """
    order = np.argsort(prob_N, kind="stable")
    prob, yes = prob_N[order], yes_N[order]
    recall_no = np.concatenate([[0], (~yes).cumsum()]) / (~yes).sum()
    recall_yes = 1 - np.concatenate([[0], yes.cumsum()]) / yes.sum()
    border = np.concatenate([[0.0], (prob[1:] + prob[:-1]) / 2, [1.0]])
    is_between = np.concatenate([[True], prob[1:] > prob[:-1], [True]])
    gain = np.where(is_between, recall_no + recall_yes, -1)
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    return float(border[best[np.abs(border[best] - prior).argmin()]])
