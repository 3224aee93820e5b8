"""The decoding process: ``images`` under an address-space limit and a limit of processor time per image.

Speaks length-prefixed messages over its standard input and output, and ends by itself when its owner, a
``decoder.Decoder``, has ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from pix2score.errors import ImageFailure
from pix2score.images.decode import shrink, to_rgb
from pix2score.images.preprocess import Preprocess, preprocess_from_dict

REQUEST = struct.Struct("<Q")
REPLY = struct.Struct("<BQ")


def serve(settings: dict[str, object]) -> None:
    """The child's loop: one request, one reply, until standard input ends."""
    limit = cast(int, settings["memory_bytes"])
    timeout_s, patience_s = cast(float, settings["timeout_s"]), cast(float, settings["patience_s"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, replies = sys.stdin.buffer, os.dup(1)
    os.dup2(2, 1)  # a chatty codec must not write into the replies
    preprocess = (
        preprocess_from_dict(cast(dict[str, object], settings["preprocess"]))
        if "preprocess" in settings
        else None
    )
    short_side = cast(int, settings.get("shrink", 0))
    while header := requests.read(REQUEST.size):
        data = requests.read(REQUEST.unpack(header)[0])
        # The default action of both timers' signals ends the process even inside C code. The first counts
        # processor time; by the second,
        # far longer, a child whose owner was killed cannot hang for ever.
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        signal.setitimer(signal.ITIMER_REAL, patience_s)
        status, payload = _attempt(data, preprocess, short_side)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_all(replies, [REPLY.pack(status, len(payload)), payload])


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
