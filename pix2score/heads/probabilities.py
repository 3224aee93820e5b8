"""Probabilities from the outputs of a network, in float64. Shapes: N images, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]


def log_softmax(logits_NK: Float64s) -> Float64s:
    """Logarithms of the probabilities that logits stand for, [N, K]."""
    shifted = logits_NK - logits_NK.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def finite(outputs: npt.NDArray[Any]) -> Float64s:
    """Outputs as float64, 0 where they are not finite: those rows fail elsewhere."""
    return np.asarray(np.nan_to_num(outputs.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0))
