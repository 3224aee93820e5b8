"""Intervals are by group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pix2score.metrics.intervals import Interval, interval, intervals, paired_interval, resamples
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
