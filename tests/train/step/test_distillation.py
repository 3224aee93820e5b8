"""A teacher's answers as what a student learns from: kind by kind, on pixels of its own, beside labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.images.preprocess import Preprocess
from pix2score.model.card import ModelCard
from pix2score.model.members import Member
from pix2score.model.network import MultiHeadModel, normalise
from pix2score.model.networks import Network, network_of_card
from pix2score.model.pooling import calibrated, pooled
from pix2score.train.step.batch import Batch, Others
from pix2score.train.step.distillation import COSTS, Teacher
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.losses import LOSSES
from pix2score.train.step.objective import Objective
from pix2score.train.step.precision import Caster
from pix2score.train.step.recipe import Recipe
from tests.support.every_head import FITTED
from tests.support.torch_helpers import (
    COUNT_HEAD,
    CPU,
    HEADS,
    NARROW,
    PREPROCESS,
    FrozenNormModel,
    batch,
    frozen_copy,
    on_two_workers,
    part,
    pixels,
    seeded,
    settled_model,
)

PLAIN = Caster("fp32", CPU)
EVERY = tuple(FITTED.values())


def card_for(heads: Sequence[HeadSpec], preprocess: Preprocess = PREPROCESS, **more: Any) -> ModelCard:
    """Of a model that was never saved."""
    given: dict[str, Any] = {"backbone": NARROW, "embedding_dim": 64, "temperatures": {}} | more
    return ModelCard(heads=tuple(heads), preprocess=preprocess, weights_sha256="0" * 64, **given)


def teacher_of(
    network: Network,
    heads: Sequence[HeadSpec],
    weight: float = 1.0,
    student: Sequence[HeadSpec] | None = None,
    **card: Any,
) -> Teacher:
    return Teacher(network, card_for(heads, **card), PREPROCESS, student or heads, weight, CPU)


def without_labels(number: int, heads: Sequence[HeadSpec] = EVERY) -> Batch:
    """Drawn pixels, of which no head has a label."""
    targets = {
        head.name: torch.tensor(head.targets(pa.chunked_array([pa.nulls(number, head.target_field().type)])))
        for head in heads
    }
    return Batch(torch.from_numpy(pixels(number, seed=7)), targets, {})


def taught(model: nn.Module, heads: Sequence[HeadSpec], teacher: Teacher | None, **recipe: Any) -> Fitter:
    given = {"total_steps": 20, "clip_norm": 1e9, "learning_rate": 1e-4} | recipe
    return Fitter(model, heads, PREPROCESS, Recipe(**given), CPU, Objective(heads, teacher=teacher))


def gradients(fitter: Fitter, images: Batch) -> dict[str, Tensor]:
    """By parameter, after one step."""
    fitter.train_step(images)
    return {name: p.grad.clone() for name, p in fitter.model.named_parameters() if p.grad is not None}


def norm(found: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(g.double().square().sum()) for g in found.values()))


def frozen(heads: Sequence[HeadSpec], seed: int = 0) -> FrozenNormModel:
    """BatchNorm in eval mode, so that student and teacher may be one."""
    model = seeded(FrozenNormModel, seed, heads)  # type: ignore[arg-type]
    assert isinstance(model, FrozenNormModel)
    model.embedding_dtype = None  # a teacher's heads see its embedding rounded, those of a step do not
    return model


def test_every_loss_has_a_cost() -> None:
    assert COSTS.keys() == LOSSES.keys()


@pytest.mark.parametrize("kind", FITTED)
def test_a_student_that_is_its_own_teacher_stays_and_one_that_is_not_moves(kind: str) -> None:
    heads = [FITTED[kind]]
    own, other = (teacher_of(frozen(heads, seed), heads) for seed in (0, 1))
    still, moved = (
        gradients(taught(frozen(heads), heads, t), without_labels(6, heads)) for t in (own, other)
    )
    assert norm(moved) > 1e-3
    assert norm(still) < 1e-5 * norm(moved) + 1e-6


def test_of_shares_the_cost_is_the_divergence_and_the_entropy_of_the_teacher() -> None:
    teacher, student = (torch.randn(5, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    p, q = (torch.distributions.Categorical(logits=x) for x in (teacher, student))
    expected = (torch.distributions.kl_divergence(p, q) + p.entropy()) / COUNT_HEAD.prior_nll
    for loss in ("cross_entropy", "squared_emd"):  # whatever the unit of labels
        torch.testing.assert_close(COSTS[loss](teacher, student, replace(COUNT_HEAD, loss=loss)), expected)


def test_the_constant_answer_costs_one_where_the_teacher_is_right_about_the_shares() -> None:
    for kind in ("bins", "classes", "distribution", "binary", "tags"):
        head = FITTED[kind]
        bias = torch.from_numpy(head.initial_bias())[None]
        assert COSTS[head.loss_name](bias, bias, head).item() == pytest.approx(1, rel=1e-5), kind


def test_of_numbers_the_cost_is_in_variances_of_the_label_whatever_the_student_has_for_outputs() -> None:
    head = FITTED["value"]
    assert isinstance(head, ValueHead)
    teacher, plain = torch.tensor([[1.5], [0.0]]), torch.tensor([[0.5], [0.0]])
    torch.testing.assert_close(COSTS["mse"](teacher, plain, head), torch.tensor([1.0, 0.0]))
    several = replace(head, loss="expected")
    logits = torch.zeros(2, several.num_outputs)
    mean = float(np.mean(several.support))
    torch.testing.assert_close(
        COSTS["expected"](teacher, logits, several), torch.tensor([(1.5 - mean) ** 2, mean**2]).float()
    )
    torch.testing.assert_close(COSTS["pairwise"](teacher, plain, head), torch.tensor([1.0, 0.0]))


def test_of_rewards_the_cost_is_what_pairs_with_such_errors_cost() -> None:
    drawn = torch.Generator().manual_seed(0)
    teacher, error = (torch.randn(4000, 1, generator=drawn, dtype=torch.float64) for _ in range(2))
    teacher, error = 0.1 * teacher, 0.1 * error
    cost = COSTS["bradley_terry"](teacher, teacher + error, FITTED["preference"]).mean()
    true, said = (x[:2000, 0] - x[2000:, 0] for x in (teacher, teacher + error))
    p, q = (torch.distributions.Bernoulli(logits=x) for x in (true, said))
    per_pair = torch.distributions.kl_divergence(p, q).mean() / math.log(2)
    assert cost.item() == pytest.approx(per_pair.item(), rel=0.05)


def test_a_set_of_images_weighs_what_one_image_does() -> None:
    head = FITTED["preference"]
    teacher = teacher_of(frozen([head]), [head])
    alone = without_labels(2, [head])
    more = Others(torch.from_numpy(pixels(2, seed=8)), torch.tensor([2, 0]))
    said = torch.tensor([[0.2, 0.2, 0.2, 0.0], [0.2, 0, 0, 0]])
    zero = {head.name: torch.zeros_like(said)}
    two = torch.tensor(2)
    costs = [teacher.costs({head.name: said[:, :k]}, {head.name: zero[head.name][:, :k]}, b, two)[head.name]
             for k, b in ((1, alone), (4, replace(alone, others=more)))]  # fmt: skip
    torch.testing.assert_close(costs[0], costs[1])


# What the teacher sees, and how it answers


def seen(size: int = 32) -> Tensor:
    return normalise(torch.from_numpy(pixels(4, seed=3, size=size)), PREPROCESS)


def test_the_teacher_answers_calibrated_and_in_its_own_normalisation_and_size() -> None:
    model = settled_model()
    own = Preprocess(size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    teacher = teacher_of(model, HEADS, preprocess=own, temperatures={"bookmark": 2.0})
    found = teacher.answers(seen(), PLAIN)
    shown = torch.from_numpy(pixels(4, seed=3)).permute(0, 3, 1, 2).float()
    small = nn.functional.interpolate(shown, (16, 16), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    with torch.no_grad():
        expected = model(normalise(small, own))[0]
    torch.testing.assert_close(
        found["bookmark"], (expected["bookmark"] / 2).log_softmax(1), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(found["sanity"], expected["sanity"].log_softmax(1), rtol=1e-3, atol=1e-4)


def test_an_ensemble_teaches_by_its_mean() -> None:
    members = tuple(
        Member(
            version=str(i),
            backbone=NARROW,
            hidden=0,
            mean=(0.5, 0.4, 0.3) if i else tuple(PREPROCESS.mean),  # type: ignore[arg-type]
            std=tuple(PREPROCESS.std),  # type: ignore[arg-type]
            losses={head.name: head.loss_name for head in HEADS},
            calibrations={"bookmark": {"temperature": 1.0 + i}, "sanity": {}},
            shares=dict.fromkeys(("bookmark", "sanity"), (0.25, 0.75)[i]),
        )
        for i in (0, 1)
    )
    network = network_of_card(card_for(HEADS, members=members))
    alone = [settled_model(seed=i) for i in (0, 1)]
    network.load_state_dict(
        {f"members.{i}.{name}": t for i, model in enumerate(alone) for name, t in model.state_dict().items()}
    )
    teacher = teacher_of(network, HEADS, members=members, temperatures={"bookmark": 1.5})
    found = teacher.answers(seen(), PLAIN)["bookmark"]
    shown = torch.from_numpy(pixels(4, seed=3))
    with torch.no_grad():
        parts = [
            calibrated(
                COUNT_HEAD,
                model(normalise(shown, replace(PREPROCESS, mean=m.mean)))[0]["bookmark"],
                m.calibrations["bookmark"],
            )
            for model, m in zip(alone, members, strict=True)
        ]
    expected = pooled(COUNT_HEAD, parts, (0.25, 0.75)) / 1.5
    torch.testing.assert_close(found, expected.log_softmax(1), rtol=1e-3, atol=1e-4)


def test_a_number_is_told_in_the_students_unit() -> None:
    own = FITTED["value"]
    assert isinstance(own, ValueHead)
    student = replace(own, mean=1.0, std=2.0)
    teacher = teacher_of(frozen([own]), [own], student=[student])
    found = teacher.answers(seen(), PLAIN)["beauty"]
    assert own.mean is not None
    same = teacher_of(frozen([own]), [own]).answers(seen(), PLAIN)["beauty"]
    torch.testing.assert_close(found, (same * 0.6 + 0.3 - 1.0) / 2.0)


# Labels and teacher together


def test_rows_without_labels_learn_from_the_teacher_alone() -> None:
    other = frozen(HEADS, seed=1)
    images = without_labels(6, HEADS)
    full, half, none = (
        gradients(taught(frozen(HEADS), HEADS, t), images)
        for t in (teacher_of(other, HEADS, 1.0), teacher_of(other, HEADS, 0.5), None)
    )
    assert norm(none) == 0
    for name, gradient in full.items():
        torch.testing.assert_close(half[name], 0.5 * gradient, rtol=1e-4, atol=1e-7)


def test_labels_and_teacher_weigh_what_they_are_told() -> None:
    other, images = frozen(HEADS, seed=1), batch(6, missing=0.3)
    labels, teacher, both = (
        gradients(taught(frozen(HEADS), HEADS, t), images)
        for t in (None, teacher_of(other, HEADS, 1.0), teacher_of(other, HEADS, 0.7))
    )
    nothing = {name: torch.full_like(target, -1) for name, target in images.targets.items()}
    unlabelled = gradients(
        taught(frozen(HEADS), HEADS, teacher_of(other, HEADS, 1.0)), replace(images, targets=nothing)
    )
    for name in labels:
        torch.testing.assert_close(teacher[name], unlabelled[name])
        expected = 0.3 * labels[name] + 0.7 * teacher[name]
        torch.testing.assert_close(both[name], expected, rtol=1e-3, atol=1e-6)


def test_a_head_that_the_teacher_lacks_learns_from_labels_as_ever() -> None:
    other, images = frozen([COUNT_HEAD], seed=1), batch(6)
    teacher = teacher_of(other, [COUNT_HEAD], 0.7, student=HEADS)
    alone, beside = (gradients(taught(frozen(HEADS), HEADS, t), images) for t in (None, teacher))
    name = "outputs.sanity_logits.weight"
    torch.testing.assert_close(beside[name], alone[name])
    name = "outputs.bookmark_logits.weight"
    assert not torch.allclose(beside[name], alone[name])


@pytest.mark.parametrize(
    "recipe",
    [{"r_drop": 1.0, "dropout": 1e-9}, {"adversarial": 1e-9}, {"accumulate": 2}, {"gradient": "pcgrad"}],
    ids=str,
)
def test_with_the_other_options_a_student_that_is_its_own_teacher_stays(recipe: dict[str, Any]) -> None:
    own, other = (teacher_of(frozen(HEADS, seed), HEADS) for seed in (0, 1))
    images = without_labels(6, HEADS)
    still, moved = (gradients(taught(frozen(HEADS), HEADS, t, **recipe), images) for t in (own, other))
    assert norm(still) < 1e-4 * norm(moved)


def test_the_teacher_stays_as_it_is_in_eval_mode() -> None:
    model = settled_model(seed=1)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fitter = taught(seeded(MultiHeadModel), HEADS, teacher_of(model, HEADS, 0.5))
    for step in range(2):
        fitter.train_step(batch(6, step))
    assert not model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


# Two workers

SIZE = 4


def joint(fitter: Fitter, rows: slice) -> dict[str, Any]:
    """Losses and gradient of steps on a part of the joint batch; in the third DDP reduces as it computes."""
    losses = []
    for step in (1, 2, 3):
        losses.append(fitter.train_step(part(batch(2 * SIZE, step, missing=0.4), rows)).loss)
    return {
        "losses": losses,
        "gradient": {n: p.grad.clone() for n, p in fitter.model.named_parameters() if p.grad is not None},
    }


def student(*, distributed: bool, resamples: bool) -> Fitter:
    network = frozen_copy()
    resampled = replace(COUNT_HEAD, counts=(40, 35, 30, 25)) if resamples else None
    teacher = None if resamples else teacher_of(frozen(HEADS, seed=1), HEADS, 0.7)
    return Fitter(
        DistributedDataParallel(network) if distributed else network,
        HEADS,
        PREPROCESS,
        Recipe(total_steps=20, clip_norm=1e9, learning_rate=1e-4),
        CPU,
        Objective(HEADS, resampled=resampled, teacher=teacher),
    )


def both_options(rank: int) -> dict[str, Any]:
    mine = slice(rank * SIZE, (rank + 1) * SIZE)
    return {str(r): joint(student(distributed=True, resamples=r), mine) for r in (False, True)}


@pytest.mark.slow
def test_two_workers_have_the_gradient_of_one_with_the_joint_batch(tmp_path: Path) -> None:
    workers = on_two_workers(both_options, tmp_path)
    for resamples in (False, True):
        alone = joint(student(distributed=False, resamples=resamples), slice(None))
        for worker in workers:
            found = worker[str(resamples)]
            assert found["losses"] == pytest.approx(alone["losses"], rel=1e-3)
            apart = {name: found["gradient"][name] - g for name, g in alone["gradient"].items()}
            assert norm(apart) < 1e-3 * norm(alone["gradient"])
