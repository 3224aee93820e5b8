"""Averaged weights: an exponential mean over the last steps.

Calmer and better calibrated than the last step alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pix2score.model.network import MultiHeadModel
from pix2score.train.step.recipe import Recipe


class Average:
    """A model that follows another.

    BatchNorm's running statistics are averaged as the weights are: those of the last step belong to other
    weights.
    """

    def __init__(self, model: MultiHeadModel, recipe: Recipe) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = 1 - 1 / max(1.0, recipe.average * recipe.total_steps)

    @torch.no_grad()
    def follow(self, model: MultiHeadModel, num_steps: int) -> None:
        """Move towards ``model``, which has made ``num_steps`` steps.

        The first ones count less, being far from any end.
        """
        decay = min(self._decay, (1 + num_steps) / (10 + num_steps))
        is_frozen = not any(p.requires_grad for p in model.trunk.parameters())
        mine, theirs = _floats(self.model, is_frozen), _floats(model, is_frozen)
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for counter, other in zip(_counters(self.model), _counters(model), strict=True):
            counter.copy_(other)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""
        self.model.load_state_dict(state)


def _floats(model: MultiHeadModel, is_frozen: bool) -> list[Tensor]:
    """Those that move: without the trunk where that is frozen."""
    moving = {n: t for n, t in model.state_dict().items() if not (is_frozen and n.startswith("trunk."))}
    return [t for t in moving.values() if t.is_floating_point()]


def _counters(model: MultiHeadModel) -> list[Tensor]:
    return [t for t in model.state_dict().values() if not t.is_floating_point()]
