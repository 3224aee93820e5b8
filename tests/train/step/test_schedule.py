"""The rate of each step: as torch's schedules of the same names, after a warm-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from pix2score.errors import ConfigError
from pix2score.train.step.recipe import Recipe
from pix2score.train.step.schedule import Schedule, learning_rate_factor

TOP = 0.01
STEPS = 12


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=TOP)


def rates(steps: int = STEPS, **recipe: Any) -> list[float]:
    moved = optimizer()
    schedule, found = Schedule(moved, Recipe(total_steps=steps, **recipe)), []
    for step in range(steps):
        found.append(float(moved.param_groups[0]["lr"]))
        schedule.move_to(step + 1)
    return found


def torchs(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], steps: int) -> list[float]:
    moved = optimizer()
    schedule, found = make(moved), []
    for _ in range(steps):
        found.append(float(moved.param_groups[0]["lr"]))
        moved.step()
        schedule.step()
    return found


@pytest.mark.parametrize("steps", [6, 7, 12])
def test_step_is_a_tenth_after_each_third_as_torchs_step_lr(steps: int) -> None:
    expected = torchs(lambda o: lr_scheduler.StepLR(o, -(-steps // 3)), steps)
    assert rates(steps, schedule="step", warmup_fraction=0.0) == pytest.approx(expected)


def test_milestones_are_shares_of_all_steps_as_torchs_multi_step_lr_has_them_in_steps() -> None:
    expected = torchs(lambda o: lr_scheduler.MultiStepLR(o, [28, 37], 0.2), 40)
    found = rates(40, schedule="step", milestones=(0.7, 0.925), gamma=0.2, warmup_fraction=0.0)
    assert found == pytest.approx(expected)


def test_exponential_falls_by_one_factor_a_step_to_its_floor_at_the_end() -> None:
    found = rates(10, schedule="exponential", floor=0.05, warmup_fraction=0.1)
    factor = 0.05 ** (1 / 9)
    assert found == pytest.approx([TOP, *(TOP * factor**i for i in range(9))])
    recipe = Recipe(total_steps=10, schedule="exponential")
    assert learning_rate_factor(10, recipe) == pytest.approx(0.01)


def test_cosine_cycles_each_fall_from_the_top_towards_the_floor_as_torchs_warm_restarts() -> None:
    expected = torchs(
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, eta_min=0.1 * TOP), 20
    )  # torch has no warm-up: one step of it here
    found = rates(21, schedule="cosine", cycles=4, floor=0.1, warmup_fraction=0.0)
    assert found[1:] == pytest.approx(expected)
    recipe = Recipe(total_steps=21, cycles=4, floor=0.1, warmup_fraction=0.0)
    assert learning_rate_factor(21, recipe) == pytest.approx(0.1)


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 12), (0.1, 12), (0.3, 40), (0.1, 3)])
def test_onecycle_is_torchs(warmup: float, steps: int) -> None:
    expected = torchs(
        lambda o: lr_scheduler.OneCycleLR(
            o, TOP, total_steps=steps + 1, pct_start=max(0.01, warmup), cycle_momentum=False
        ),
        steps,
    )
    assert rates(steps, schedule="onecycle", warmup_fraction=warmup) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "step", "exponential", "plateau"])
def test_every_schedule_warms_up(schedule: str) -> None:
    found = rates(12, schedule=schedule, warmup_fraction=0.25)
    assert found[:3] == pytest.approx([TOP / 3, 2 * TOP / 3, TOP])


def test_plateau_lowers_the_rate_when_validation_stalls_as_torchs_does_and_after_a_reload() -> None:
    mine, theirs = optimizer(), optimizer()
    recipe = Recipe(schedule="plateau", total_steps=90, warmup_fraction=0.0)
    schedule, expected = (
        Schedule(mine, recipe),
        lr_scheduler.ReduceLROnPlateau(theirs, factor=0.3, patience=2),
    )
    losses = [1.0, 0.9, 0.89999, 0.95, 0.91, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.4]
    for epoch, loss in enumerate(losses):
        state = schedule.state_dict()
        mine = optimizer()
        schedule = Schedule(mine, recipe)
        schedule.load_state_dict(state, 7 * epoch)
        schedule.end_epoch(loss, 7 * epoch)
        expected.step(loss)
        assert mine.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"]), epoch
    assert mine.param_groups[0]["lr"] < 0.1 * TOP


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"milestones": (0.5,)}, "milestones .* is for schedule step, not cosine"),
        ({"schedule": "step", "milestones": (0.9, 0.5)}, "milestones 0.9, 0.5: expected rising shares"),
        ({"schedule": "step", "milestones": (1.0,)}, "milestones 1.0"),
        ({"schedule": "step", "gamma": 1.5}, "gamma 1.5"),
        ({"schedule": "step", "floor": 0.1}, "floor 0.1: is for schedule cosine or exponential"),
        ({"schedule": "exponential", "floor": 0.0}, "floor 0.0: expected above 0"),
        ({"cycles": 0}, "cycles 0"),
    ],
)
def test_options_that_fit_no_schedule_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Recipe(**wrong)
