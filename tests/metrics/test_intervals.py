"""Intervals are by group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pix2score.metrics.formulas import calibration_error
from pix2score.metrics.intervals import (
    Interval,
    interval,
    interval_away_from_0,
    interval_of,
    intervals,
    paired_interval,
    resamples,
)
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.protocol import Answers
from tests.metrics.answers import answers_of


def accuracy_interval(answers: Answers) -> Interval:
    accuracy = numbers_of(answers.head).measures(answers)["accuracy"]
    found = intervals({"accuracy": accuracy}, resamples(answers.group))["accuracy"]
    assert found is not None
    return found


def four_times(answers: Answers, group: npt.NDArray[np.int64]) -> Answers:
    parts = (answers.outputs, answers.truth, answers.label)
    return Answers(answers.head, *(np.repeat(part, 4, axis=0) for part in parts), group)


def test_intervals_widen_when_images_come_in_groups() -> None:
    answers = answers_of(100)
    narrow = accuracy_interval(four_times(answers, np.arange(400)))
    wide = accuracy_interval(four_times(answers, np.repeat(np.arange(100), 4)))
    assert wide.high - wide.low == pytest.approx(2 * (narrow.high - narrow.low), rel=0.25)


def test_the_interval_of_images_apart_is_four_standard_errors_wide_around_the_value() -> None:
    answers = answers_of(400)
    accuracy = numbers_of(answers.head).measures(answers)["accuracy"]
    found, value = accuracy_interval(answers), accuracy(np.ones(400))
    assert value is not None
    assert found.low < value < found.high
    assert found.high - found.low == pytest.approx(4 * np.sqrt(value * (1 - value) / 400), rel=0.25)


def test_resamples_take_whole_groups() -> None:
    group = np.array([5, 5, 9, 9, 9, -1])
    for weight in resamples(group, num=20):
        assert weight[0] == weight[1]
        assert weight[2] == weight[3] == weight[4]
        assert weight[0] + weight[2] + weight[5] == 3


def test_a_number_that_is_mostly_undefined_has_no_interval() -> None:
    assert interval([None, None, None, 1.0]) is None
    assert interval([]) is None
    assert interval([None, 1.0, 1.0]) == (1.0, 1.0)
    assert paired_interval(lambda w: None, lambda w: 1.0, [np.ones(2)]) is None


def errors_of_calibration(seed: int, off: float) -> tuple[Interval | None, Interval | None]:
    """Of 600 answers that are too sure by ``off``: the interval, and the middle 95 % of the resamples."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.2, 0.7, 600)
    right, draws = rng.random(600) < sure - off, resamples(np.arange(600), num=100, seed=seed)

    def ece(w: npt.NDArray[np.float64]) -> float | None:
        return calibration_error(sure, right, w)

    assert intervals({"ece": ece}, draws)["ece"] == interval_away_from_0(ece, draws)
    return interval_away_from_0(ece, draws), interval_of(ece, draws)


def test_what_noise_adds_to_an_error_of_calibration_is_taken_off_its_interval() -> None:
    found = [errors_of_calibration(seed, 0.0) for seed in range(20)]
    assert sum(ours is not None and ours.low == 0 for ours, _ in found) >= 18
    assert all(ours is not None and plain is not None and ours.high < plain.high for ours, plain in found)
    assert not any(plain is not None and plain.low == 0 for _, plain in found)
    large = [errors_of_calibration(seed, 0.1)[0] for seed in range(20)]
    assert sum(ours is not None and ours.low <= 0.1 <= ours.high and ours.low > 0.03 for ours in large) >= 15


def test_an_error_of_calibration_without_images_has_no_interval() -> None:
    assert interval_away_from_0(lambda w: None, [np.ones(2)]) is None
    assert interval_away_from_0(lambda w: 0.1, []) is None
