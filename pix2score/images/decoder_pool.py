"""Decoders lent to one thread at a time; their child processes are kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pix2score.images.decoder import Decoder
from pix2score.images.preprocess import Preprocess

_idle_decoders: dict[tuple[int, Preprocess | int], list[Decoder]] = {}
"""By process, as a child must not be shared across a fork, and task."""


@contextlib.contextmanager
def decoder_for(task: Preprocess | int) -> Iterator[Decoder]:
    """A decoder for one thread at a time; its child process is kept for the next."""
    idle = _idle_decoders.setdefault((os.getpid(), task), [])
    try:
        decoder = idle.pop()
    except IndexError:
        decoder = Decoder(task)
    try:
        yield decoder
    except BaseException:
        decoder.close()  # its answer may still be under way, and would be taken for the next image's
        raise
    idle.append(decoder)
