"""Decode children beside each other, for an event loop that never waits for one.

Each is that of a night's ``score``, with its limits: what a picture does to its child is its own failure.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from pix2score.errors import ImageFailure
from pix2score.images.decoder import Decoder
from pix2score.images.preprocess import Preprocess
from pix2score.serve.model import read_pixels

RGB = npt.NDArray[np.uint8]


class Decoders:
    """So many children, each for one picture at a time. To be made and used in one event loop."""

    def __init__(self, preprocess: Preprocess, num: int) -> None:
        self._preprocess = preprocess
        self._pool = ThreadPoolExecutor(num, thread_name_prefix="decode")
        self._all = [Decoder(preprocess) for _ in range(num)]
        # The last one used is the next: of many that are allowed only so many start as are needed.
        self._idle: asyncio.LifoQueue[Decoder] = asyncio.LifoQueue()
        for decoder in self._all:
            self._idle.put_nowait(decoder)

    async def pixels(self, data: bytes) -> RGB | ImageFailure:
        """The picture as ``serve.model.read_pixels`` reads it.

        A caller that gives up leaves its decoder to the picture until that is done.
        """
        decoder = await self._idle.get()
        work = asyncio.get_running_loop().run_in_executor(
            self._pool, read_pixels, data, self._preprocess, decoder
        )
        work.add_done_callback(lambda _: self._idle.put_nowait(decoder))
        return await asyncio.shield(work)

    @property
    def pids(self) -> list[int]:
        """Of the children that run."""
        return [pid for decoder in self._all if (pid := decoder.pid) is not None]

    def close(self) -> None:
        """End all children, also those at work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for decoder in self._all:
            decoder.close()
