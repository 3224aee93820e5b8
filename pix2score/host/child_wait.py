"""How long a process waits for a child: judged by what kept the child, and by the waiting process's own
time."""

from __future__ import annotations

import select
import time

_PATIENCE, _MIN_PATIENCE_S = 4, 20.0
"""Times the limit that a child which is running or wants to may take by the clock; it may be starting."""
_SLICE_S = 0.25
"""A wait that took much longer than asked was a pause of this process: it counts as so long."""


class Wait:
    """The time that the parent has waited for one answer, seen from its own side: while it was paused itself,
    it did not wait."""

    def __init__(self, pid: int, timeout_s: float) -> None:
        self._pid, self._timeout_s = pid, timeout_s
        self.waited_s = self.slept_s = self.stopped_s = 0.0

    def until(self, fd: int, event: int) -> None:
        """Return when ``fd`` is ready. Raises ``TimeoutError`` when the child slept, was stopped, or has not
        got to run for long enough."""
        poll = select.poll()
        poll.register(fd, event)
        slice_s = min(_SLICE_S, self._timeout_s)
        start = time.monotonic()
        while not poll.poll(slice_s * 1000):
            now = time.monotonic()
            self._note(min(now - start, 2 * slice_s))
            start = now

    def _note(self, seconds: float) -> None:
        state = _state(self._pid)
        self.waited_s += seconds
        self.slept_s += seconds * (state == "S")
        self.stopped_s += seconds * (state in "Tt")
        if self.slept_s >= self._timeout_s:
            raise TimeoutError("waiting for something")
        if self.stopped_s >= self._timeout_s or self.waited_s >= patience_s(self._timeout_s):
            raise TimeoutError(
                f"{'was stopped' if self.stopped_s else 'did not get to run'} for {self.waited_s:.3g} s"
            )


def patience_s(timeout_s: float) -> float:
    """By the clock, for a child that may use ``timeout_s`` of processor time."""
    return max(_PATIENCE * timeout_s, _MIN_PATIENCE_S)


def _state(pid: int) -> str:
    """One letter of ``/proc/PID/stat``: T is stopped, S sleeps; R if it cannot be read, as of a child that
    has just died."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1].decode("ascii") or "R"
    except OSError:
        return "R"
