"""Progress of long work: the driver logs rate and time left every few seconds.

Of rows it sees go by, or that workers add to a board.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOG_EVERY_S = 10.0
_POLL_S = 1.0


@dataclass
class Meter:
    """Rows done of ``total``: their rate and the time left are logged every ``LOG_EVERY_S``."""

    what: str
    total: int
    logger: logging.Logger
    done: int = 0
    began_at: int = 0
    in_start_up: int = 0
    """Done since the beginning when the first were seen: nobody knows in what time."""
    started: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)

    def begin_at(self, number: int, now: float | None = None) -> None:
        """``number`` were done before: the rate is of what is done from now on."""
        self.done = self.began_at = number
        self.in_start_up = 0
        self.started = self.logged = time.monotonic() if now is None else now

    def add(self, number: int, note: str = "", now: float | None = None) -> None:
        """Count ``number`` more as done; log rate and time left if it is time.

        Called with 0 now and then, so that a standstill is reported too. ``note`` is shown behind the rate.
        ``now``: when they were counted, by the clock of who counted, if that was not this moment here.
        """
        now = time.monotonic() if now is None else now
        if self.done == self.began_at:  # start-up says nothing about the rate
            self.started = self.logged = now
            self.in_start_up = number
        self.done += number
        if self.done == self.began_at or now - self.logged < LOG_EVERY_S:
            return
        self.logged = now
        counted = self.done - self.began_at - self.in_start_up or self.in_start_up
        rate = counted / max(_POLL_S, self.logged - self.started)
        left = duration(max(0, self.total - self.done) / rate)
        self.logger.info(
            "%s: %d of %d, %.1f/s, about %s left%s",
            self.what,
            self.done,
            self.total,
            rate,
            left,
            f"; {note}" if note else "",
        )


class _Board:
    """Counts and lines of all workers; an actor that needs no CPU."""

    def __init__(self) -> None:
        self._done = self._began_at = 0
        self._lines: list[str] = []
        self._note = ""

    def add(self, number: int) -> None:
        self._done += number

    def begin_at(self, number: int) -> None:
        self._done = self._began_at = number

    def say(self, line: str) -> None:
        self._lines.append(line)

    def note(self, text: str) -> None:
        self._note = text

    def take(self) -> tuple[int, int, list[str], str, float]:
        lines, self._lines = self._lines, []
        return self._began_at, self._done, lines, self._note, time.monotonic()


@dataclass
class Board:
    """Handle for workers.

    Calls return at once and never fail the work: what is lost is a line of progress.
    """

    actor: Any

    def add(self, number: int) -> None:
        """``number`` more are done."""
        self.actor.add.remote(number)

    def begin_at(self, number: int) -> None:
        """Go on from ``number`` that were done before; the rate is of what is done from now on."""
        self.actor.begin_at.remote(number)

    def say(self, line: str) -> None:
        """The driver logs ``line``."""
        self.actor.say.remote(line)

    def note(self, text: str) -> None:
        """Show ``text`` behind the rate in the driver's log, until another text comes."""
        self.actor.note.remote(text)


@dataclass
class _Reporter:
    """The driver's side of a board: polls it, logs its lines, and shows what is done on a meter."""

    board: Any
    meter: Meter
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(_POLL_S):
            try:
                news = ray.get(self.board.take.remote(), timeout=30)
            except Exception:  # the cluster is going away, or is too busy: progress is not worth an error
                continue
            self.show(*news)

    def show(self, began_at: int, done: int, lines: list[str], note: str, now: float) -> None:
        """``now``: of the board, as a busy driver hears of it late."""
        for line in lines:
            self.meter.logger.info("%s", line)
        if began_at != self.meter.began_at:
            self.meter.begin_at(began_at, now)
        self.meter.add(done - self.meter.done, note, now)


@contextlib.contextmanager
def board(what: str, total: int, logger: logging.Logger) -> Iterator[Board]:
    """A board whose progress towards ``total`` is logged until the block ends."""
    here = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )  # it goes when the driver goes
    actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
    reporter = _Reporter(actor, Meter(what, total, logger))
    thread = threading.Thread(target=reporter.run, name="progress", daemon=True)
    thread.start()
    try:
        yield Board(actor)
    finally:
        reporter.stop.set()
        thread.join(timeout=5)
        with contextlib.suppress(Exception):
            for line in ray.get(actor.take.remote(), timeout=5)[2]:
                logger.info("%s", line)
        ray.kill(actor)


def duration(seconds: float) -> str:
    """``42 s``, ``7 min`` or ``3.2 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
