"""What this process and those below it use, by Linux's ``/proc``: once, or again and again while work is
done."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = resource.getpagesize()
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Process:
    """One process as it was when it was looked at."""

    pid: int
    parent: int
    cpu_s: float
    """So far."""
    ended_cpu_s: float
    """Of its children that have ended and were waited for."""

    @property
    def line(self) -> str:
        """Its command line; empty if it has ended."""
        with suppress(OSError):
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ")
            return words.decode(errors="replace")
        return ""


def memory_of(pid: int) -> tuple[int, int]:
    """Resident bytes, and how many of them are shared with others; nothing if it has ended."""
    with suppress(OSError):
        resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
        return resident * _PAGE, shared * _PAGE
    return 0, 0


def this_and_below() -> Iterator[Process]:
    """This process first."""
    found = {process.pid: process for process in _all()}
    pending = [os.getpid()]
    while pending:
        pid = pending.pop(0)
        if pid in found:
            yield found[pid]
        pending += [child.pid for child in found.values() if child.parent == pid]


def _all() -> Iterator[Process]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            user, system, user_ended, system_ended = (int(text) / _TICKS for text in fields[11:15])
            yield Process(int(stat.parent.name), int(fields[1]), user + system, user_ended + system_ended)


def tree_cpu_s() -> float:
    """CPU seconds of this process and all below it, ended ones that were waited for too."""
    return sum(process.cpu_s + process.ended_cpu_s for process in this_and_below())


@contextmanager
def looking(look: Callable[[], None]) -> Iterator[None]:
    """``look`` is called in a thread of its own while the block runs, and here before and behind it."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_POLL_S):
            look()

    look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()
