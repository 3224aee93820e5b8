"""When a night ends: the next time that the clock shows, a date and time, or so long after its start."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from pix2score.errors import ConfigError
from pix2score.nightly.deadline import Deadline, budget_of, deadline, until_time

NOW = datetime(2026, 11, 27, 1, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def timezone(request: pytest.FixtureRequest) -> Iterator[None]:
    """The zone of the machine: UTC, or the one that a test names."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = getattr(request, "param", "UTC")
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("06:00", datetime(2026, 11, 27, 6, tzinfo=UTC)),
        (" 6:00 ", datetime(2026, 11, 27, 6, tzinfo=UTC)),
        ("01:30:01", datetime(2026, 11, 27, 1, 30, 1, tzinfo=UTC)),
        ("01:30", datetime(2026, 11, 28, 1, 30, tzinfo=UTC)),
        ("00:00", datetime(2026, 11, 28, tzinfo=UTC)),
        ("2026-11-30T06:00", datetime(2026, 11, 30, 6, tzinfo=UTC)),
        ("2026-11-30 06:00:10", datetime(2026, 11, 30, 6, 0, 10, tzinfo=UTC)),
        ("2026-11-27T06:00+05:00", None),
        ("2026-11-27T07:00+05:00", datetime(2026, 11, 27, 2, tzinfo=UTC)),
    ],
)
def test_a_time_of_day_is_the_next_one_and_a_date_and_time_itself(
    text: str, expected: datetime | None
) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="has passed"):
            until_time(text, NOW)
    else:
        assert until_time(text, NOW) == expected


@pytest.mark.parametrize("timezone", ["Europe/Berlin"], indirect=True)
def test_the_time_of_day_is_the_machine_s_also_when_summer_time_ends() -> None:
    assert until_time("06:00", NOW) == datetime(2026, 11, 27, 5, tzinfo=UTC)
    evening = datetime(2026, 10, 24, 20, tzinfo=UTC)  # in the night to the 25th clocks go back
    assert until_time("06:00", evening) == datetime(2026, 10, 25, 5, tzinfo=UTC)
    assert until_time("2026-11-27T06:00", NOW) == datetime(2026, 11, 27, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["24:00", "6", "6 am", "06:60", "2026-11-30", "tomorrow", "", "2026-13-01T06:00"]
)
def test_what_is_no_time_is_named_with_what_is_expected(text: str) -> None:
    with pytest.raises(
        ConfigError, match=f"until {text!r}: expected a time of day such as 06:00, or a date and "
    ):
        until_time(text, NOW)


def test_a_moment_that_has_passed_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"until '2026-11-27T01:00': this has passed, now is 2026-11-27 01:30"
    ):
        until_time("2026-11-27T01:00", NOW)


@pytest.mark.parametrize("text", ["0", "0h", "0.0m", "two hours", "-1h", "2"])
def test_no_budget_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=f"budget {text!r}: "):
        budget_of(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0h"])
def test_nothing_is_no_budget(text: str) -> None:
    with pytest.raises(ConfigError, match="no time to score in; expected more than 0, such as 2h"):
        budget_of(text)


def test_of_a_time_and_a_budget_the_first_counts() -> None:
    assert deadline(None, None) is None
    early, late = deadline("06:00", "2h", NOW), deadline("02:00", "2h", NOW)
    assert early and early.at == NOW + timedelta(hours=2)
    assert late and late.at == datetime(2026, 11, 27, 2, tzinfo=UTC)


def test_it_is_over_from_its_moment_on() -> None:
    assert not Deadline(NOW, lambda: NOW - timedelta(seconds=1)).is_over()
    assert Deadline(NOW, lambda: NOW).is_over()
