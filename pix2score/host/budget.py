"""A budget of bytes that threads of a process share: who reads images takes their size from it, who is done
with them gives it back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

IN_FLIGHT_BYTES = 256 * 2**20
"""Of images that a process has read, or is reading, and not yet decoded: a quarter of what a decode task
declares."""
PATIENCE_S = 60.0  # then it goes on regardless: rather over the budget than to stand still


class ByteBudget:
    """``take`` waits until so many bytes are free. A request for more than all waits for all of it."""

    def __init__(self, total: int, patience_s: float = PATIENCE_S) -> None:
        self._total, self._taken, self._patience_s = total, 0, patience_s
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """Bytes in flight."""
        return self._taken

    def take(self, size: int) -> None:
        """``size`` bytes are in flight from now on; waits, at most ``patience_s``, for others to be done with
        theirs."""
        deadline = time.monotonic() + self._patience_s
        with self._changed:
            self._changed.wait_for(
                lambda: self._taken + min(size, self._total) <= self._total, deadline - time.monotonic()
            )
            self._taken += size

    def give(self, size: int) -> None:
        """``size`` bytes, taken before, are no longer held."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


in_flight = ByteBudget(IN_FLIGHT_BYTES)
"""Of this process."""


def bounded_runs(sizes: Iterable[int], most_bytes: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive runs whose sizes add up to at most ``most_bytes``; what is larger is
    alone."""
    start, stop, total = 0, 0, 0
    for stop, size in enumerate(sizes, 1):
        if stop - 1 > start and total + size > most_bytes:
            yield start, stop - 1
            start, total = stop - 1, 0
        total += size
    if stop > start:
        yield start, stop
