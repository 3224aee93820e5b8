"""A linear model of dense columns, of one-hot leaves, or of both: logistic for rates, ridge for numbers.

Its penalty is the one that errs least on the validation split. Rates may be fractions (clicks of
impressions), which no classifier of scikit-learn takes unless every row is doubled; the optimiser is scipy's.

Shapes: N rows, F columns of all blocks together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pix2score.metrics.formulas import Floats

Blocks: TypeAlias = Sequence[Any]
"""Matrices [N, ·] of the same rows beside each other: float32 arrays, or sparse ones of scipy."""
Loss: TypeAlias = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""Margins and truth [N] -> loss and its slope by the margin [N]."""
PENALTIES = tuple(float(f"{p:.3g}") for p in np.logspace(1, -4, 11))
"""Of the mean loss, strongest first: each fit starts where the one before ended."""
MAX_WORSE = 2
"""So many weaker penalties in a row that err more end the search."""
MAX_STEPS = 100


class Rows(NamedTuple):
    """What a model learns from, or is measured on."""

    blocks: Blocks
    truth: Floats
    """A rate in [0, 1], or a number in standard deviations of the train split from its mean."""
    weight: Floats


class Linear(NamedTuple):
    """Weights [F], float32, and the margin of a row of zeros."""

    weight: npt.NDArray[np.float32]
    bias: float
    penalty: float


def logistic(margin_N: Floats, truth_N: Floats) -> tuple[Floats, Floats]:
    """Negative log-likelihood of a rate whose log odds are the margin."""
    return np.logaddexp(0, margin_N) - truth_N * margin_N, probability(margin_N) - truth_N


def squared(margin_N: Floats, truth_N: Floats) -> tuple[Floats, Floats]:
    """Half the squared error."""
    return (margin_N - truth_N) ** 2 / 2, margin_N - truth_N


def probability(margin_N: Floats) -> Floats:
    """Of log odds."""
    return np.asarray(0.5 * (1 + np.tanh(margin_N / 2)))


def fit_linear(train: Rows, val: Rows, loss: Loss, penalties: Sequence[float] = PENALTIES) -> Linear:
    """The linear model of the penalty that errs least on ``val``."""
    best, least, num_worse = None, np.inf, 0
    found = Linear(np.zeros(_width(train.blocks), np.float32), _best_constant(train, loss), np.inf)
    for penalty in penalties:
        found = _fit(train, loss, penalty, found)
        error = mean_loss(val, loss, found)
        num_worse = 0 if error < least else num_worse + 1
        if error < least:
            best, least = found, error
        if num_worse > MAX_WORSE:
            break
    assert best is not None, "the loss of finite columns is finite"
    return best


def mean_loss(rows: Rows, loss: Loss, model: Linear) -> float:
    """Weighted mean over rows."""
    return float(np.average(loss(margins(rows.blocks, model), rows.truth)[0], weights=rows.weight))


def margins(blocks: Blocks, model: Linear) -> Floats:
    """[N]: what the model says of rows."""
    return _times(blocks, model.weight) + model.bias


def _fit(train: Rows, loss: Loss, penalty: float, start: Linear) -> Linear:
    from scipy.optimize import minimize

    share_N = train.weight / train.weight.sum()

    def objective(point: Floats) -> tuple[float, Floats]:
        weight, bias = point[:-1], point[-1]
        value_N, slope_N = loss(_times(train.blocks, weight.astype(np.float32)) + bias, train.truth)
        pull_N = share_N * slope_N
        gradient = _transposed(train.blocks, pull_N.astype(np.float32)) + penalty * weight
        value = share_N @ value_N + penalty / 2 * (weight @ weight)
        return float(value), np.append(gradient, pull_N.sum())

    began = np.append(start.weight.astype(np.float64), start.bias)
    options = {"maxiter": MAX_STEPS, "gtol": 1e-5, "ftol": 1e-7}
    found = minimize(objective, began, jac=True, method="L-BFGS-B", options=options).x
    return Linear(found[:-1].astype(np.float32), float(found[-1]), penalty)


def _best_constant(train: Rows, loss: Loss) -> float:
    mean = float(np.average(train.truth, weights=train.weight))
    return float(np.log(mean / (1 - mean))) if loss is logistic else mean


def _width(blocks: Blocks) -> int:
    return sum(block.shape[1] for block in blocks)


def _times(blocks: Blocks, weight: npt.NDArray[np.float32]) -> Floats:
    borders = np.cumsum([block.shape[1] for block in blocks])[:-1]
    parts = zip(blocks, np.split(weight, borders), strict=True)
    return np.asarray(sum((block @ part).astype(np.float64) for block, part in parts))


def _transposed(blocks: Blocks, pull_N: npt.NDArray[np.float32]) -> Floats:
    return np.concatenate([np.asarray(block.T @ pull_N, dtype=np.float64) for block in blocks])
