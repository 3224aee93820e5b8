"""Shares go to members that make the mean better; ones that add nothing get none."""

from __future__ import annotations

import numpy as np
import pytest

from pix2score.ensemble.selection import HeadAnswers, chosen_shares
from tests.ensemble.heads import HEADS

BINARY, VALUE = HEADS[2], HEADS[3]
NUM = 600


def answers(*noise: float, of_value: bool = False, unlabelled: int = 40) -> HeadAnswers:
    """Members that know the truth but for noise of their own; one of infinite noise knows nothing."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=NUM)
    said = [
        np.nan_to_num(truth + n * rng.normal(size=NUM)) if np.isfinite(n) else rng.normal(size=NUM)
        for n in noise
    ]
    outputs = [s.astype(np.float32)[:, None] for s in said]
    targets = truth.astype(np.float32) if of_value else (truth > 0).astype(np.int64)
    targets[:unlabelled] = np.nan if of_value else -1
    head = VALUE if of_value else BINARY
    return HeadAnswers(head, outputs, targets, 3.0 + 2.0 * truth if of_value else (truth > 0).astype(float))


def loss(found: HeadAnswers, shares: list[float]) -> float:
    return found.metrics(shares).relative_loss()


@pytest.mark.parametrize("of_value", [False, True], ids=["binary", "value"])
def test_a_member_that_knows_nothing_gets_nothing_and_equal_ones_share(of_value: bool) -> None:
    found = answers(1.0, 1.0, np.inf, of_value=of_value)
    first, second, nothing = chosen_shares(found)
    assert first + second + nothing == pytest.approx(1)
    assert nothing <= 0.1
    assert min(first, second) >= 0.3


@pytest.mark.parametrize("of_value", [False, True], ids=["binary", "value"])
def test_the_mean_is_at_least_as_good_as_every_member(of_value: bool) -> None:
    found = answers(0.5, 1.0, 2.0, of_value=of_value)
    shares = chosen_shares(found)
    alone = [loss(found, [float(i == j) for j in range(3)]) for i in range(3)]
    assert loss(found, shares) < min(alone)
    assert shares[0] > shares[1] >= shares[2]


def test_three_that_know_as_much_all_count() -> None:
    assert min(chosen_shares(answers(1.5, 1.5, 1.5))) > 0.15


def test_without_labels_all_count_the_same() -> None:
    assert chosen_shares(answers(0.5, 1.0, unlabelled=NUM)) == [0.5, 0.5]


def test_members_that_err_alike_are_found() -> None:
    found = answers(1.0, 0.9)
    twins = HeadAnswers(
        BINARY, [found.outputs[0], found.outputs[0] * 1.01, found.outputs[1]], found.targets, found.labels
    )
    ((first, second, correlation),) = twins.alike()
    assert (first, second) == (0, 1)
    assert correlation > 0.99
    assert answers(1.0, 1.0).alike() == []
