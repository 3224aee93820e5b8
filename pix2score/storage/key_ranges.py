"""A sorted space of keys read page by page, by several threads side by side: whoever is idle takes half of
what is left of a range that another one reads.

Nothing need be known of the keys: neither folders nor how they are spread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

NUM_THREADS = 16
"""Pages asked for at a time: hides 20 to 100 ms of latency."""
_LEAST, _MOST = 0x20, 0x7F
"""Characters between which a range is cut; keys beyond them lie in one of its halves all the same."""
_MAX_DEPTH = 64
_POLL_S = 0.2


class Keyed(Protocol):
    """A row of a page."""

    @property
    def key(self) -> str:
        """What pages are sorted by."""


Row = TypeVar("Row", bound=Keyed)
Page = tuple[Sequence[Row], bool]
"""Rows with keys in order, and whether more may follow."""


@dataclass(eq=False)
class _Range:
    """Keys above ``after`` and up to ``end`` (None: all)."""

    after: str
    end: str | None
    can_be_cut: bool = False
    """Once for each page: cut more often, the halves would hold less than a page."""


@dataclass
class _Shared(Generic[Row]):
    page: Callable[[str], Page[Row]]
    pending: list[_Range]
    active: set[_Range] = field(default_factory=set)
    results: queue.Queue[Sequence[Row] | BaseException | None] = field(
        default_factory=lambda: queue.Queue(2 * NUM_THREADS)
    )
    changed: threading.Condition = field(default_factory=threading.Condition)
    is_stopped: bool = False

    def put(self, result: Sequence[Row] | BaseException | None) -> None:
        while not self.is_stopped:
            try:
                return self.results.put(result, timeout=_POLL_S)
            except queue.Full:
                continue
        return None


def all_rows(page: Callable[[str], Page[Row]], num_threads: int = NUM_THREADS) -> Iterator[Sequence[Row]]:
    """Every row once, a page at a time, pages in any order; few pages are held ahead of the caller.

    ``page(after)`` gives the first rows with keys above ``after``; it is called from ``num_threads`` threads,
    and what it raises ends all of them and comes out here.
    """
    shared = _Shared(page, [_Range("", None)])
    threads = [threading.Thread(target=_work, args=(shared,), daemon=True) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    num_working = num_threads
    try:
        while num_working:
            found = shared.results.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                num_working -= 1
            elif found:
                yield found
    finally:
        with shared.changed:
            shared.is_stopped = True
            shared.changed.notify_all()
        for thread in threads:
            thread.join()


def _work(shared: _Shared[Row]) -> None:
    try:
        while one := _next_range(shared):
            is_done = False
            while not is_done and not shared.is_stopped:
                rows, may_go_on = shared.page(one.after)
                rows, is_done = _taken(shared, one, rows, may_go_on=may_go_on)
                shared.put(rows)
    except BaseException as exc:  # raised by the reader of the results
        shared.put(exc)
    else:
        shared.put(None)


def _taken(
    shared: _Shared[Row], one: _Range, rows: Sequence[Row], *, may_go_on: bool
) -> tuple[Sequence[Row], bool]:
    """The rows of a page that are in the range as it is by now, and whether it ends with them."""
    with shared.changed:
        own = rows if one.end is None else [row for row in rows if row.key <= one.end]
        is_done = not may_go_on or not rows or len(own) < len(rows) or own[-1].key == one.end
        if is_done:
            shared.active.discard(one)
        else:
            one.after, one.can_be_cut = own[-1].key, True
        shared.changed.notify_all()
    return own, is_done


def _next_range(shared: _Shared[Row]) -> _Range | None:
    """A range to read; waits while none can be cut, None when all are read."""
    with shared.changed:
        while not shared.is_stopped:
            if one := (shared.pending.pop() if shared.pending else _half(shared.active)):
                shared.active.add(one)
                return one
            if not shared.active:
                return None
            shared.changed.wait(_POLL_S)
    return None


def _half(active: set[_Range]) -> _Range | None:
    """The upper half of a range, which keeps the lower one."""
    for one in sorted((one for one in active if one.can_be_cut), key=lambda one: one.after):
        one.can_be_cut = False
        middle = between(one.after, one.end)
        if middle is not None:
            upper = _Range(middle, one.end)
            one.end = middle
            return upper
    return None


def between(low: str, high: str | None) -> str | None:
    """A key above ``low`` and below ``high`` (None: there is no end); None where none was found."""
    same, is_open = 0, high is None
    while high is not None and same < min(len(low), len(high)) and low[same] == high[same]:
        same += 1
    for depth in range(same, min(len(low) + 1, same + _MAX_DEPTH)):
        first = ord(low[depth]) if depth < len(low) else _LEAST
        last = _MOST if is_open or high is None else ord(high[depth])
        middle = (first + min(last, _MOST)) // 2
        if first < middle < last:
            return low[:depth] + chr(middle)
        is_open = True  # beyond this place everything above ``low`` is below ``high``
    return None
