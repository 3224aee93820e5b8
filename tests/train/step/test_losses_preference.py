"""The loss of ranked sets, and batches whose rows hold several images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pix2score.heads.compared import MAX_IMAGES, TARGET_SIZE
from pix2score.heads.preference import PreferenceHead
from pix2score.train.embedded import EmbeddedRows
from pix2score.train.step.batch import Batch, Others
from pix2score.train.step.collectives import gather_metrics
from pix2score.train.step.losses import LOSSES, head_losses, multi_head_loss
from pix2score.train.step.losses_preference import CENTRING
from tests.support.settings import worker_settings
from tests.support.torch_helpers import (
    COUNT_HEAD,
    PREPROCESS,
    FrozenNormModel,
    fitter_of,
    on_two_workers,
    pixels,
    seeded,
    settled_model,
    state_of,
)

HEAD = PreferenceHead(name="liked")
HEADS = (COUNT_HEAD, HEAD)


def target(*ranks: float, weight: float = 1.0) -> list[float]:
    return [weight, math.nan, *ranks, *[math.nan] * (TARGET_SIZE - 2 - len(ranks))]


def rewards(*values: float) -> list[float]:
    return [*values, *[0.0] * (MAX_IMAGES - len(values))]


def loss(given: list[list[float]], targets: list[list[float]]) -> float:
    return float(LOSSES["bradley_terry"](torch.tensor(given), torch.tensor(targets), HEAD))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_a_pair_costs_the_log_chance_of_its_order_and_its_distance_from_0() -> None:
    assert loss([rewards(2, 1)], [target(1, 2)]) == pytest.approx(softplus(-1) + CENTRING * 9)
    assert loss([rewards(2, 1)], [target(2, 1)]) == pytest.approx(softplus(1) + CENTRING * 9)


def test_a_tie_is_half_of_each_order() -> None:
    assert loss([rewards(2, 1)], [target(1, 1)]) == pytest.approx(
        (softplus(-1) + softplus(1)) / 2 + CENTRING * 9
    )


def test_a_set_costs_the_mean_of_its_pairs_times_its_weight_and_empty_rows_nothing() -> None:
    pairs = ((2, 1), (2, 0.5), (1, 0.5))  # rewards of the better and the worse image
    one = sum(softplus(b - a) + CENTRING * (a + b) ** 2 for a, b in pairs) / 3
    none = [math.nan] * TARGET_SIZE
    assert loss([rewards(2, 0.5, 1), rewards(9, 9)], [target(1, 3, 2), none]) == pytest.approx(one)
    assert loss([rewards(2, 0.5, 1)], [target(1, 3, 2, weight=4)]) == pytest.approx(4 * one)


def test_equal_rewards_cost_1_and_a_batch_without_sets_0_with_a_gradient_of_0() -> None:
    outputs = torch.zeros(2, MAX_IMAGES, requires_grad=True)
    some = torch.tensor([target(1, 2), target(3, 1, 2)])
    for targets, expected in ((some, 1.0), (torch.full_like(some, math.nan), 0.0)):
        sums = multi_head_loss({"liked": outputs}, {"liked": targets}, [HEAD])
        (found,) = head_losses(sums, sums.num_labelled, [HEAD])
        assert float(found.detach()) == pytest.approx(expected)
        found.backward()
        assert outputs.grad is not None
        assert bool(outputs.grad.isfinite().all())


def mixed_batch(seed: int = 0) -> Batch:
    """Six rows: a set of two, two images with a count, a set of three, an image, a set of two."""
    counts = torch.tensor([1, 0, 0, 2, 0, 1])
    missing = [math.nan] * TARGET_SIZE
    liked = [target(1, 2), missing, missing, target(2, 1, 3), missing, target(2, 1)]
    bins = torch.tensor([-1, 0, 3, -1, 2, -1])
    return Batch(
        torch.from_numpy(pixels(6, seed)),
        {"bookmark": bins, "liked": torch.tensor(liked)},
        {"bookmark": bins.double(), "liked": torch.tensor(liked)[:, 2:].double()},
        Others(torch.from_numpy(pixels(4, seed + 1)), counts),
    )


def sets_of(batch: Batch) -> list[tuple[float, list[float]]]:
    """Of each row, a number of its first image and of each other: that they stay together."""
    others = batch.others
    assert others is not None
    means = iter(others.pixels_MSSC.double().mean((1, 2, 3)).tolist())
    firsts = batch.pixels_BSSC.double().mean((1, 2, 3)).tolist()
    return [
        (one, [next(means) for _ in range(n)])
        for one, n in zip(firsts, others.counts_B.tolist(), strict=True)
    ]


@pytest.mark.parametrize("number", [2, 3, 6])
def test_pieces_keep_the_images_of_a_row_together(number: int) -> None:
    whole = mixed_batch()
    assert [row for piece in whole.pieces(number) for row in sets_of(piece)] == sets_of(whole)
    chosen = torch.tensor([False, True, False, True, True, False])
    assert sets_of(whole.rows(chosen)) == [
        row for row, keep in zip(sets_of(whole), chosen, strict=True) if keep
    ]


def test_outputs_of_images_come_to_their_rows_and_gradients_go_back() -> None:
    batch = mixed_batch()
    assert len(batch.images) == 10
    outputs = torch.arange(10.0)[:, None].requires_grad_()
    found = batch.by_row({"liked": outputs, "bookmark": outputs.expand(10, 4)}, HEADS)
    assert found["bookmark"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["liked"][:, :3].tolist() == [
        [0, 6, 0],
        [1, 0, 0],
        [2, 0, 0],
        [3, 7, 8],
        [4, 0, 0],
        [5, 9, 0],
    ]
    found["liked"].sum().backward()
    assert outputs.grad is not None
    assert outputs.grad[:, 0].tolist() == [1.0] * 10


def gradient(accumulate: int) -> list[Tensor]:
    model = seeded(FrozenNormModel, heads=HEADS)
    fitter = fitter_of(model, HEADS, accumulate=accumulate, clip_norm=1e9)
    before = [p.detach().clone() for p in model.parameters()]
    result = fitter.train_step(mixed_batch())
    assert set(result.loss_by_head) == {"bookmark", "liked"}
    return [torch.tensor(result.loss), *(p.grad for p in model.parameters() if p.grad is not None), before[0]]


def test_a_step_of_mixed_rows_is_the_same_in_pieces() -> None:
    for whole, pieces in zip(gradient(1), gradient(3), strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-3, atol=1e-5)


def test_steps_learn_which_images_are_preferred() -> None:
    bright = torch.full((16, 32, 32, 3), 200, dtype=torch.uint8)
    dark = torch.full((16, 32, 32, 3), 40, dtype=torch.uint8)
    noise = torch.randint(
        0, 40, (32, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    swapped = (torch.arange(16) % 2).bool()
    first = torch.where(swapped[:, None, None, None], dark, bright) + noise[:16]
    second = torch.where(swapped[:, None, None, None], bright, dark) + noise[16:]
    ranks = torch.tensor([target(2, 1) if s else target(1, 2) for s in swapped.tolist()])
    batch = Batch(
        first, {"liked": ranks}, {"liked": ranks[:, 2:]}, Others(second, torch.ones(16, dtype=torch.int64))
    )
    fitter = fitter_of(
        seeded(FrozenNormModel, heads=(HEAD,)), (HEAD,), learning_rate=1e-3, warmup_fraction=0.0
    )
    for _ in range(8):
        fitter.train_step(batch)
    (metrics,) = fitter.validate([batch])
    assert metrics.result()["pair_accuracy"] == 1.0
    assert metrics.num_labelled == 16
    assert metrics.relative_loss() < 0.5
    assert PREPROCESS.size == 32
    assert np.isclose(metrics.calibrated().result()["nll"] / math.log(2), metrics.relative_loss())  # type: ignore[operator]


class MixedRows:
    """Batches of which some have no set, for a trunk that stays as it is."""

    def __init__(self) -> None:
        whole = mixed_batch()
        self.parts = [
            whole.rows(torch.tensor([1, 2])),
            whole.rows(torch.tensor([0, 3])),
            whole.rows(slice(4, 6)),
        ]
        self.parts[0] = Batch(self.parts[0].pixels_BSSC, self.parts[0].targets, self.parts[0].labels)

    def __call__(self, split: str) -> Iterator[Batch]:
        assert split == "val"
        yield from self.parts


def test_sets_keep_their_images_where_each_is_embedded_once() -> None:
    fitter, rows = fitter_of(settled_model(HEADS), HEADS), MixedRows()
    fitter.model.trunk.requires_grad_(False)
    settings = worker_settings(heads=HEADS, batch_size=6, steps_per_epoch=1)
    (embedded,) = EmbeddedRows(fitter, settings, 6, rows).batches("val", 0)
    assert embedded.others is not None
    assert embedded.others.counts_B.tolist() == [0, 0, 1, 2, 0, 1]
    (of_embedded, liked), (_, expected) = fitter.validate([embedded]), fitter.validate(rows.parts)
    assert of_embedded.num_labelled == 3
    assert liked.result()["nll"] == pytest.approx(expected.result()["nll"], rel=1e-4)


def half_of_it(number: int) -> dict[str, Any]:
    """What a worker does with three rows of the batch; one has a set of two, the other two sets."""
    torch.set_num_threads(1)
    network = DistributedDataParallel(seeded(FrozenNormModel, heads=HEADS))
    fitter = fitter_of(network, HEADS, clip_norm=1e9)
    result = fitter.train_step(mixed_batch().rows(slice(3 * number, 3 * number + 3)))
    metrics = gather_metrics(fitter.validate([mixed_batch().rows(slice(3 * number, 3 * number + 3))]))
    return {"loss": result.loss_by_head, "state": state_of(fitter.model), "sets": metrics[1].num_labelled}


@pytest.mark.slow
def test_two_workers_take_the_step_of_one_with_the_sets_of_both(tmp_path: Path) -> None:
    alone = fitter_of(seeded(FrozenNormModel, heads=HEADS), HEADS, clip_norm=1e9)
    loss = alone.train_step(mixed_batch()).loss_by_head
    for worker in on_two_workers(half_of_it, tmp_path / "workers"):
        assert worker["sets"] == 3
        assert worker["loss"] == pytest.approx(loss, rel=1e-4)
        for name, tensor in state_of(alone.model).items():
            torch.testing.assert_close(worker["state"][name], tensor, rtol=1e-3, atol=2e-4)
