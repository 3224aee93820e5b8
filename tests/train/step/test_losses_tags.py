"""Losses of tags: the prevalences cost 1, missing rows nothing, and what is common or easy weighs less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pix2score.heads.tags import TagsHead
from pix2score.train.step.batch import Batch, is_labelled, noisy_targets
from pix2score.train.step.losses import head_losses, multi_head_loss

COUNTS, NUM = (400, 100, 30), 1000
HEAD = TagsHead(name="tag", column="tags", tags=("a", "b", "c"), counts=COUNTS, num_tagged=NUM)
LOSSES = ("bce", "asymmetric", "frequency")


def train_targets() -> Tensor:
    """The train split that the head's counts are of, and an image that is not tagged."""
    target = torch.zeros((NUM + 1, 3), dtype=torch.int8)
    for tag, count in enumerate(COUNTS):
        target[:count, tag] = 1
    target[-1] = -1
    return target


def loss(head: TagsHead, logits: Tensor, target: Tensor) -> Tensor:
    sums = multi_head_loss({"tag": logits}, {"tag": target}, [head])
    return head_losses(sums, sums.num_labelled, [head])[0]


def prior_logits(rows: int) -> Tensor:
    return torch.from_numpy(HEAD.initial_bias()).expand(rows, 3).clone()


@pytest.mark.parametrize("name", LOSSES)
def test_the_prevalences_cost_1(name: str) -> None:
    head = replace(HEAD, loss=name)
    assert loss(head, prior_logits(NUM + 1), train_targets()).item() == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_that_is_not_tagged_costs_nothing_and_moves_nothing(name: str) -> None:
    head, target = replace(HEAD, loss=name), train_targets()
    logits = torch.randn(NUM + 1, 3).requires_grad_()
    found = loss(head, logits, target)
    found.backward()
    assert logits.grad is not None
    assert not logits.grad[-1].any()
    assert logits.grad[:-1].abs().sum(1).min() > 0 or name == "asymmetric"
    assert found.item() == pytest.approx(loss(head, logits[:-1].detach(), target[:-1]).item())
    none = loss(head, logits[-1:], target[-1:])
    assert none.item() == 0
    assert is_labelled(target[-2:]).tolist() == [True, False]


@pytest.mark.parametrize("name", LOSSES)
def test_it_stays_finite_at_extreme_outputs(name: str) -> None:
    logits = torch.tensor([[80.0, -80.0, 0.0], [-80.0, 80.0, 0.0]]).requires_grad_()
    target = torch.tensor([[1, 0, 0], [1, 0, 1]], dtype=torch.int8)
    found = loss(replace(HEAD, loss=name), logits, target)
    found.backward()
    assert torch.isfinite(found)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_bce_is_the_likelihood_of_every_tag() -> None:
    logits, target = torch.randn(NUM, 3), train_targets()[:-1]
    prob = logits.sigmoid()
    exact = -torch.where(target == 1, prob.log(), (1 - prob).log()).sum() / NUM / HEAD.entropy
    assert loss(HEAD, logits, target).item() == pytest.approx(exact.item(), rel=1e-5)


def test_frequency_makes_a_rare_tag_weigh_more_but_at_most_ten_times() -> None:
    logits = torch.zeros(1, 3).requires_grad_()
    loss(replace(HEAD, loss="frequency"), logits, torch.ones((1, 3), dtype=torch.int8)).backward()
    assert logits.grad is not None
    ratio = (logits.grad[0] / logits.grad[0, 0]).tolist()
    assert ratio == pytest.approx(HEAD.weights.tolist(), rel=1e-5)
    assert ratio[2] > ratio[1] > ratio[0] == 1
    rarest = replace(HEAD, counts=(900, 0, 0))
    assert np.array_equal(rarest.weights, [1, 10, 10])


def test_asymmetric_ignores_negatives_that_are_easy() -> None:
    logits = torch.tensor([[-4.0, 2.0, -4.0]]).requires_grad_()
    loss(replace(HEAD, loss="asymmetric"), logits, torch.tensor([[0, 0, 1]], dtype=torch.int8)).backward()
    assert logits.grad is not None
    easy, hard, missed = logits.grad[0].tolist()
    assert easy == 0
    assert hard > 0 > missed


def test_label_noise_leaves_tags_alone() -> None:
    target = train_targets()
    batch = Batch(torch.zeros(len(target), 1, 1, 3), {HEAD.name: target}, {HEAD.name: target.double()})
    assert torch.equal(noisy_targets(batch, HEAD, 1.0), target)


def test_a_batch_in_pieces_keeps_whole_rows() -> None:
    target = train_targets()
    batch = Batch(
        torch.zeros((NUM + 1, 1, 1, 3), dtype=torch.uint8), {"tag": target}, {"tag": torch.zeros(NUM + 1)}
    )
    pieces = batch.pieces(4)
    assert torch.equal(torch.cat([piece.targets["tag"] for piece in pieces]), target)
