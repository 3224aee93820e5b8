"""Forward passes over pictures of many requests together, by ``serve.batch``.

While a pass runs, pictures wait outside and then go in at once: ``serve.batch`` by itself takes what comes
within a few milliseconds as a batch, though that batch has to wait for the pass before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np

from pix2score.errors import ImageFailure
from pix2score.serve.model import Answer
from pix2score.service.decoders import RGB

Answers: TypeAlias = Callable[[RGB], list[Answer | ImageFailure]]
"""As ``Model.answers``: pixels [N, S, S, 3] to an answer of each."""
GATHER_S = 0.0005
"""For pictures of one request, or that waited together, to come into one batch."""


class Forward:
    """At most ``num_passes`` at a time, of at most ``batch_size`` pictures. To be made in a replica."""

    def __init__(
        self, answers: Answers, batch_size: int, num_passes: int, seen: Callable[[int], None] = lambda _: None
    ) -> None:
        """``seen``: is told how many pictures each pass has."""
        from ray import serve

        self._answers, self._num_passes, self._seen = answers, num_passes, seen
        self._pool = ThreadPoolExecutor(num_passes, thread_name_prefix="forward")
        self._running, self._free = 0, asyncio.Event()
        self._free.set()

        @serve.batch(  # type: ignore[untyped-decorator]
            max_batch_size=batch_size, batch_wait_timeout_s=GATHER_S, max_concurrent_batches=num_passes
        )
        async def batched(pictures: list[RGB]) -> list[Answer | ImageFailure]:
            return await self._pass(pictures)

        self._batched = batched

    async def __call__(self, pixels_SSC: RGB) -> Answer | ImageFailure:
        """What the model says of one picture, or NONFINITE."""
        await self._free.wait()
        found: Answer | ImageFailure = await self._batched(pixels_SSC)
        return found

    async def _pass(self, pictures: Sequence[RGB]) -> list[Answer | ImageFailure]:
        self._running += 1
        if self._running >= self._num_passes:
            self._free.clear()
        self._seen(len(pictures))
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._answers, np.stack(pictures))
        finally:
            self._running -= 1
            self._free.set()

    def close(self) -> None:
        """Begin no further pass."""
        self._pool.shutdown(wait=False, cancel_futures=True)
