"""How good answers can be at most where labels are the means of a few votes: what their noise allows.

The votes of each image are dealt into two halves. What the halves do not agree on, no model can know.
Shapes: N images, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.heads.distribution import DistributionHead
from pix2score.heads.votes import shares_of
from pix2score.metrics.formulas import Floats, Numbers, pearson, rank_correlation

MIN_VOTES = 2
MIN_IMAGES = 50
"""Fewer say nothing of the noise."""


def vote_noise(head: DistributionHead, votes_NK: npt.NDArray[Any]) -> Numbers:
    """What an answer that knows everything but the noise would reach on average.

    ``pearson_ceiling`` and ``std_spearman_ceiling`` are by the Spearman-Brown formula, ``mse_floor`` is the
    mean variance of a label's mean. All None where votes are shares, or too few.
    """
    num = votes_NK.sum(axis=1)
    if (votes_NK != np.round(votes_NK)).any() or (num >= MIN_VOTES).sum() < MIN_IMAGES:
        return {"pearson_ceiling": None, "std_spearman_ceiling": None, "mse_floor": None}
    votes = votes_NK[num >= MIN_VOTES].astype(np.int64)
    first = dealt_half(votes, np.random.default_rng(0))
    a, b, n = first.sum(axis=1), (votes - first).sum(axis=1), votes.sum(axis=1)
    (mean_a, std_a), (mean_b, std_b) = (head.moments(shares_of(half)) for half in (first, votes - first))
    return {
        "pearson_ceiling": _ceiling(pearson(mean_a, mean_b)(np.ones(len(n)))),
        "std_spearman_ceiling": _ceiling(rank_correlation(std_a, std_b)),
        "mse_floor": float(((mean_a - mean_b) ** 2 * (a / n) * (b / n)).mean()),
    }


def dealt_half(votes_NK: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Half of each image's votes, rounded down, drawn without replacement: int64 [N, K]."""
    left = votes_NK.sum(axis=1)
    wanted = left // 2
    half = np.zeros_like(votes_NK)
    for k in range(votes_NK.shape[1]):
        left = left - votes_NK[:, k]
        half[:, k] = rng.hypergeometric(votes_NK[:, k], left, wanted)
        wanted = wanted - half[:, k]
    return half


def _ceiling(of_halves: float | None) -> float | None:
    """Correlation with the label that the truth itself has, from that of two halves of the label."""
    if of_halves is None or of_halves <= 0:
        return None
    return float(np.sqrt(2 * of_halves / (1 + of_halves)))


def share_entropy(shares_NK: Floats) -> Floats:
    """Entropy of each row, [N], nats: the least cross-entropy that any answer can have."""
    logs = np.log(np.where(shares_NK > 0, shares_NK, 1))
    return np.asarray(-(shares_NK * logs).sum(axis=1))
