"""Rounds end when nothing is missing, when one brought nothing, and after a few in any case."""

from __future__ import annotations

import logging

import pytest

from pix2score.cluster.rounds import MAX_ROUNDS, Rounds


def worked(num_images: int, done: list[int]) -> tuple[list[int], int]:
    """Numbers of the rounds that do so many images each, and how many are missing at the end."""
    rounds, numbers = Rounds(), []
    for number in rounds:
        numbers.append(number)
        num_done = done[number - 1]
        rounds.ended(num_images, num_done)
        num_images -= num_done
    return numbers, rounds.missing


@pytest.mark.parametrize(
    ("done", "numbers", "missing"),
    [
        ([10], [1], 0),
        ([0], [1], 10),
        ([7, 2, 1], [1, 2, 3], 0),
        ([7, 0], [1, 2], 3),
        ([1] * MAX_ROUNDS, list(range(1, MAX_ROUNDS + 1)), 10 - MAX_ROUNDS),
    ],
)
def test_what_was_lost_is_planned_again_while_something_is_done(
    done: list[int], numbers: list[int], missing: int
) -> None:
    assert worked(10, done) == (numbers, missing)


def test_a_round_that_ends_with_nothing_planned_is_the_last() -> None:
    assert worked(0, [0]) == ([1], 0)


def test_each_further_round_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        worked(10, [7, 2, 1])
    assert caplog.messages == [
        "3 images were lost with a part of the cluster: they are planned again",
        "1 images were lost with a part of the cluster: they are planned again",
    ]
