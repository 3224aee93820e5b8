"""When a night stops scoring: at a time of day, at a date and time, or after so much work."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pix2score.errors import ConfigError
from pix2score.snapshots.config import seconds

_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")


def _local_now() -> datetime:
    return datetime.now().astimezone()


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment from which nothing new is begun."""

    at: datetime
    """With its time zone."""
    now: Callable[[], datetime] = _local_now

    def is_over(self) -> bool:
        """Whether it has come."""
        return self.now() >= self.at

    def __str__(self) -> str:
        return self.at.isoformat(" ", "seconds")


def deadline(until: str | None, budget: str | None, now: datetime | None = None) -> Deadline | None:
    """The first moment of both: ``until`` as ``until_time`` says, and ``now`` plus ``budget``; None without.

    Raises ``ConfigError`` naming a value that says no time, a date and time that has passed, or no budget.
    """
    now = now or _local_now()
    ends = [] if until is None else [until_time(until, now)]
    ends += [] if budget is None else [now + budget_of(budget)]
    return Deadline(min(ends)) if ends else None


def until_time(text: str, now: datetime) -> datetime:
    """The next moment at which the clock shows ``HH:MM``, or the very moment of an ISO date and time.

    In the time zone of the machine where the driver runs, unless the text has one.
    """
    if found := _CLOCK.fullmatch(text.strip()):
        hour, minute, second = (int(number or 0) for number in found.groups())
        if hour < 24 and minute < 60 and second < 60:
            return _next(now, hour, minute, second)
    try:
        if not re.search(r"\d[T ]\d", text):
            raise ValueError(text)
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigError(
            f"until {text!r}: expected a time of day such as 06:00, or a date and time such as "
            f"{(now + timedelta(hours=8)).isoformat(timespec='minutes')[:16]}"
        ) from None
    moment = moment if moment.tzinfo else moment.astimezone()
    if moment <= now:
        raise ConfigError(f"until {text!r}: this has passed, now is {now.isoformat(' ', 'seconds')}")
    return moment


def _next(now: datetime, hour: int, minute: int, second: int) -> datetime:
    """Today or tomorrow, by the clock on the wall: also when summer time begins or ends in between."""
    wall = now.astimezone().replace(tzinfo=None, hour=hour, minute=minute, second=second, microsecond=0)
    today = wall.astimezone()
    return today if today > now else (wall + timedelta(days=1)).astimezone()


def budget_of(text: str) -> timedelta:
    """``2h``, ``90m`` or ``1d`` as a time. Raises ``ConfigError``, also for nothing."""
    length = 0.0 if re.fullmatch(r"0+(\.0*)?", text.strip()) else seconds(text, "budget")
    if not length:
        raise ConfigError(f"budget {text!r}: no time to score in; expected more than 0, such as 2h or 90m")
    return timedelta(seconds=length)
