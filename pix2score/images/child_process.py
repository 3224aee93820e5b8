"""One decode child, seen by its owner: started, given images, heard, ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
from typing import BinaryIO, cast

from pix2score.host.child_wait import Wait
from pix2score.images.child import REQUEST, read_exactly, write_all
from pix2score.images.slots import Answer, Slots, shared_memory

_PIPE_BYTES = 2**20  # images that wait are in it; the Linux default of 64 KiB means several wake-ups for one
_PAGE_BYTES = 4096
_KEEP_MEMORY = {
    "PILLOW_BLOCKS_MAX": "8",
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}
"""Of the child, which would else give its memory back after each image and have it zeroed again for the next:
128 MiB stay. On photographs of 500x375 and 1,200 px decoding in a child took 1.2 to 1.4 times as long as in
the caller without it."""


class ChildProcess:
    """Answers come in the order of the images, but not each as soon as it is there (``child``)."""

    def __init__(self, settings: dict[str, object]) -> None:
        fd = shared_memory()
        try:
            self.slots = Slots(fd)
            self._process = _started({**settings, "slots": fd}, fd)
        finally:
            os.close(fd)
        self.pid = self._process.pid
        self._in, self._out = (
            cast(BinaryIO, pipe).fileno() for pipe in (self._process.stdin, self._process.stdout)
        )
        self._pipe_bytes = fcntl.fcntl(self._in, fcntl.F_GETPIPE_SZ)
        self.num_given = 0
        """Images that were given and not answered."""
        self._number = self._said = 0

    def would_take(self, waiting: list[bytes], data: bytes) -> bool:
        """Whether its pipe holds ``data`` beside those that wait in it."""
        pages = sum(-(-(REQUEST.size + len(one)) // _PAGE_BYTES) for one in (*waiting, data))
        return pages * _PAGE_BYTES <= self._pipe_bytes

    def give(self, data: bytes, wait: Wait) -> None:
        """Raises ``BrokenPipeError``; ``TimeoutError`` after a part of it."""
        write_all(self._in, [REQUEST.pack(len(data)), data], lambda: wait.until(self._in, select.POLLOUT))
        self.num_given += 1

    def receive(self, wait: Wait) -> Answer:
        """The next answer, with its payload. Raises ``EOFError``, ``TimeoutError``."""
        if not self._said:
            self._said = self._read(1, wait)[0]
        answer = self.slots.get(self._number)
        if answer is None:
            raise EOFError
        if answer.payload is None:
            answer = Answer(answer.status, answer.size, self._read(answer.size, wait))
        self._said -= 1
        return self._taken(answer)

    def unsaid(self) -> Answer | None:
        """The next answer if it is there, of a child that will say nothing more."""
        answer = self.slots.get(self._number)
        return None if answer is None or answer.payload is None else self._taken(answer)

    def _taken(self, answer: Answer) -> Answer:
        self._number, self.num_given = self._number + 1, self.num_given - 1
        return answer

    def _read(self, size: int, wait: Wait) -> bytes:
        return read_exactly(self._out, size, lambda: wait.until(self._out, select.POLLIN))

    def has_died(self) -> bool:
        """Whether it has ended by now."""
        return self._process.poll() is not None

    def exit_code(self, timeout_s: float) -> int:
        """As ``subprocess.Popen.wait``; 0 if it has not ended by then."""
        try:
            return self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return 0

    def end(self) -> None:
        """Kill it, if it lives."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                cast(BinaryIO, pipe).close()
        self.slots.close()


def _started(settings: dict[str, object], fd: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OPENBLAS_NUM_THREADS": "1",
    } | _KEEP_MEMORY
    child = subprocess.Popen(
        [sys.executable, "-m", "pix2score.images.decoder", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        bufsize=0,
        pass_fds=[fd],
    )
    for pipe in (cast(BinaryIO, child.stdin), cast(BinaryIO, child.stdout)):
        os.set_blocking(pipe.fileno(), False)
        with contextlib.suppress(OSError):  # over the user's pipe quota: slower, not wrong
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return child
