"""A loss of order: it falls as images come into the order of their labels, whatever the distances."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor

from pix2score.heads.value import ValueHead
from pix2score.metrics.formulas import rank_correlation
from pix2score.train.step.losses import LOSSES
from pix2score.train.step.losses_pairwise import odds_of_bins, pair_cost
from tests.support.torch_helpers import COUNT_HEAD

BINS = replace(COUNT_HEAD, loss="pairwise")
VALUE = ValueHead(name="v", column="v", loss="pairwise")


def value_cost(outputs: list[float], labels: list[float]) -> float:
    return float(
        LOSSES["pairwise"](torch.tensor(outputs, dtype=torch.float32)[:, None], torch.tensor(labels), VALUE)
    )


def test_the_cost_of_numbers_is_that_of_ranknet_over_every_pair_of_unequal_labels() -> None:
    outputs, labels = [0.3, -1.0, 2.0, 0.5], [1.0, 5.0, 5.0, 7.0]
    of_pair: dict[int, list[float]] = {i: [] for i in range(4)}
    for i, j in combinations(range(4), 2):
        if labels[i] != labels[j]:
            sign = 1 if labels[i] > labels[j] else -1
            cost = math.log(1 + math.exp(-sign * (outputs[i] - outputs[j])))
            of_pair[i].append(cost)
            of_pair[j].append(cost)
    wanted = sum(sum(costs) / len(costs) for costs in of_pair.values())
    assert value_cost(outputs, labels) == pytest.approx(wanted, rel=1e-5)


def test_only_the_order_of_labels_counts() -> None:
    outputs = [0.3, -1.0, 2.0]
    assert value_cost(outputs, [1, 2, 3]) == pytest.approx(value_cost(outputs, [1, 2, 1e6]))
    assert (
        value_cost([0, 1, 2], [1, 2, 3]) < value_cost([0, 0, 0], [1, 2, 3]) < value_cost([2, 1, 0], [1, 2, 3])
    )


def test_a_missing_label_is_in_no_pair_and_an_image_without_partner_costs_what_chance_does() -> None:
    outputs = torch.tensor([[0.3], [9.0], [2.0]], requires_grad=True)
    loss = LOSSES["pairwise"](outputs, torch.tensor([1.0, math.nan, 2.0]), VALUE)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(value_cost([0.3, 2.0], [1, 2]))
    assert outputs.grad is not None and outputs.grad[1] == 0 and outputs.grad[0] > 0 > outputs.grad[2]
    assert value_cost([0.3, 2.0], [1, 1]) == pytest.approx(2 * math.log(2))


def test_odds_of_bins_are_those_of_drawing_a_bin_for_each_image() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4)
    odds, probs = odds_of_bins(logits), logits.softmax(1)
    for i, j in combinations(range(3), 2):
        joint = probs[i][:, None] * probs[j]
        above, below = joint.tril(-1).sum(), joint.triu(1).sum()
        assert float(odds[i, j]) == pytest.approx(float((above / below).log()), abs=1e-4)
    assert torch.allclose(odds, -odds.T)


def test_two_images_that_are_sure_of_the_wrong_bin_still_send_a_gradient() -> None:
    logits = torch.tensor([[60.0, 0, 0, 0], [0, 0, 0, 60.0]], requires_grad=True)
    cost = pair_cost(odds_of_bins(logits), torch.tensor([3, 0])).sum()
    cost.backward()
    assert torch.isfinite(cost) and logits.grad is not None and torch.isfinite(logits.grad).all()


def learnt(loss: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities, and true bins, of a linear layer that learnt 256 images of noisy counts."""
    torch.manual_seed(seed)
    signal = torch.randn(256, 1)
    bins = torch.bucketize(signal[:, 0] + 0.5 * torch.randn(256), torch.tensor([-0.3, 0.5, 1.2]))
    counts = tuple(torch.bincount(bins, minlength=4).tolist())
    head = replace(BINS, loss=loss, counts=counts)
    layer = torch.nn.Linear(1, 4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (LOSSES[loss](layer(signal), bins, head) / 256).backward()
        optimizer.step()
    return layer(signal).softmax(1).detach(), bins


def test_bins_learn_the_order_and_still_have_the_shares_of_the_train_split() -> None:
    probs, bins = learnt("pairwise")
    ordinal, _ = learnt("ordinal")
    shares = torch.bincount(bins, minlength=4) / 256
    assert (probs.mean(0) - shares).abs().max() < 0.05
    expected, plain = ((p @ torch.arange(4.0)).double().numpy() for p in (probs, ordinal))
    ours, theirs = (rank_correlation(x, bins.double().numpy()) for x in (expected, plain))
    assert ours is not None and theirs is not None and ours > theirs - 0.01
