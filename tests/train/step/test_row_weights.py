"""A row's weight multiplies its labels' loss in a training step, whatever the loss, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from pix2score.heads.compared import MAX_IMAGES, TARGET_SIZE
from pix2score.heads.spec import HeadSpec
from pix2score.train.embedded import EmbeddedRows
from pix2score.train.rows import batch_of
from pix2score.train.step.batch import Batch
from pix2score.train.step.consistency import disagreements
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.losses import head_losses, multi_head_loss
from pix2score.train.step.probe import Probe, output_of
from pix2score.train.step.recipe import Recipe
from tests.support.every_head import FITTED
from tests.support.settings import worker_settings
from tests.support.torch_helpers import (
    CPU,
    HEADS,
    NARROW_DIM,
    PREPROCESS,
    batch,
    fitter_of,
    frozen_copy,
    on_two_workers,
    settled_model,
)

NAN = math.nan
_UNRANKED = [NAN] * (TARGET_SIZE - 4)
TARGETS = {
    "bins": torch.tensor([0, 2, -1, 1]),
    "levels": torch.tensor([1, 0, -1, 1]),
    "binary": torch.tensor([1, 0, -1, 1]),
    "value": torch.tensor([0.5, -1.0, NAN, 2.0]),
    "classes": torch.tensor([2, 0, -1, 1]),
    "distribution": torch.tensor([[0.5, 0.25, 0.25, 0.8], [0, 1, 0, 0.4], [NAN] * 4, [0.1, 0.2, 0.7, 0.9]]),
    "tags": torch.tensor([[1, 0, 1], [0, 0, 0], [-1, -1, -1], [0, 1, 0]], dtype=torch.int8),
    "preference": torch.tensor(
        [[1.0, NAN, 1, 2, *_UNRANKED], [0.5, NAN, 2, 1, *_UNRANKED], [NAN] * TARGET_SIZE,
         [2.0, NAN, 1, 1, *_UNRANKED]]
    ),
}  # fmt: skip
"""Kind -> targets of four rows, the third without a label."""
ALONE = [(kind, loss) for kind, head in FITTED.items() for loss in head.LOSSES if loss != "pairwise"]
"""Every loss in which a row's part does not depend on the others."""


def loss_of(
    head: HeadSpec, outputs: Tensor, target: Tensor, weights_B: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sum and mass."""
    sums = multi_head_loss({head.name: outputs}, {head.name: target}, [head], weights_B)
    return sums.loss_sum[head.name], sums.num_labelled[head.name]


def outputs_of(head: HeadSpec, target: Tensor) -> Tensor:
    width = MAX_IMAGES if head.COMPARES else head.num_outputs
    return torch.randn(len(target), width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("kind", "loss"), ALONE)
def test_each_row_costs_its_weight_times_what_it_costs_alone(kind: str, loss: str) -> None:
    head, target = replace(FITTED[kind], loss=loss), TARGETS[kind]
    outputs, weights_B = outputs_of(head, target), torch.tensor([2.0, 0.25, 8.0, 0.0])
    total, mass = loss_of(head, outputs, target, weights_B)
    alone = [loss_of(head, outputs[i : i + 1], target[i : i + 1], None)[0] for i in range(4)]
    assert float(alone[0]) > 0
    torch.testing.assert_close(total, 2 * alone[0] + 0.25 * alone[1])
    assert float(mass) == 2.25
    plain, count = loss_of(head, outputs, target, None)
    torch.testing.assert_close(plain, sum(alone))
    assert int(count) == 3


@pytest.mark.parametrize("kind", ["bins", "levels", "value"])
def test_in_a_loss_of_order_a_row_weighs_with_all_its_pairs(kind: str) -> None:
    head, target = replace(FITTED[kind], loss="pairwise"), TARGETS[kind]
    outputs = outputs_of(head, target)
    costs = [loss_of(head, outputs, target, torch.eye(4)[i])[0] for i in range(4)]
    total, _ = loss_of(head, outputs, target, torch.tensor([2.0, 0.25, 8.0, 1.0]))
    torch.testing.assert_close(total, 2 * costs[0] + 0.25 * costs[1] + costs[3])
    torch.testing.assert_close(loss_of(head, outputs, target, None)[0], sum(costs))


def test_two_answers_that_differ_weigh_as_their_row_does() -> None:
    head, target = FITTED["bins"], TARGETS["bins"]
    a, b = outputs_of(head, target), outputs_of(head, target) * 0.3
    weights_B = torch.tensor([3.0, 1.0, 5.0, 0.0])
    mass = {head.name: torch.tensor(4.0)}

    def apart(rows: Any, weights: Tensor | None, mass: dict[str, Tensor]) -> Tensor:
        name = head.name
        return disagreements({name: a[rows]}, {name: b[rows]}, {name: target[rows]}, mass, [head], weights)

    alone = [apart([i], None, {head.name: torch.tensor(1)}) for i in (0, 1)]
    torch.testing.assert_close(apart(slice(None), weights_B, mass), (3 * alone[0] + alone[1]) / 4)


def weighted(size: int, seed: int = 0) -> Batch:
    """Rows of weights 0, 1, 2, 0 … of which a fifth of the labels is missing."""
    return replace(batch(size, seed, missing=0.2), weights_B=(torch.arange(size) % 3).float())


def gradient_of(fitter: Fitter) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in fitter.model.named_parameters() if p.grad is not None}


UNCLIPPED = {"learning_rate": 1e-4, "clip_norm": 1e9}
"""Clipping would hide a wrong scale of the gradient."""


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_that_of_each_row_as_often_as_it_weighs(accumulate: int) -> None:
    rows = weighted(9)
    often = torch.arange(9).repeat_interleave(torch.arange(9) % 3)
    repeated = replace(rows.rows(often), weights_B=None)
    one, other = (fitter_of(frozen_copy(), **UNCLIPPED, accumulate=accumulate) for _ in range(2))
    found, wanted = one.train_step(rows), other.train_step(repeated)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    for name, gradient in gradient_of(other).items():
        torch.testing.assert_close(gradient_of(one)[name], gradient, rtol=1e-3, atol=1e-6)


def test_rows_of_small_weight_are_a_mean_too() -> None:
    rows = batch(4)
    light = replace(rows, weights_B=torch.full((4,), 0.01))
    one, other = (fitter_of(frozen_copy(), **UNCLIPPED) for _ in range(2))
    assert one.train_step(light).loss == pytest.approx(other.train_step(rows).loss, rel=1e-5)


def test_rows_of_no_weight_are_a_finite_step_without_a_loss() -> None:
    result = fitter_of(frozen_copy()).train_step(replace(batch(4), weights_B=torch.zeros(4)))
    assert (result.loss, result.skipped) == (0.0, False)


def test_validation_counts_every_row_the_same() -> None:
    fitter, rows = fitter_of(settled_model()), weighted(12)
    plain, found = (fitter.validate([b]) for b in (replace(rows, weights_B=None), rows))
    assert [m.result() for m in found] == [m.result() for m in plain]


def test_solved_outputs_are_those_of_each_row_as_often_as_it_weighs() -> None:
    embeddings = torch.from_numpy(np.random.default_rng(0).normal(size=(30, NARROW_DIM))).float()
    rows = replace(batch(30, seed=1), weights_B=(torch.arange(30) % 3).float())
    rows = replace(rows, pixels_BSSC=embeddings)
    heads = HEADS
    losses = []
    for given in (rows, replace(rows.rows(torch.arange(30).repeat_interleave(torch.arange(30) % 3)),
                                weights_B=None)):  # fmt: skip
        model = settled_model()
        probe = Probe(model, given, heads, Recipe(), CPU)
        probe._mean_D, probe._scale_D = (
            torch.zeros(NARROW_DIM),
            torch.ones(NARROW_DIM),
        )  # which are of rows, not of labels
        probe.solve(heads, 0.1)
        losses.append([output_of(model, head).weight.detach() for head in heads])
    for found, wanted in zip(*losses, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0.02, atol=2e-3)


def test_weights_go_from_the_shard_to_the_batch_and_with_its_rows() -> None:
    rows = weighted(6)
    small = replace(PREPROCESS, size=8)
    columns: dict[str, Any] = {"pixels": pa.array([bytes(192)] * 6, pa.binary(192))}
    for head in HEADS:
        labels = pa.array([None if np.isnan(v) else v for v in rows.labels[head.name].tolist()])
        columns |= {head.target_field().name: head.encode(labels), f"{head.name}_label": labels}
    made = batch_of(pa.table({**columns, "weight": pa.array(range(6), pa.float32())}), HEADS, small)
    assert made.weights_B is not None
    assert made.weights_B.tolist() == [0, 1, 2, 3, 4, 5]
    assert batch_of(pa.table(columns), HEADS, small).weights_B is None
    picked = made.rows(torch.tensor([5, 1])).to(CPU).weights_B
    assert picked is not None
    assert picked.tolist() == [5, 1]
    assert [p.weights_B.tolist() for p in made.pieces(2) if p.weights_B is not None] == [[0, 1, 2], [3, 4, 5]]


def test_embedded_rows_keep_their_weights() -> None:
    rows = weighted(10)

    def read(split: str) -> Iterator[Batch]:
        yield from rows.pieces(3)

    model = settled_model()
    model.trunk.requires_grad_(False)
    found = EmbeddedRows(fitter_of(model), worker_settings(), 4, read).whole("train").weights_B
    assert found is not None
    assert rows.weights_B is not None
    assert torch.equal(found, rows.weights_B)


def halves(rank: int) -> dict[str, Any]:
    """One worker's gradient after a step on its half."""
    fitter = fitter_of(frozen_copy(), **UNCLIPPED)
    result = fitter.train_step(weighted(12, 5).rows(slice(6 * rank, 6 * rank + 6)))
    return {"gradient": gradient_of(fitter), "loss": result.loss}


@pytest.mark.slow
def test_two_workers_have_the_gradient_of_one_with_both_halves(tmp_path: Path) -> None:
    alone = fitter_of(frozen_copy(), **UNCLIPPED)
    loss = alone.train_step(weighted(12, 5)).loss
    for found in on_two_workers(halves, tmp_path):
        assert found["loss"] == pytest.approx(loss, rel=1e-5)
        for name, gradient in gradient_of(alone).items():
            torch.testing.assert_close(found["gradient"][name], gradient, rtol=1e-3, atol=1e-6)


def test_head_losses_divide_by_the_mass_of_all_workers() -> None:
    head, target = FITTED["bins"], TARGETS["bins"]
    outputs, weights_B = outputs_of(head, target), torch.tensor([0.5, 0.1, 9.0, 0.2])
    whole = multi_head_loss({head.name: outputs}, {head.name: target}, [head], weights_B)
    joint = head_losses(whole, whole.num_labelled, [head])
    parts = [
        multi_head_loss({head.name: outputs[s]}, {head.name: target[s]}, [head], weights_B[s])
        for s in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(head_losses(part, whole.num_labelled, [head]) for part in parts), joint)
