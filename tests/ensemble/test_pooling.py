"""Means of calibrated answers: torch's form of what numpy's answers say, for every kind of head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pix2score.heads.kinds import KINDS
from pix2score.heads.spec import HeadSpec
from pix2score.model.pooling import POOLS, calibrated, pooled
from tests.ensemble.heads import CALIBRATIONS, fitted

NUM = 6


def outputs_of(head: HeadSpec, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).normal(0, 2, (NUM, head.num_outputs)).astype(np.float32)


def test_every_kind_has_one() -> None:
    assert POOLS.keys() == KINDS.keys() == {head.kind for head in fitted()}


@pytest.mark.parametrize("head", fitted(), ids=lambda head: f"{head.kind} {head.loss_name}")
def test_calibrated_outputs_are_those_that_metrics_see(head: HeadSpec) -> None:
    raw, calibration = outputs_of(head, 1), CALIBRATIONS[head.kind]
    expected = head.measured(head.answer(raw, calibration))
    found = calibrated(head, torch.from_numpy(raw), calibration).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("head", fitted(), ids=lambda head: f"{head.kind} {head.loss_name}")
def test_the_mean_of_one_is_itself_and_a_share_of_nothing_does_not_count(head: HeadSpec) -> None:
    one, other = (
        calibrated(head, torch.from_numpy(outputs_of(head, seed)), CALIBRATIONS[head.kind]) for seed in (1, 2)
    )
    for parts, shares in (([one], [1.0]), ([one, other * torch.nan], [1.0, 0.0]), ([one, one], [0.3, 0.7])):
        torch.testing.assert_close(pooled(head, parts, shares), one, rtol=1e-4, atol=1e-4)


def test_probabilities_are_averaged_not_logits() -> None:
    heads = {head.kind: head for head in fitted()}
    sure, unsure = torch.tensor([[4.0, 0.0, -4.0, -4.0]]), torch.zeros(1, 4)
    bins = pooled(heads["bins"], [sure.log_softmax(1), unsure.log_softmax(1)], [0.75, 0.25])
    torch.testing.assert_close(bins.softmax(1), 0.75 * sure.softmax(1) + 0.25 * unsure.softmax(1))
    odds = pooled(heads["binary"], [torch.tensor([[5.0]]), torch.tensor([[-1.0]])], [0.5, 0.5])
    expected = (torch.tensor([[5.0]]).sigmoid() + torch.tensor([[-1.0]]).sigmoid()) / 2
    torch.testing.assert_close(odds.sigmoid(), expected)
    far = pooled(heads["binary"], [torch.tensor([[80.0]]), torch.tensor([[-80.0]])], [0.5, 0.5])
    torch.testing.assert_close(far, torch.zeros(1, 1), rtol=0, atol=1e-4)
    value = pooled(heads["value"], [torch.tensor([[1.0]]), torch.tensor([[-1.0]])], [0.75, 0.25])
    torch.testing.assert_close(value, torch.tensor([[0.5]]))
