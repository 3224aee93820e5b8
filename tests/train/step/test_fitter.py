"""One worker's step: skipped whole if not finite, resumed exactly.

Shapes: B images per worker, K bins of a head.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pix2score.errors import ConfigError
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.accumulate import OrderedAccumulator
from pix2score.metrics.kinds import results
from pix2score.model.network import MultiHeadModel, normalise
from pix2score.train.step.batch import Batch, noisy_targets
from pix2score.train.step.collectives import gather_metrics
from pix2score.train.step.fitter import Fitter, StepResult
from pix2score.train.step.recipe import PRESETS, Recipe
from pix2score.train.step.schedule import learning_rate_factor
from pix2score.train.step.validate import validation_loss
from tests.support.recorded_steps import (
    UNCLIPPED,
    all_finite,
    assert_metrics_equal,
    distance,
    trained,
)
from tests.support.torch_helpers import (
    COUNT_HEAD,
    HEADS,
    LEVEL_HEAD,
    PREPROCESS,
    PoisonableModel,
    assert_same_state,
    batch,
    fitter_of,
    frozen_copy,
    part,
    seeded,
    settled_model,
    state_of,
)

# T1: a step that is not finite


@pytest.mark.parametrize("gain", [1e38, math.inf, math.nan])
def test_an_overflow_skips_the_step_and_leaves_weights_and_batchnorm_as_they_were(gain: float) -> None:
    model = seeded(PoisonableModel)
    assert isinstance(model, PoisonableModel)
    fitter = fitter_of(model)
    assert not fitter.train_step(batch(4, 0)).skipped
    before, moments = state_of(model), copy.deepcopy(fitter.optimizer.state_dict()["state"])

    model.gain = gain
    result = fitter.train_step(batch(4, 1))
    assert result.skipped
    assert (fitter.num_steps, fitter.num_skipped) == (2, 1)
    assert_same_state(state_of(model), before)
    for index, state in fitter.optimizer.state_dict()["state"].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(moments[index][k])) for k, v in state.items()
        )

    model.gain = 1.0
    after = fitter.train_step(batch(4, 2))
    assert not after.skipped
    assert math.isfinite(after.loss)
    assert (fitter.num_steps, fitter.num_skipped) == (3, 1)
    assert all_finite(fitter)
    assert not torch.equal(model.state_dict()["trunk.conv1.weight"], before["trunk.conv1.weight"])
    assert not torch.equal(model.state_dict()["trunk.bn1.running_mean"], before["trunk.bn1.running_mean"])


def test_without_the_guard_that_overflow_would_have_poisoned_batchnorm() -> None:
    model = seeded(PoisonableModel)
    assert isinstance(model, PoisonableModel)
    model.gain = 1e38
    model.train()(normalise(batch(4).pixels_BSSC, PREPROCESS))
    assert not torch.isfinite(model.trunk.bn1.running_var).all()


def test_a_gradient_that_is_not_finite_skips_the_step_though_the_loss_is() -> None:
    model = seeded(MultiHeadModel)
    model.outputs["sanity_logits"].weight.register_hook(lambda gradient: gradient * math.inf)
    fitter, before = fitter_of(model), state_of(model)
    result = fitter.train_step(batch(4))
    assert result.skipped
    assert math.isfinite(result.loss)
    assert_same_state(state_of(model), before)


def test_a_loss_that_is_not_finite_skips_the_step_though_the_gradient_is() -> None:
    model = frozen_copy()
    model.offset = -math.inf  # of bin 0: its loss is infinite, softmax - onehot is not
    fitter, before = fitter_of(model), state_of(model)
    zeros = {h.name: torch.zeros(4, dtype=torch.int64) for h in HEADS}
    assert fitter.train_step(replace(batch(4), targets=zeros)).skipped
    assert_same_state(state_of(model), before)


def test_a_batch_without_labels_is_a_finite_step() -> None:
    fitter = fitter_of(seeded(MultiHeadModel))
    result = fitter.train_step(batch(4, missing=1.0))
    assert (result.loss, result.skipped) == (0.0, False)
    assert all_finite(fitter)


# Schedule and recipe

recipes = st.builds(
    lambda steps, warmup: Recipe(total_steps=steps, warmup_fraction=warmup),
    st.integers(1, 5000),
    st.floats(0, 0.9),
)


@given(recipes, st.integers(0, 6000))
def test_learning_rate_stays_between_zero_and_the_top(recipe: Recipe, step: int) -> None:
    assert 0 <= learning_rate_factor(step, recipe) <= 1


@given(recipes)
@example(Recipe(total_steps=1))
@settings(max_examples=50)
def test_learning_rate_rises_in_equal_steps_to_the_top_and_falls_as_a_cosine(recipe: Recipe) -> None:
    warmup = max(1, round(recipe.warmup_fraction * recipe.total_steps))
    factors = [learning_rate_factor(step, recipe) for step in range(recipe.total_steps)]
    assert factors[:warmup] == pytest.approx([(i + 1) / warmup for i in range(warmup)])
    assert factors[0] > 0
    assert max(factors) == factors[warmup - 1] == 1
    falling = factors[warmup - 1 :]
    assert all(b <= a for a, b in zip(falling, falling[1:], strict=False))
    half = warmup + (recipe.total_steps - warmup) / 2
    if half.is_integer():
        assert (
            learning_rate_factor(int(half), recipe) == pytest.approx(0.5, abs=1e-9)
            or recipe.total_steps == warmup
        )


@given(recipes)
def test_learning_rate_is_zero_once_the_steps_are_done(recipe: Recipe) -> None:
    assume(round(recipe.warmup_fraction * recipe.total_steps) < recipe.total_steps > 1)
    for step in (recipe.total_steps, recipe.total_steps + 7):
        assert learning_rate_factor(step, recipe) == pytest.approx(0, abs=1e-12)


def test_the_optimiser_follows_the_schedule() -> None:
    fitter, rates = (
        fitter_of(seeded(MultiHeadModel), total_steps=5, learning_rate=0.01, warmup_fraction=0.4),
        [],
    )
    for seed in range(5):
        rates.append(fitter.optimizer.param_groups[0]["lr"])
        fitter.train_step(batch(2, seed))
    assert rates == pytest.approx([0.01 * learning_rate_factor(step, fitter.recipe) for step in range(5)])


def test_a_recipe_without_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="total_steps 0"):
        Recipe(total_steps=0)


def test_weight_decay_is_for_matrices_and_kernels_alone() -> None:
    model = seeded(MultiHeadModel)
    groups = fitter_of(model, weight_decay=0.07).optimizer.param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.07 if parameter.ndim > 1 else 0.0), name


# T4 and T3: the same again


def run(fitter: Fitter, steps: range, size: int = 4) -> list[float]:
    return [fitter.train_step(batch(size, seed, missing=0.2)).loss for seed in steps]


def test_a_fixed_seed_gives_an_identical_loss_curve() -> None:
    first, second, other = (fitter_of(seeded(MultiHeadModel, seed)) for seed in (0, 0, 1))
    curve = run(first, range(4))
    assert run(second, range(4)) == curve
    assert run(other, range(4)) != curve
    assert_same_state(state_of(second.model), state_of(first.model))


def reloaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    loaded: dict[str, Any] = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    return loaded


def test_two_steps_a_reload_and_two_steps_equal_four_steps_exactly() -> None:
    whole = fitter_of(seeded(MultiHeadModel))
    curve = run(whole, range(4))

    first = fitter_of(seeded(MultiHeadModel))
    half = run(first, range(2))
    second = fitter_of(seeded(MultiHeadModel, seed=5))
    second.load_state_dict(reloaded(first.state_dict()))
    assert half + run(second, range(2, 4)) == curve
    assert_same_state(state_of(second.model), state_of(whole.model))
    assert (second.num_steps, second.num_skipped) == (4, 0)
    rates = [[group["lr"] for group in fitter.optimizer.param_groups] for fitter in (second, whole)]
    assert rates[0] == rates[1]


def test_skipped_steps_survive_a_reload() -> None:
    model = seeded(PoisonableModel)
    assert isinstance(model, PoisonableModel)
    fitter, model.gain = fitter_of(model), math.inf
    fitter.train_step(batch(2))
    resumed = fitter_of(seeded(MultiHeadModel))
    resumed.load_state_dict(reloaded(fitter.state_dict()))
    assert (resumed.num_steps, resumed.num_skipped) == (1, 1)


# Learning and validation


def test_sixteen_images_can_be_learnt_by_heart() -> None:
    fitter = fitter_of(seeded(MultiHeadModel), total_steps=60, learning_rate=2e-3, weight_decay=0.0)
    images, losses = batch(16, 3), []
    while len(losses) < 60 and (not losses or losses[-1] >= 0.1):
        losses.append(fitter.train_step(images).loss)
    assert losses[0] > 0.8  # about 1 per unit of weight: a uniform guess
    assert losses[-1] < 0.1


def test_thirty_two_images_are_overfitted_to_near_zero_loss() -> None:
    fitter = fitter_of(seeded(MultiHeadModel), total_steps=120, learning_rate=2e-3, weight_decay=0.0)
    images, losses = batch(32, 3), []
    while len(losses) < 120 and (not losses or losses[-1] >= 0.02):
        losses.append(fitter.train_step(images).loss)
    assert losses[-1] < 0.02


@pytest.mark.slow
def test_labels_permuted_at_random_give_no_better_than_the_prior() -> None:
    train, unseen = batch(64, 11), batch(256, 12)  # labels are drawn apart from the pixels
    fitter = fitter_of(seeded(MultiHeadModel), total_steps=15, learning_rate=1e-3, dropout=0.2, average=0.1)
    for _ in range(15):
        fitter.train_step(train)
    for metrics in fitter.validate([unseen]):
        found = metrics.result()
        assert abs(float(found["spearman"] or 0)) < 0.2
        uniform = math.log(metrics.head.num_bins)  # the labels' own prior
        assert min(metrics.nll_by_temperature) / 256 > uniform - 0.03


@pytest.mark.slow
def test_labels_that_the_pixels_tell_are_learnt_by_the_same_recipe() -> None:
    def telling(seed: int) -> Batch:
        images = batch(64, seed)
        light = torch.arange(64) % 12
        pixels = images.pixels_BSSC // 4 + (15 * light).to(torch.uint8)[:, None, None, None]
        return replace(images, pixels_BSSC=pixels, targets={h.name: light * h.num_bins // 12 for h in HEADS})

    fitter = fitter_of(seeded(MultiHeadModel), total_steps=15, learning_rate=1e-3, dropout=0.2, average=0.1)
    for _ in range(15):
        fitter.train_step(telling(11))
    for metrics in fitter.validate([telling(12)]):
        assert min(metrics.nll_by_temperature) / 64 < math.log(metrics.head.num_bins) - 0.2


def test_pieces_of_a_batch_take_the_same_step() -> None:
    gradients = [
        trained(fitter_of(frozen_copy(), **UNCLIPPED, accumulate=n), [batch(7, 2, missing=0.3)])["gradient"]
        for n in (1, 3, 20)
    ]
    zero = {name: torch.zeros_like(g) for name, g in gradients[0].items()}
    for other in gradients[1:]:
        assert distance(other, gradients[0]) < 1e-4 * distance(zero, gradients[0])


def noisy(head: HeadSpec, bins: Tensor, labels: Tensor, std: float) -> Tensor:
    whole = Batch(torch.zeros(len(bins), 1, 1, 3), {head.name: bins}, {head.name: labels})
    return noisy_targets(whole, head, std)


def test_label_noise_moves_a_label_in_its_own_unit_before_it_is_binned() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([math.nan, 0.0, 95.0, 50_000.0]).double().repeat_interleave(4000)
    bins = torch.tensor([-1, 0, 1, 3]).repeat_interleave(4000)  # of edges 10, 100, 1000
    moved = noisy(COUNT_HEAD, bins, labels, 5.0)
    assert (moved[:4000] == -1).all()
    assert (moved[4000:8000] == 1).double().mean() == pytest.approx(0.0228, abs=0.01)  # two deviations away
    assert (moved[8000:12000] == 2).double().mean() == pytest.approx(0.159, abs=0.02)  # one
    assert (moved[12000:] == 3).all()
    assert torch.equal(noisy(COUNT_HEAD, bins, labels, 0.0), bins)


def test_a_class_becomes_its_neighbour_where_the_noise_is_above_a_half() -> None:
    torch.manual_seed(0)
    bins = torch.ones(8000, dtype=torch.int64)
    moved = noisy(LEVEL_HEAD, bins, bins.double(), 0.5)
    assert (moved == 1).double().mean() == pytest.approx(0.683, abs=0.02)
    assert (moved == 0).double().mean() == pytest.approx((moved == 2).double().mean(), abs=0.02)
    assert torch.equal(noisy(LEVEL_HEAD, bins, bins.double(), 0.05), bins)


def test_the_loss_is_the_mean_of_the_heads_by_their_weights() -> None:
    found = StepResult.of({"bookmark": 0.5, "sanity": 1.0}, HEADS, skipped=False)
    weights = [head.weight for head in HEADS]
    assert found.loss == pytest.approx((0.5 * weights[0] + weights[1]) / sum(weights))
    result = fitter_of(seeded(MultiHeadModel)).train_step(batch(4))
    assert result.loss == pytest.approx(StepResult.of(result.loss_by_head, HEADS, skipped=False).loss)


def test_a_constant_answer_is_told_as_1_whatever_the_weights_and_a_head_without_weight_is_not_told() -> None:
    heads = [replace(HEADS[0], weight=3.0), replace(HEADS[1], weight=0.0)]
    found = StepResult.of({"bookmark": 1.0, "sanity": 7.0}, heads, skipped=False)
    assert (found.loss, found.loss_by_head) == (1.0, {"bookmark": 1.0})


def test_dropout_and_augmentation_are_the_same_after_a_resume() -> None:
    recipe = {"dropout": 0.5, "augment": PRESETS["small"].recipe["augment"], "label_noise": 1.0}
    whole, first = (fitter_of(seeded(MultiHeadModel), **recipe) for _ in range(2))
    curve = run(whole, range(4))
    half = run(first, range(2))
    second = fitter_of(seeded(MultiHeadModel, seed=5), **recipe)
    second.load_state_dict(reloaded(first.state_dict()))
    torch.manual_seed(12345)  # whatever the new process drew before
    assert half + run(second, range(2, 4)) == curve


def test_rows_without_any_label_cost_validation_no_forward_pass() -> None:
    seen = []
    model = settled_model()
    model.trunk.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    images = batch(6, 1)
    for bins in images.targets.values():
        bins[2:] = -1
    fitter_of(model).validate([images, part(images, slice(2, None))])
    assert seen == [2]


def test_averaged_and_last_weights_are_validated_on_one_reading_of_the_rows() -> None:
    fitter = fitter_of(settled_model(), average=0.5, learning_rate=0.01)
    fitter.train_step(batch(8, 3))
    read = []

    def rows() -> Iterator[Batch]:
        for seed in (1, 2):
            read.append(seed)
            yield batch(6, seed)

    found = fitter.validate_both(rows())
    assert read == [1, 2]
    alone = []
    for fitter.takes_average in (True, False):
        alone.append(fitter.validate([batch(6, 1), batch(6, 2)]))
    for ours, theirs in zip(found, alone, strict=True):
        assert results(ours) == results(theirs)
    assert results(found[0]) != results(found[1])
    assert len(fitter_of(settled_model()).validate_both([batch(6, 1)])) == 1


def test_the_step_reports_the_loss_that_a_hand_computation_gives() -> None:
    model, images = frozen_copy(), batch(8, 4, missing=0.3)
    model.embedding_dtype = None  # as in a step, whose heads see it unrounded
    with torch.no_grad():
        logits, _ = model.eval()(normalise(images.pixels_BSSC, PREPROCESS))
    expected = 0.0
    for head in HEADS:
        truth = images.targets[head.name]
        nll = -logits[head.name].log_softmax(1)[torch.arange(8), truth.clamp(min=0)][truth >= 0]
        expected += head.weight * nll.mean().item() / head.prior_nll / sum(h.weight for h in HEADS)
    assert fitter_of(model).train_step(images).loss == pytest.approx(expected, rel=1e-5)


def test_validation_equals_a_computation_by_hand_and_changes_nothing() -> None:
    model = settled_model()
    fitter, batches = fitter_of(model), [batch(5, 1, missing=0.3), batch(3, 2), batch(1, 3)]
    before = state_of(model)
    found = fitter.validate(batches)
    assert_same_state(state_of(model), before)

    expected = [OrderedAccumulator(head) for head in HEADS]
    with torch.no_grad():
        for images in batches:
            logits, _ = model.eval()(normalise(images.pixels_BSSC, PREPROCESS))
            for metrics in expected:
                name = metrics.head.name
                metrics.add(logits[name].numpy(), images.targets[name].numpy(), images.labels[name].numpy())
    assert_metrics_equal(found, expected)
    assert found[0].num_labelled == sum(int((b.targets["bookmark"] >= 0).sum()) for b in batches) < 9


def test_validation_keeps_the_rank_of_labels_beyond_float32() -> None:
    images = batch(8, 5, heads=(COUNT_HEAD,))
    labels = {"bookmark": torch.arange(8, dtype=torch.float64) + 2_400_000_000}
    (found,) = fitter_of(settled_model((COUNT_HEAD,)), (COUNT_HEAD,)).validate(
        [replace(images, labels=labels)]
    )
    assert len({pair[1] for part in found.pairs for pair in part.tolist()}) == 8


def test_validation_loss_is_the_weighted_mean_over_heads_at_the_best_temperature() -> None:
    metrics = fitter_of(settled_model()).validate([batch(16, 6)])
    by_hand = [min(m.nll_by_temperature) / 16 / m.head.prior_nll for m in metrics]
    assert validation_loss(metrics) == pytest.approx((1.0 * by_hand[0] + 0.5 * by_hand[1]) / 1.5)


def test_validation_loss_without_labels_or_with_nan_is_infinite_so_that_it_never_ranks_first() -> None:
    fitter = fitter_of(settled_model())
    assert validation_loss(fitter.validate([])) == math.inf
    with torch.no_grad():
        fitter.model.outputs["sanity_logits"].bias[0] = math.nan
    assert validation_loss(fitter.validate([batch(4)])) == math.inf


def test_without_a_process_group_gathering_gives_the_same_metrics() -> None:
    metrics = fitter_of(settled_model()).validate([batch(4)])
    assert results(gather_metrics(metrics)) == results(metrics)
