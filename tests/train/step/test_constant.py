"""Every head starts at the constant answer, which costs 1 in every loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.heads.ordered import OrderedHead
from pix2score.train.step.losses import LOSSES


@pytest.mark.parametrize("loss", OrderedHead.LOSSES)
@given(st.lists(st.integers(50, 5000), min_size=2, max_size=15))
@settings(max_examples=25)
def test_a_head_starts_at_the_best_constant_answer_which_costs_1(loss: str, counts: list[int]) -> None:
    head = OrderedHead(name="h", column="c", kind="levels", size=len(counts), loss=loss, counts=tuple(counts))
    bias, target = head.initial_bias(), torch.arange(len(counts))
    assert bias is not None
    outputs = torch.from_numpy(bias)[None].repeat(len(counts), 1)

    def cost(shift: float = 0.0) -> float:
        moved = (
            outputs
            + torch.nn.functional.one_hot(torch.zeros(len(counts), dtype=torch.int64), len(counts)) * shift
        )
        by_bin = [LOSSES[loss](moved[k : k + 1], target[k : k + 1], head) * n for k, n in enumerate(counts)]
        return float(sum(by_bin) / sum(counts) / head.null_cost)

    assert cost() == pytest.approx(1, abs=2e-3)
    if loss != "squared_emd":  # whose best constant the shares are not
        assert min(cost(0.3), cost(-0.3)) > cost() - 1e-3
