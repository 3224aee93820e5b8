"""The poison test: overflow under each number format costs skipped steps and nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from pix2score.errors import TrainingError
from pix2score.model.batchnorm import non_finite
from pix2score.model.folder import save_model
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.precision import FIRST_SCALE, GROW_EVERY, Caster
from pix2score.train.step.recipe import Precision
from tests.support.torch_helpers import (
    CPU,
    HEADS,
    NARROW,
    NARROW_DIM,
    PREPROCESS,
    PoisonableModel,
    assert_same_state,
    batch,
    fitter_of,
    on_two_workers,
    part,
    seeded,
    state_of,
)

FORMATS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
POISON = (None, math.inf, None, 1e38, None, math.nan, None)
"""The gain of the pixels, step by step; None is none."""


def poisoned_run(precision: Precision, network: torch.nn.Module, rank: int = 0) -> tuple[Fitter, list[bool]]:
    """A training in which the pixels of the first worker overflow now and then."""
    fitter = fitter_of(network, precision=precision, average=0.3)
    model: Any = fitter.model
    skipped = []
    for step, gain in enumerate(POISON):
        model.gain = 1.0 if gain is None or rank else gain
        skipped.append(fitter.train_step(part(batch(8, step), slice(rank * 4, rank * 4 + 4))).skipped)
    return fitter, skipped


@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(other, marks=pytest.mark.slow) for other in ("bf16", "fp16"))]
)
def test_training_goes_on_after_poison_with_every_buffer_finite_and_skips_counted(
    precision: Precision,
) -> None:
    fitter, skipped = poisoned_run(precision, seeded(PoisonableModel))
    assert [skipped[i] for i, gain in enumerate(POISON) if gain is not None] == [True, True, True]
    assert fitter.num_skipped == sum(skipped)
    assert fitter.num_steps - fitter.num_skipped >= 2
    assert non_finite(fitter.model) == non_finite(fitter.result) == []


@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(other, marks=pytest.mark.slow) for other in ("bf16", "fp16"))]
)
def test_a_loss_spike_costs_a_step_at_most(precision: Precision) -> None:
    fitter = fitter_of(seeded(PoisonableModel), precision=precision)
    fitter.train_step(batch(4, 0))
    with torch.no_grad():
        fitter.model.outputs["bookmark_logits"].bias[0] += 1e30
    fitter.train_step(batch(4, 1))
    with torch.no_grad():
        fitter.model.outputs["bookmark_logits"].bias[0] = 0
    assert math.isfinite(fitter.train_step(batch(4, 2)).loss)
    assert non_finite(fitter.model) == []


def two_workers(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for precision in FORMATS:
        fitter, skipped = poisoned_run(precision, DistributedDataParallel(seeded(PoisonableModel)), rank)
        fitter.validate([])  # which gives every worker the statistics of the first
        found[precision] = (skipped, state_of(fitter.result), non_finite(fitter.model), fitter.cast.scale)
    return found


@pytest.mark.slow
def test_workers_stay_identical_when_one_of_them_is_poisoned(tmp_path: Any) -> None:
    first, second = on_two_workers(two_workers, tmp_path)
    for precision in FORMATS:
        assert first[precision][0] == second[precision][0]
        assert sum(first[precision][0]) >= 3
        assert first[precision][2] == second[precision][2] == []
        assert first[precision][3] == second[precision][3]
        assert_same_state(first[precision][1], second[precision][1])


def test_a_model_with_a_poisoned_buffer_is_never_saved(tmp_path: Any) -> None:
    model = seeded(PoisonableModel)
    model.trunk.bn1.running_var[0] = math.nan
    weights = {name: t.numpy() for name, t in state_of(model).items()}
    with pytest.raises(TrainingError, match=r"trunk\.bn1\.running_var"):
        save_model(
            str(tmp_path),
            weights,
            backbone=NARROW,
            heads=HEADS,
            preprocess=PREPROCESS,
            embedding_dim=NARROW_DIM,
            temperatures={},
            about={},
        )
    assert list(tmp_path.iterdir()) == []


def test_only_fp16_scales_its_loss_halving_on_a_skip_and_doubling_after_a_long_good_time() -> None:
    caster = Caster("fp16", CPU)
    caster.adapt(skipped=True)
    assert caster.scale == FIRST_SCALE / 2
    for _ in range(GROW_EVERY):
        caster.adapt(skipped=False)
    assert caster.scale == FIRST_SCALE
    for precision in ("fp32", "bf16"):
        other = Caster(precision, CPU)
        other.adapt(skipped=True)
        assert other.scale == 1.0


def test_the_scale_survives_a_reload_and_is_not_taken_over_by_another_format() -> None:
    caster = Caster("fp16", CPU)
    caster.adapt(skipped=True)
    same, other = Caster("fp16", CPU), Caster("bf16", CPU)
    for loaded in (same, other):
        loaded.load_state_dict(caster.state_dict())
    assert (same.scale, other.scale) == (caster.scale, 1.0)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_a_gradient_in_half_precision_is_near_that_of_float32(precision: Precision) -> None:
    gradients = []
    for chosen in ("fp32", precision):
        fitter = fitter_of(seeded(PoisonableModel), precision=chosen, clip_norm=1e9)
        fitter.train_step(batch(8, 3))
        weight: Any = fitter.model.outputs["bookmark_logits"].weight
        gradients.append(weight.grad.flatten())
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.98
    assert gradients[1].norm() / gradients[0].norm() == pytest.approx(1, abs=0.1)
