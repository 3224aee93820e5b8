"""T2: two workers take the steps of one with both their batches, and skip together what is not finite.

Shapes: B images per worker, K bins of a head."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pix2score.model.network import MultiHeadModel
from pix2score.train.step.batch import Batch
from pix2score.train.step.collectives import gather_metrics
from tests.support.recorded_steps import (
    UNCLIPPED,
    Recording,
    all_finite,
    assert_metrics_equal,
    distance,
    trained,
)
from tests.support.torch_helpers import (
    HEADS,
    NARROW,
    FrozenNormModel,
    PoisonableModel,
    assert_same_state,
    batch,
    fitter_of,
    frozen_copy,
    on_two_workers,
    part,
    seeded,
    settled_model,
    state_of,
)

SIZE = 4  # images per worker
STEPS = 2
CONFLICTING = (21, 4)  # joint batches on which the two heads pull the trunk apart
JOINT_RECIPES: dict[str, dict[str, Any]] = {
    "pcgrad": {"gradient": "pcgrad"},
    "accumulate": {"accumulate": 3},
    "pcgrad in pieces": {"gradient": "pcgrad", "accumulate": 2},
    "sgd": {"optimizer": "sgd", "average": 0.3},
    "adversarial": {"adversarial": 0.5},
    "adversarial in pieces": {"adversarial": 0.5, "accumulate": 2},
    "r_drop": {"r_drop": 1.0, "dropout": 1e-9},
}
LONG = (*CONFLICTING, *CONFLICTING)  # in the first two steps gradients are added up after the backward pass


def without_kinks(model: MultiHeadModel) -> MultiHeadModel:
    """The network with smooth functions in place of ReLU and the largest of several.

    Pictures moved along a gradient that was summed in another order are others by its rounding, and at a kink
    the gradient there jumps.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.SiLU())
            elif isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    return model


def joint_batch(step: int, *, uneven: bool) -> Batch:
    """2 * SIZE images.

    With ``uneven`` the first worker's half has few labels of one head and none of the other.
    """
    images = batch(2 * SIZE, 20 + step, missing=0.2)
    if uneven:
        images.targets["bookmark"][1:SIZE] = -1
        images.targets["sanity"][:SIZE] = -1
        images.targets["bookmark"][SIZE:] = images.targets["bookmark"][SIZE:].clamp(min=0)
    return images


def two_worker_scenarios(rank: int) -> Recording:
    """All steps that the tests below look at, in one pair of processes."""
    mine = slice(rank * SIZE, (rank + 1) * SIZE)
    found: Recording = {}
    for uneven in (False, True):
        fitter = fitter_of(DistributedDataParallel(frozen_copy()), **UNCLIPPED)
        found[f"trained {uneven}"] = trained(
            fitter, [part(joint_batch(s, uneven=uneven), mine) for s in range(STEPS)]
        )
    for name, recipe in JOINT_RECIPES.items():
        fitter = fitter_of(DistributedDataParallel(without_kinks(frozen_copy())), **UNCLIPPED, **recipe)
        found[name] = trained(fitter, [part(joint_batch(s, uneven=False), mine) for s in LONG])
    found["infinite loss"] = poisoned_on_rank_0(
        rank, DistributedDataParallel(frozen_copy()), "offset", -math.inf
    )
    found["overflow"] = poisoned_on_rank_0(
        rank, DistributedDataParallel(seeded(PoisonableModel)), "gain", 1e38
    )
    return found


def two_worker_metrics(rank: int) -> Recording:
    """What one of two workers gathers of a batch of which it has half."""
    validator = fitter_of(DistributedDataParallel(settled_model()))
    mine = part(joint_batch(0, uneven=True), slice(rank * SIZE, (rank + 1) * SIZE))
    return {"metrics": gather_metrics(validator.validate([mine]))}


def poisoned_on_rank_0(
    rank: int, network: DistributedDataParallel, attribute: str, poison: float
) -> Recording:
    """A clean step, one that is poisoned on the first worker only, a clean one."""
    fitter, mine = fitter_of(network), slice(rank * SIZE, (rank + 1) * SIZE)
    images = joint_batch(0, uneven=False)
    zeros = replace(images, targets={name: torch.zeros_like(b) for name, b in images.targets.items()})
    skipped, states = [], []
    for value in (None, poison, None):
        clean = getattr(type(network.module), attribute)
        setattr(network.module, attribute, value if value is not None and rank == 0 else clean)
        skipped.append(fitter.train_step(part(zeros, mine)).skipped)
        states.append(state_of(fitter.model))
    return {
        "skipped": skipped,
        "states": states,
        "num_skipped": fitter.num_skipped,
        "finite": all_finite(fitter),
    }


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    return on_two_workers(two_worker_scenarios, tmp_path_factory.mktemp("workers"))


@pytest.mark.slow
@pytest.mark.parametrize("uneven", [False, True], ids=["even labels", "uneven labels"])
def test_two_workers_take_the_steps_of_one_with_both_batches(workers: list[Recording], uneven: bool) -> None:
    alone = trained(
        fitter_of(frozen_copy(), **UNCLIPPED), [joint_batch(step, uneven=uneven) for step in range(STEPS)]
    )
    parameters = [name for name, _ in FrozenNormModel(NARROW, HEADS).named_parameters()]
    start = {name: t for name, t in state_of(frozen_copy()).items() if name in parameters}
    for worker in workers:
        found = worker[f"trained {uneven}"]
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        assert found["losses"][0] == pytest.approx(alone["losses"][0], rel=1e-5)
        zero = {name: torch.zeros_like(g) for name, g in alone["gradient"].items()}
        assert distance(found["gradient"], alone["gradient"]) < 1e-4 * distance(zero, alone["gradient"])
        # Adam divides by the size of a gradient, so rounding shows where it is near zero: 2 % of the way
        # walked.
        assert distance(found["state"], {n: alone["state"][n] for n in start}) < 0.02 * distance(
            alone["state"], start
        )
    assert_same_state(workers[1][f"trained {uneven}"]["state"], workers[0][f"trained {uneven}"]["state"])


@pytest.mark.slow
@pytest.mark.parametrize("name", JOINT_RECIPES)
def test_two_workers_have_the_gradient_of_one_with_both_batches_by_every_way_of_making_it(
    workers: list[Recording], name: str
) -> None:
    alone = trained(
        fitter_of(without_kinks(frozen_copy()), **UNCLIPPED, **JOINT_RECIPES[name]),
        [joint_batch(s, uneven=False) for s in LONG],
    )
    zero = {name: torch.zeros_like(g) for name, g in alone["gradient"].items()}
    for worker in workers:
        found = worker[name]
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        assert distance(found["gradient"], alone["gradient"]) < 1e-4 * distance(zero, alone["gradient"])
    assert_same_state(workers[1][name]["state"], workers[0][name]["state"])


def test_pcgrad_differs_from_the_sum_where_heads_conflict() -> None:
    plain, surgical = (
        trained(
            fitter_of(frozen_copy(), **UNCLIPPED, gradient=gradient),
            [joint_batch(CONFLICTING[0], uneven=False)],
        )["gradient"]
        for gradient in ("sum", "pcgrad")
    )
    trunk = {name: g for name, g in plain.items() if name.startswith("trunk.")}
    heads = {name: g for name, g in plain.items() if name.startswith("outputs.")}
    zero = {name: torch.zeros_like(g) for name, g in trunk.items()}
    assert distance(surgical, trunk) > 1e-3 * distance(zero, trunk)
    for name, gradient in heads.items():
        torch.testing.assert_close(surgical[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["infinite loss", "overflow"])
def test_what_is_not_finite_on_one_worker_is_skipped_on_both_and_they_stay_identical(
    workers: list[Recording], scenario: str
) -> None:
    parameters = [name for name, _ in FrozenNormModel(NARROW, HEADS).named_parameters()]
    for worker in workers:
        found = worker[scenario]
        assert found["skipped"] == [False, True, False]
        assert found["num_skipped"] == 1
        assert found["finite"]
        first, poisoned, last = found["states"]
        assert_same_state(poisoned, first)
        assert any(not torch.equal(last[name], first[name]) for name in parameters)
    for a, b in zip(workers[0][scenario]["states"], workers[1][scenario]["states"], strict=True):
        assert_same_state({name: b[name] for name in parameters}, {name: a[name] for name in parameters})


@pytest.mark.slow
def test_metrics_gathered_on_two_workers_are_those_of_the_joint_batch(tmp_path: Path) -> None:
    joint = fitter_of(settled_model()).validate([joint_batch(0, uneven=True)])
    for worker in on_two_workers(two_worker_metrics, tmp_path):
        assert_metrics_equal(worker["metrics"], joint)
