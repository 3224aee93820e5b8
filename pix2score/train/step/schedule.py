"""The learning rate of each step as a share of the top rate: one function for all schedules but ``plateau``.

``plateau`` also goes by what validation said, which is all that a schedule has to remember.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pix2score.train.step.recipe import Recipe

PLATEAU_FACTOR, PLATEAU_EPOCHS, PLATEAU_THRESHOLD = 0.3, 2, 1e-4
"""The rate falls to this share after more than so many epochs without a loss lower by this share of it."""
EXPONENTIAL_FLOOR = 0.01
"""Where ``exponential`` ends unless told: without an end it would have no speed."""
ONECYCLE_START, ONECYCLE_END = 1 / 25, 1 / 25 / 1e4
"""torch's defaults, https://arxiv.org/abs/1708.07120"""


class Schedule:
    """Sets the rate of each parameter group of an optimiser: its own top rate times the share of the step."""

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
        self._optimizer, self._recipe = optimizer, recipe
        self._tops = [float(group["lr"]) for group in optimizer.param_groups]
        self._scale, self._best, self._num_bad = 1.0, math.inf, 0
        self.move_to(0)

    def move_to(self, step: int) -> None:
        """Set the rates of ``step``, counted from 0."""
        factor = learning_rate_factor(step, self._recipe) * self._scale
        for group, top in zip(self._optimizer.param_groups, self._tops, strict=True):
            group["lr"] = top * factor

    def end_epoch(self, val_loss: float, step: int) -> None:
        """``plateau``: lower the rates from ``step`` on if the loss has stalled; others do nothing."""
        if self._recipe.schedule != "plateau":
            return
        if val_loss < self._best * (1 - PLATEAU_THRESHOLD):
            self._best, self._num_bad = val_loss, 0
        else:
            self._num_bad += 1
        if self._num_bad > PLATEAU_EPOCHS:
            self._scale, self._num_bad = self._scale * PLATEAU_FACTOR, 0
        self.move_to(step)

    def state_dict(self) -> dict[str, Any]:
        """Plain values: what validation has said so far."""
        return {"scale": self._scale, "best": self._best, "num_bad": self._num_bad}

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Continue at ``step`` from what ``state_dict`` gave."""
        self._scale, self._best, self._num_bad = state["scale"], state["best"], state["num_bad"]
        self.move_to(step)


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Share of the top rate at ``step``: linear warm-up from one step's worth, then as the schedule says.

    ``onecycle`` has a rise of its own, as long as the warm-up.
    """
    if recipe.schedule == "onecycle":
        return _onecycle(step, recipe)
    warmup = max(1, round(recipe.warmup_fraction * recipe.total_steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, recipe.total_steps - warmup))
    return _AFTER_WARMUP[recipe.schedule](step, progress, recipe)


def _cosine(_step: int, progress: float, recipe: Recipe) -> float:
    """From the top to the floor, as often as there are cycles; each begins at the top again."""
    cycle = progress * recipe.cycles
    part = 1.0 if progress == 1 else cycle - math.floor(cycle)
    floor = recipe.floor or 0.0
    return floor + (1 - floor) * (0.5 * (1 + math.cos(math.pi * part)))


def _exponential(_step: int, progress: float, recipe: Recipe) -> float:
    """The same factor with every step, to the floor at the end."""
    return float((EXPONENTIAL_FLOOR if recipe.floor is None else recipe.floor) ** progress)


def _step(step: int, _progress: float, recipe: Recipe) -> float:
    """Times ``gamma`` at each milestone, a share of all steps; without any after each third."""
    third = max(1, math.ceil(recipe.total_steps / 3))
    drops = [round(m * recipe.total_steps) for m in recipe.milestones] or [third, 2 * third, 3 * third]
    return float(recipe.gamma ** sum(step >= drop for drop in drops))


def _constant(_step: int, _progress: float, _recipe: Recipe) -> float:
    return 1.0


_AFTER_WARMUP: dict[str, Callable[[int, float, Recipe], float]] = {
    "cosine": _cosine,
    "exponential": _exponential,
    "step": _step,
    "plateau": _constant,
}
"""Schedule -> share of the top rate by step, progress after the warm-up in 0..1, and recipe."""


def _onecycle(step: int, recipe: Recipe) -> float:
    """torch's OneCycleLR: a cosine from a 25th of the top up to it, and another down to next to nothing."""
    top = max(0.01, recipe.warmup_fraction) * (recipe.total_steps + 1) - 1
    if step <= top:
        return _between(ONECYCLE_START, 1.0, step / top)
    return _between(1.0, ONECYCLE_END, min(1.0, (step - top) / max(1e-9, recipe.total_steps - top)))


def _between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
