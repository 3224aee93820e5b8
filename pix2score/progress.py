"""Progress of long work: workers add to a board, the driver logs rate and time left every few seconds."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

LOG_EVERY_S = 10.0
_POLL_S = 1.0


class _Board:
    """Counts and lines of all workers; an actor that needs no CPU."""

    def __init__(self) -> None:
        self._done = 0
        self._lines: list[str] = []
        self._note = ""

    def add(self, number: int) -> None:
        self._done += number

    def say(self, line: str) -> None:
        self._lines.append(line)

    def note(self, text: str) -> None:
        self._note = text

    def take(self) -> tuple[int, list[str], str]:
        lines, self._lines = self._lines, []
        return self._done, lines, self._note


@dataclass
class Board:
    """Handle for workers. Calls return at once and never fail the work: what is lost is a line of progress."""

    actor: Any

    def add(self, number: int) -> None:
        """``number`` more are done."""
        self.actor.add.remote(number)

    def say(self, line: str) -> None:
        """The driver logs ``line``."""
        self.actor.say.remote(line)

    def note(self, text: str) -> None:
        """``text`` stands behind the rate in the driver's log, until another takes its place."""
        self.actor.note.remote(text)


@dataclass
class _Reporter:
    """The driver's side: polls the board, logs its lines, and the rate every ``LOG_EVERY_S``."""

    board: Any
    what: str
    total: int
    logger: logging.Logger
    stop: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        while not self.stop.wait(_POLL_S):
            try:
                done, lines, note = ray.get(self.board.take.remote(), timeout=30)
            except Exception:  # the cluster is going away, or is too busy: progress is not worth an error
                continue
            self.log(done, lines, note)

    def log(self, done: int, lines: list[str], note: str = "") -> None:
        for line in lines:
            self.logger.info("%s", line)
        if not done:  # start-up says nothing about the rate
            self.started = self.logged = time.monotonic()
        elif time.monotonic() - self.logged >= LOG_EVERY_S:
            self.logged = time.monotonic()
            rate = done / max(_POLL_S, self.logged - self.started)
            left_s = max(0, self.total - done) / rate
            more = f"; {note}" if note else ""
            self.logger.info("%s: %d of %d, %.1f/s, about %s left%s", self.what, done, self.total, rate, duration(left_s), more)


@contextlib.contextmanager
def board(what: str, total: int, logger: logging.Logger) -> Iterator[Board]:
    """A board whose progress towards ``total`` is logged until the block ends."""
    actor: Any = ray.remote(num_cpus=0)(_Board).remote()
    reporter = _Reporter(actor, what, total, logger)
    thread = threading.Thread(target=reporter.run, name="progress", daemon=True)
    thread.start()
    try:
        yield Board(actor)
    finally:
        reporter.stop.set()
        thread.join(timeout=5)
        with contextlib.suppress(Exception):
            reporter.log(0, ray.get(actor.take.remote(), timeout=5)[1])
        ray.kill(actor)


def duration(seconds: float) -> str:
    """``42 s``, ``7 min`` or ``3.2 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
