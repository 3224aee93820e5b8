"""A verdict says whether its numbers mean anything."""

from __future__ import annotations

import json

import pytest

from pix2score.metrics.comparison import compare
from pix2score.metrics.curves import curves
from pix2score.metrics.measures import OrderedAnswers
from pix2score.metrics.verdict import head_verdict
from tests.metrics.answers import answers_of, totals_of


@pytest.mark.parametrize(("num", "reliable"), [(49, False), (50, True), (1, False)])
def test_fewer_than_fifty_labels_are_marked_and_crash_nothing(num: int, reliable: bool) -> None:
    answers = answers_of(num)
    found = head_verdict(answers, totals_of(answers), {}, None)
    assert found.reliable is reliable
    assert bool(found.interval) is reliable
    assert curves(OrderedAnswers.of(answers), 1.5)["confusion"]
    assert compare(answers, answers).verdict == ("no difference" if reliable else "too few labels")


def test_no_label_at_all_is_said() -> None:
    found = head_verdict(answers_of(0), totals_of(answers_of(0)), {}, None)
    assert found.to_dict() == {"num_labelled": 0, "reliable": False}


def test_the_numbers_are_those_of_all_images_and_lie_in_the_intervals_of_those_kept() -> None:
    answers = answers_of(300)
    found = head_verdict(answers, totals_of(answers), {}, answers.truth.astype(float))
    for name, interval in found.interval.items():
        value = found.numbers[name]
        assert interval is not None, name
        assert value is not None, name
        assert interval.low <= value <= interval.high, name
    assert found.numbers["prior_nll"] == found.constant["nll"]
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["nll"] == found.numbers["nll"]
    assert plain["interval"]["nll"] == list(found.interval["nll"] or ())
