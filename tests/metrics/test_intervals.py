"""Intervals are by group."""

from __future__ import annotations

import numpy as np
import pytest

from pix2score.metrics.intervals import intervals, resamples
from pix2score.metrics.measures import Answers, measures
from tests.metrics.answers import answers_of


def test_intervals_widen_when_images_come_in_groups() -> None:
    loose, grouped = answers_of(400), answers_of(400)
    grouped = Answers(
        grouped.head,
        grouped.log_probs,
        grouped.truth,
        grouped.label,
        np.sort(grouped.truth * 3 + np.arange(400) % 3),
    )
    wide = intervals({"accuracy": measures(grouped)["accuracy"]}, resamples(grouped.group))["accuracy"]
    narrow = intervals({"accuracy": measures(loose)["accuracy"]}, resamples(loose.group))["accuracy"]
    value = measures(loose)["accuracy"](np.ones(400))
    assert wide
    assert narrow
    assert value is not None
    assert narrow[0] < value < narrow[1]
    assert narrow[1] - narrow[0] == pytest.approx(4 * np.sqrt(value * (1 - value) / 400), rel=0.25)


def test_resamples_take_whole_groups() -> None:
    group = np.array([5, 5, 9, 9, 9, -1])
    for weight in resamples(group, num=20):
        assert weight[0] == weight[1]
        assert weight[2] == weight[3] == weight[4]
        assert weight[0] + weight[2] + weight[5] == 3
