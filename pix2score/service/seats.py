"""Who may begin a forward pass, and how wide: on one core each, or one pass on all of them.

Cores compute the most each by itself, and answer one picture the soonest all together. So as long as at
least as many pictures wait as cores are free, each takes one; else the next takes all cores, once they are
free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager


class Seats:
    """``num`` passes at a time, on a seat each. To be used in one event loop."""

    def __init__(self, num: int, *, batch_size: int, can_spread: bool) -> None:
        """``can_spread``: whether one pass may take all seats, to be done sooner."""
        self._num = self._free = num
        self._batch_size, self._can_spread = batch_size, can_spread
        self._waiting: set[object] = set()
        self._changed = asyncio.Condition()
        self._door, self._turn = asyncio.Lock(), asyncio.Lock()  # first come, first served

    @asynccontextmanager
    async def waiting(self, picture: object) -> AsyncIterator[None]:
        """Inside the block a picture waits for its pass, until one takes it; ready once a seat is free."""
        self._waiting.add(picture)
        try:
            async with self._changed:
                self._changed.notify_all()
            async with self._door, self._changed:
                await self._changed.wait_for(lambda: self._free > 0)
            yield
        finally:
            self._waiting.discard(picture)  # its caller may have gone away before a pass took it

    @asynccontextmanager
    async def taken(self, pictures: Collection[object]) -> AsyncIterator[bool]:
        """Inside the block a pass of ``pictures`` runs; whether it has all seats."""
        async with self._turn, self._changed:
            await self._changed.wait_for(self._may_begin)
            takes_all = self._may_take_all()
            seats = self._num if takes_all else 1
            self._free -= seats
            self._waiting.difference_update(pictures)
        try:
            yield takes_all
        finally:
            async with self._changed:
                self._free += seats
                self._changed.notify_all()

    def _may_begin(self) -> bool:
        return self._free > 0 and (
            not self._can_spread or self._may_take_all() or self._num_passes() >= self._free
        )

    def _may_take_all(self) -> bool:
        return self._can_spread and self._free == self._num and self._num_passes() < self._num

    def _num_passes(self) -> int:
        """Of what waits."""
        return -(-len(self._waiting) // self._batch_size)
