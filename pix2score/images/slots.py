"""Memory that a ``decoder.Decoder`` shares with its child, for answers: they need no pipe, and outlive the
child.

Answers have numbers, from 0, and the memory holds the last ``NUM_SLOTS`` of them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass

NUM_SLOTS = 8
SLOT_BYTES = 512 * 2**10
"""Pixels of 416 px; the kernel gives memory for what is written alone."""
MEMORY_BYTES = NUM_SLOTS * SLOT_BYTES
_HEADER = struct.Struct("<QBQ")  # number + 1, status, bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """Of the child, to one image."""

    status: int
    size: int
    payload: bytes | None
    """None: it did not fit, and follows through the pipe."""


class Slots:
    """A ring of answers, written by the child and read by its owner."""

    def __init__(self, fd: int) -> None:
        """``fd``: as ``shared_memory`` returns."""
        self._memory = mmap.mmap(fd, MEMORY_BYTES)

    def put(self, number: int, status: int, payload: bytes | memoryview) -> bool:
        """Whether there was room for the payload; status and size are there in either case."""
        start, size = number % NUM_SLOTS * SLOT_BYTES, len(payload)
        fits = _fits(size)
        if fits:
            self._memory[start + _HEADER.size : start + _HEADER.size + size] = payload
        self._memory[start : start + _HEADER.size] = _HEADER.pack(number + 1, status, size)
        return fits

    def get(self, number: int) -> Answer | None:
        """None: there is no such answer, or not yet."""
        start = number % NUM_SLOTS * SLOT_BYTES
        found, status, size = _HEADER.unpack_from(self._memory, start)
        if found != number + 1:
            return None
        start += _HEADER.size
        return Answer(status, size, self._memory[start : start + size] if _fits(size) else None)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


def shared_memory() -> int:
    """A file descriptor for ``Slots`` of two processes, to be closed. Nobody can make it smaller: a child in
    the hands of a picture could end its owner so."""
    fd = os.memfd_create("pix2score-answers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, MEMORY_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def _fits(size: int) -> bool:
    return size <= SLOT_BYTES - _HEADER.size
