"""Forward passes over pictures of many requests together, by ``serve.batch``.

While no pass may begin, pictures wait outside and then go in at once: ``serve.batch`` by itself takes what
comes within a few milliseconds as a batch, though that batch has to wait for the pass before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pix2score.errors import ImageFailure
from pix2score.serve.model import Answer
from pix2score.service.decoders import RGB
from pix2score.service.seats import Seats

Answers: TypeAlias = Callable[[RGB], list[Answer | ImageFailure]]
"""As ``Model.answers``: pixels [N, S, S, 3] to an answer of each."""
GATHER_S = 0.0005
"""For pictures of one request, or that waited together, to come into one batch."""


@dataclass(frozen=True, eq=False, slots=True)
class _Picture:
    pixels_SSC: RGB


class Forward:
    """Passes of at most ``batch_size`` pictures. To be made in a replica."""

    def __init__(
        self,
        answers: Answers,
        spread: Answers | None,
        *,
        batch_size: int,
        num_seats: int,
        seen: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``answers``: a pass on one of ``num_seats``; ``spread``: one on all of them, None where there is no
        such thing. ``seen``: is told how many pictures each pass has."""
        from ray import serve

        self._answers, self._spread, self._seen = answers, spread, seen
        self._seats = Seats(num_seats, batch_size=batch_size, can_spread=spread is not None)
        self._pool = ThreadPoolExecutor(num_seats, thread_name_prefix="forward")

        @serve.batch(  # type: ignore[untyped-decorator]
            max_batch_size=batch_size, batch_wait_timeout_s=GATHER_S, max_concurrent_batches=num_seats
        )
        async def batched(pictures: list[_Picture]) -> list[Answer | ImageFailure]:
            return await self._pass(pictures)

        self._batched = batched

    async def __call__(self, pixels_SSC: RGB) -> Answer | ImageFailure:
        """What the model says of one picture, or NONFINITE."""
        picture = _Picture(pixels_SSC)
        async with self._seats.waiting(picture):
            found: Answer | ImageFailure = await self._batched(picture)
        return found

    async def _pass(self, pictures: Sequence[_Picture]) -> list[Answer | ImageFailure]:
        async with self._seats.taken(pictures) as has_all:
            self._seen(len(pictures))
            answers = self._spread if self._spread and has_all else self._answers
            pixels_NSSC = np.stack([picture.pixels_SSC for picture in pictures])
            return await asyncio.get_running_loop().run_in_executor(self._pool, answers, pixels_NSSC)

    def close(self) -> None:
        """Begin no further pass."""
        self._pool.shutdown(wait=False, cancel_futures=True)
