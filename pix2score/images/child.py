"""The decoding process: ``images`` under an address-space limit and a limit of processor time per image.

Takes length-prefixed images from its standard input, answers in memory shared with its owner, a
``decoder.Decoder``, says so by a byte on its standard output, and ends by itself when its owner has ended.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import struct
import time
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from pix2score.errors import ImageFailure
from pix2score.images.decode import shrink, to_rgb
from pix2score.images.preprocess import Preprocess, preprocess_from_dict
from pix2score.images.slots import MEMORY_BYTES, Slots

REQUEST = struct.Struct("<Q")
_HELD, _HELD_S = 4, 0.01
"""While more images wait, an answer is not said before the next is there: so many together at most, and only
while the first of them is younger than this. Each time that the owner wakes costs both their caches."""


def serve(settings: dict[str, object]) -> None:
    """The child's loop: images in, answers out in their order, until standard input ends."""
    slots = Slots(cast(int, settings["slots"]))
    limit = cast(int, settings["memory_bytes"]) + MEMORY_BYTES
    timeout_s, patience_s = cast(float, settings["timeout_s"]), cast(float, settings["patience_s"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.dup(1)
    os.dup2(2, 1)  # a chatty codec must not write into the replies
    preprocess = (
        preprocess_from_dict(cast(dict[str, object], settings["preprocess"]))
        if "preprocess" in settings
        else None
    )
    short_side = cast(int, settings.get("shrink", 0))
    requests = select.poll()
    requests.register(0, select.POLLIN)
    number = held = 0
    since = 0.0
    while (data := _next_image()) is not None:
        # The default action of both timers' signals ends the process even inside C code. The first counts
        # processor time; by the second, far longer, a child whose owner was killed cannot hang for ever.
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        signal.setitimer(signal.ITIMER_REAL, patience_s)
        status, payload = _attempt(data, preprocess, short_side)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        fits = slots.put(number, status, payload)
        number, held = number + 1, held + 1
        now = time.monotonic()
        since = now if held == 1 else since
        if fits and held < _HELD and now - since < _HELD_S and requests.poll(0):
            continue
        write_all(replies, [bytes((held,)), b"" if fits else payload])
        held = 0


def _next_image() -> bytes | None:
    """None at the end of standard input."""
    try:
        return read_exactly(0, REQUEST.unpack(read_exactly(0, REQUEST.size))[0])
    except EOFError:
        return None


def read_exactly(fd: int, size: int, when_empty: Callable[[], None] | None = None) -> bytes:
    """Mostly what one read gives, as it is: an image or answer is written in one go.

    ``when_empty``: waits for more, where ``fd`` does not block. Raises ``EOFError``.
    """
    parts: list[bytes] = []
    while size:
        try:
            part = os.read(fd, size)
        except BlockingIOError:
            assert when_empty, "only a pipe that does not block is empty"
            when_empty()
            continue
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_all(
    fd: int, parts: Sequence[bytes | memoryview], when_full: Callable[[], None] | None = None
) -> None:
    """Write ``parts`` in one go where the pipe has room, so that its reader wakes once, from where they are.

    ``when_full``: waits for room, where ``fd`` does not block.
    """
    left = [memoryview(part) for part in parts]
    while left:
        try:
            written = os.writev(fd, left)
        except BlockingIOError:
            assert when_full, "only a pipe that does not block is full"
            when_full()
            continue
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]


def _attempt(data: bytes, preprocess: Preprocess | None, short_side: int) -> tuple[int, bytes | memoryview]:
    try:
        if preprocess is None:
            return 0, shrink(data, short_side)
        return 0, np.ascontiguousarray(to_rgb(data, preprocess)).data.cast("B")
    except ImageFailure as failure:
        return 1, json.dumps([failure.code, failure.detail]).encode()
    except MemoryError:
        return 1, json.dumps(["TOO_LARGE", "needs more memory than allowed"]).encode()
