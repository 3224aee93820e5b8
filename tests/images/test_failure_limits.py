"""When a run stops for its failures: by share of what was planned, and where nothing at all can be
fetched."""

from __future__ import annotations

import contextlib

import pytest

from pix2score.errors import LimitError
from pix2score.images.failure_limits import (
    ALL_MISSING_ROWS,
    MIN_FAILED_TO_STOP,
    check_any_reached,
    check_failed,
)


def stops(failed: dict[str, int], num_done: int, num_planned: int, max_failed: float = 0.05) -> bool:
    try:
        check_failed(failed, num_done, num_planned, max_failed)
    except LimitError:
        return True
    return False


def test_a_small_number_of_failures_never_stops_by_its_share() -> None:
    assert not stops({"CORRUPT": MIN_FAILED_TO_STOP}, 150, 150)
    assert stops({"CORRUPT": MIN_FAILED_TO_STOP + 1}, 150, 150)


def test_the_share_is_of_what_was_planned_as_the_rest_may_still_succeed() -> None:
    assert not stops({"CORRUPT": 400}, 450, 8000)
    assert stops({"CORRUPT": 401}, 450, 8000)
    assert not stops({"CORRUPT": 401}, 450, 8000, max_failed=0.06)


def test_where_nothing_can_be_fetched_it_stops_early_whatever_is_allowed() -> None:
    assert stops({"NOT_FOUND": ALL_MISSING_ROWS - 1, "TIMEOUT": 1}, ALL_MISSING_ROWS, 10**6, max_failed=1)
    assert not stops({"NOT_FOUND": ALL_MISSING_ROWS - 1, "CORRUPT": 1}, ALL_MISSING_ROWS, 10**6, max_failed=1)
    assert not stops({"NOT_FOUND": ALL_MISSING_ROWS - 1}, ALL_MISSING_ROWS, 10**6, max_failed=1)


def test_the_message_names_the_codes_most_frequent_first() -> None:
    with pytest.raises(
        LimitError,
        match=r"300 of 1000 images failed \(200 TIMEOUT, 100 CORRUPT\).* 900 images done so far are kept",
    ):
        check_failed({"CORRUPT": 100, "TIMEOUT": 200}, 900, 1000, 0.05)


@pytest.mark.parametrize(
    ("failed", "num_done", "raises"),
    [
        ({"FORBIDDEN": 20}, 20, True),
        ({"NOT_FOUND": 1}, 1, True),
        ({"FORBIDDEN": 19}, 20, False),
        ({"FORBIDDEN": 19, "CORRUPT": 1}, 20, False),
        ({}, 0, False),
    ],
)
def test_a_first_run_that_fetched_nothing_has_nothing_to_publish(
    failed: dict[str, int], num_done: int, raises: bool
) -> None:
    first = "the first image is missing" if num_done == 1 else f"the first {num_done} images are all missing"
    with pytest.raises(LimitError, match=first) if raises else contextlib.nullcontext():
        check_any_reached(failed, num_done)
