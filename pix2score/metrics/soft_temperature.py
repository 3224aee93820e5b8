"""The temperature that fits logits to shares. Shapes: N images, K classes."""

from __future__ import annotations

import numpy as np

from pix2score.heads.probabilities import log_softmax
from pix2score.metrics.formulas import Floats

LOWEST, HIGHEST = 0.2, 10.0
_NUM_HALVINGS = 30  # of the logarithm's range: to eight digits


def soft_temperature(logits_NK: Floats, shares_NK: Floats, weight_N: Floats) -> float:
    """Temperature of least weighted cross-entropy of ``shares``, between ``LOWEST`` and ``HIGHEST``.

    The cross-entropy is convex in the inverse temperature, so its slope is followed to its zero.
    """
    low, high = np.log(1 / HIGHEST), np.log(1 / LOWEST)
    wanted = ((shares_NK * logits_NK).sum(axis=1) * weight_N).sum()
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        probs = np.exp(log_softmax(logits_NK * np.exp(middle)))
        is_too_sure = ((probs * logits_NK).sum(axis=1) * weight_N).sum() > wanted
        low, high = (low, middle) if is_too_sure else (middle, high)
    return float(np.exp(-(low + high) / 2))
