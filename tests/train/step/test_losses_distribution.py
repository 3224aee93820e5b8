"""Losses of votes: the constant answer costs 1, an image counts by its votes, a missing one not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from pix2score.storage.arrow import fixed_lists
from pix2score.train.step.losses import head_losses, multi_head_loss
from tests.support.votes import HEAD, fitted, votes

LOSSES = ("cross_entropy", "squared_emd")


@pytest.mark.parametrize("loss", LOSSES)
def test_the_prior_costs_one_and_no_other_constant_costs_less(loss: str) -> None:
    given = votes(400)
    head = replace(fitted(given), loss=loss)
    target = torch.tensor(head.targets(pa.chunked_array([head.encode(fixed_lists(given))])))

    def cost(bias_K: torch.Tensor) -> float:
        sums = multi_head_loss({"votes": bias_K.expand(400, 3)}, {"votes": target}, [head])
        return float(head_losses(sums, sums.num_labelled, [head]))

    prior = torch.from_numpy(head.initial_bias())
    assert cost(prior) == pytest.approx(1, abs=2e-3)
    for change in torch.eye(3):
        assert cost(prior) < min(cost(prior + 0.3 * change), cost(prior - 0.3 * change))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_missing_label_costs_nothing_and_sends_no_gradient(loss: str) -> None:
    given = votes(4)
    head = replace(fitted(given), loss=loss)
    target = torch.tensor(head.targets(pa.chunked_array([head.encode(fixed_lists(given))])))
    target[1] = torch.nan
    logits = torch.randn(4, 3, requires_grad=True)
    sums = multi_head_loss({"votes": logits}, {"votes": target}, [head])
    sums.loss_sum["votes"].backward()
    assert int(sums.num_labelled["votes"]) == 3
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert not logits.grad[1].any() and logits.grad[0].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_of_many_votes_weighs_more(loss: str) -> None:
    given = np.array([[1, 0, 0], [90, 5, 5], [10, 0, 20]], dtype=np.float32)
    head = replace(fitted(given), loss=loss)
    target = torch.tensor(head.targets(pa.chunked_array([head.encode(fixed_lists(given))])))
    doubled = target.clone()
    doubled[1, 3] *= 2

    def of_row_1(target_BL: torch.Tensor) -> float:
        sums = multi_head_loss({"votes": torch.zeros(1, 3)}, {"votes": target_BL[1:2]}, [head])
        return float(sums.loss_sum["votes"])

    assert of_row_1(doubled) == pytest.approx(2 * of_row_1(target))
    assert target[1, 3] > 2 * target[0, 3]


def test_squared_emd_is_least_where_the_answer_is_the_shares_and_grows_with_the_distance() -> None:
    head = replace(HEAD, loss="squared_emd")
    target = torch.tensor([[1.0, 0.0, 0.0, 1.0]])

    def cost(shares: list[float]) -> float:
        logits = torch.tensor([shares]).clamp(1e-9).log()
        return float(multi_head_loss({"votes": logits}, {"votes": target}, [head]).loss_sum["votes"])

    assert cost([1, 0, 0]) == pytest.approx(0, abs=1e-6)
    assert 0 < cost([0, 1, 0]) < cost([0, 0, 1])
