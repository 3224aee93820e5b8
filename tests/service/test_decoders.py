"""Decode children beside each other: pictures that nobody waits for any more, and one that takes long."""

from __future__ import annotations

import asyncio
import os
import time

import numpy as np

from pix2score.errors import ImageFailure
from pix2score.images.decode import to_rgb
from pix2score.images.preprocess import Preprocess
from pix2score.service.decoders import Decoders
from tests.support.services import giant, hostile, picture

SIZE = Preprocess(size=16)


def test_pixels_are_those_of_the_one_path() -> None:
    async def decoded() -> list[object]:
        decoders = Decoders(SIZE, 3)
        try:
            return list(await asyncio.gather(*(decoders.pixels(picture(seed)) for seed in range(12))))
        finally:
            decoders.close()

    for seed, pixels in enumerate(asyncio.run(decoded())):
        np.testing.assert_array_equal(pixels, to_rgb(picture(seed), SIZE))


def test_a_picture_that_takes_long_holds_up_no_other_and_nobody_gets_its_pixels() -> None:
    async def asked() -> tuple[float, object, list[int]]:
        decoders = Decoders(SIZE, 2)
        try:
            await asyncio.gather(*(decoders.pixels(picture(seed)) for seed in range(4)))  # both are started
            slow = asyncio.create_task(decoders.pixels(giant()))
            await asyncio.sleep(0.05)
            start = time.monotonic()
            await decoders.pixels(picture(1))
            took = time.monotonic() - start
            was_at_work = not slow.done()
            slow.cancel()
            pixels = await asyncio.gather(*(decoders.pixels(picture(seed)) for seed in range(4)))
            assert was_at_work
            return took, pixels, decoders.pids
        finally:
            decoders.close()

    took, pixels, pids = asyncio.run(asked())
    assert took < 1
    assert len(pids) == 2
    for seed, found in enumerate(pixels):  # type: ignore[arg-type, var-annotated]
        np.testing.assert_array_equal(found, to_rgb(picture(seed), SIZE))


def test_hostile_files_leave_the_children_that_there_were_and_closing_ends_them() -> None:
    async def asked() -> tuple[list[str], list[int]]:
        decoders = Decoders(SIZE, 2)
        found = [await decoders.pixels(data) for data, _, _ in hostile().values()]
        pids = decoders.pids
        decoders.close()
        return [one.code if isinstance(one, ImageFailure) else "ok" for one in found], pids

    codes, pids = asyncio.run(asked())
    assert codes == [code for _, code, _ in hostile().values()]
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
