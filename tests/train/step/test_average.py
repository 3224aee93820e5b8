"""Averaged weights follow the trained ones, statistics included, and survive a resume."""

from __future__ import annotations

import copy
import math

import torch

from pix2score.model.network import MultiHeadModel
from pix2score.train.step.average import Average
from pix2score.train.step.recipe import Recipe
from tests.support.torch_helpers import PoisonableModel, assert_same_state, batch, fitter_of, seeded, state_of


def test_each_step_moves_by_one_over_the_length_of_the_average() -> None:
    model = seeded(MultiHeadModel)
    average = Average(model, Recipe(average=0.1, total_steps=50))  # over 5 steps
    start = state_of(average.model)["trunk.conv1.weight"]
    with torch.no_grad():
        model.trunk.conv1.weight += 1
    average.follow(model, 10_000)
    torch.testing.assert_close(state_of(average.model)["trunk.conv1.weight"], start + 1 / 5)


def test_the_first_steps_are_followed_closely() -> None:
    model = seeded(MultiHeadModel)
    average = Average(model, Recipe(average=0.5, total_steps=100_000))
    start = state_of(average.model)["trunk.conv1.weight"]
    with torch.no_grad():
        model.trunk.conv1.weight += 1
    average.follow(model, 0)
    torch.testing.assert_close(state_of(average.model)["trunk.conv1.weight"], start + 0.9)


def test_running_statistics_are_averaged_as_the_weights_are() -> None:
    fitter = fitter_of(seeded(MultiHeadModel), average=0.3)
    for seed in range(4):
        fitter.train_step(batch(8, seed))
    mean, last = (state_of(m)["trunk.bn1.running_mean"] for m in (fitter.result, fitter.model))
    assert torch.isfinite(mean).all()
    assert not torch.equal(mean, last)
    assert (mean - last).norm() < last.norm()


def test_the_averaged_model_is_the_one_that_is_validated_and_saved() -> None:
    fitter = fitter_of(seeded(MultiHeadModel), average=0.3)
    assert fitter.average is not None
    assert fitter.result is fitter.average.model
    assert fitter_of(seeded(MultiHeadModel)).result is not None


def test_a_skipped_step_leaves_the_average_as_it_was() -> None:
    model = seeded(PoisonableModel)
    assert isinstance(model, PoisonableModel)
    fitter = fitter_of(model, average=0.3)
    fitter.train_step(batch(4, 0))
    before, model.gain = state_of(fitter.result), math.inf
    assert fitter.train_step(batch(4, 1)).skipped
    assert_same_state(state_of(fitter.result), before)


def test_resuming_goes_on_with_the_same_average() -> None:
    whole = fitter_of(seeded(MultiHeadModel), average=0.3)
    for seed in range(2):
        whole.train_step(batch(4, seed))
    resumed = fitter_of(seeded(MultiHeadModel, seed=9), average=0.3)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for fitter in (whole, resumed):
        fitter.train_step(batch(4, 2))
    assert_same_state(state_of(resumed.result), state_of(whole.result))
