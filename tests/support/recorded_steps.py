"""What tests of a fitter's steps share: steps recorded, and recordings compared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pix2score.metrics.accumulate import OrderedAccumulator
from pix2score.train.step.batch import Batch
from pix2score.train.step.fitter import Fitter
from tests.support.torch_helpers import (
    state_of,
)

UNCLIPPED = {"learning_rate": 1e-4, "clip_norm": 1e9}
"""Clipping and Adam would hide a wrong scale of the gradient."""
Recording = dict[str, Any]


def trained(fitter: Fitter, batches: list[Batch]) -> Recording:
    """Losses, the first step's clipped gradient, and the weights after the last."""
    losses = [fitter.train_step(batches[0]).loss]
    gradient = {name: p.grad.clone() for name, p in fitter.model.named_parameters() if p.grad is not None}
    losses += [fitter.train_step(images).loss for images in batches[1:]]
    return {"losses": losses, "gradient": gradient, "state": state_of(fitter.model)}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Between tensors of equal names, over all their numbers; those of ``b`` count."""
    return math.sqrt(sum(float(((a[name] - b[name]).double() ** 2).sum()) for name in b))


def all_finite(fitter: Fitter) -> bool:
    """Whether weights, buffers and the optimiser's moments are."""
    moments = [t for s in fitter.optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
    return all(bool(torch.isfinite(t).all()) for t in [*fitter.model.state_dict().values(), *moments])


def assert_metrics_equal(found: list[OrderedAccumulator], expected: list[OrderedAccumulator]) -> None:
    """Up to the order in which sums were made."""
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a.confusion, b.confusion)
        np.testing.assert_allclose(a.nll_by_temperature, b.nll_by_temperature, rtol=1e-4)
        assert a.result() == pytest.approx(b.result(), rel=1e-4, abs=1e-4)
