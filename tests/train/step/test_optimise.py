"""Optimisers by name: which parameters move, at which top rate."""

from __future__ import annotations

import math

import pytest
import torch

from pix2score.model.network import MultiHeadModel
from pix2score.train.step.recipe import Optimizer, Schedule
from tests.support.torch_helpers import assert_same_state, batch, fitter_of, seeded, state_of

SCHEDULES: tuple[Schedule, ...] = ("cosine", "step", "exponential", "plateau", "onecycle")
OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "sgd")


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        pytest.param(optimizer, schedule, marks=pytest.mark.slow if (i + j) % 2 else ())
        for i, schedule in enumerate(SCHEDULES)
        for j, optimizer in enumerate(OPTIMIZERS)
    ],
)
def test_every_optimiser_with_every_schedule_trains_to_its_last_step(
    optimizer: Optimizer, schedule: Schedule
) -> None:
    fitter = fitter_of(
        seeded(MultiHeadModel), total_steps=4, optimizer=optimizer, schedule=schedule, learning_rate=1e-3
    )
    before = state_of(fitter.model)
    losses = [fitter.train_step(batch(4, seed)).loss for seed in range(4)]
    fitter.end_epoch(1.0)
    assert all(math.isfinite(loss) for loss in losses)
    assert not torch.equal(state_of(fitter.model)["trunk.conv1.weight"], before["trunk.conv1.weight"])


def test_heads_have_their_own_rate() -> None:
    fitter = fitter_of(seeded(MultiHeadModel), learning_rate=0.01, head_rate=3.0, warmup_fraction=0.0)
    rate_of = {id(p): group["lr"] for group in fitter.optimizer.param_groups for p in group["params"]}
    assert {rate_of[id(p)] for p in fitter.model.trunk.parameters()} == {0.01}
    assert [rate_of[id(p)] for p in fitter.model.outputs.parameters()] == pytest.approx([0.03] * 4)


def test_a_frozen_trunk_keeps_weights_and_statistics_until_its_share_of_the_steps_is_done() -> None:
    fitter = fitter_of(seeded(MultiHeadModel), total_steps=4, frozen_fraction=0.5, weight_decay=0.5)
    start, heads = state_of(fitter.model.trunk), state_of(fitter.model.outputs)
    for seed in range(2):
        fitter.train_step(batch(4, seed))
        assert_same_state(state_of(fitter.model.trunk), start)
    assert not torch.equal(
        state_of(fitter.model.outputs)["bookmark_logits.weight"], heads["bookmark_logits.weight"]
    )
    fitter.train_step(batch(4, 2))
    after = state_of(fitter.model.trunk)
    assert not torch.equal(after["conv1.weight"], start["conv1.weight"])
    assert not torch.equal(after["bn1.running_mean"], start["bn1.running_mean"])


def test_layer_decay_slows_each_block_beside_the_next_and_leaves_heads_and_last_block_at_the_top() -> None:
    model = seeded(MultiHeadModel, backbone="resnet18")
    groups = fitter_of(model, learning_rate=0.01, layer_decay=0.5, warmup_fraction=0.0, weight_decay=0.1)
    rate_of = {id(p): group["lr"] for group in groups.optimizer.param_groups for p in group["params"]}
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    for name, parameter in model.trunk.named_parameters():
        depth = next((i + 1 for i, block in enumerate(blocks) if name.startswith(block)), 0)
        assert rate_of[id(parameter)] == pytest.approx(0.01 * 0.5 ** (len(blocks) - depth)), name
    assert {rate_of[id(p)] for p in model.outputs.parameters()} == {0.01}
    assert len(rate_of) == len(list(model.parameters()))


def test_what_a_trunk_names_has_no_weight_decay() -> None:
    model = seeded(MultiHeadModel)
    model.trunk.no_weight_decay = lambda: {"conv1.weight"}
    groups = fitter_of(model, weight_decay=0.1).optimizer.param_groups
    decay_of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay_of[id(model.trunk.conv1.weight)] == 0
    assert decay_of[id(model.trunk.layer1[0].conv1.weight)] == 0.1
