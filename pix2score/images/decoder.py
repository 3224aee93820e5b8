"""Decodes bytes from strangers in a child process, so that a bad image costs one row and never the worker.

Owns the child: starts it, gives it images, waits for answers, and tells what an image did to it from what
something else did. An image has a limit of processor time: a pause of the child, the container or the machine
is no fault of the image. What the child does is in ``images.child``; it is run as ``python -m
pix2score.images.decoder SETTINGS`` by ``Decoder`` only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import BinaryIO, cast

from pix2score.errors import ImageErrorCode, ImageFailure
from pix2score.host.child_wait import Wait, patience_s
from pix2score.images.child import REPLY, REQUEST, serve, write_all
from pix2score.images.preprocess import Preprocess

MEMORY_BYTES = 2 * 2**30  # 100 megapixels of RGBA with its white background and RGB copy need about 1.3 GiB
TIMEOUT_S = 30.0
"""Processor time per image."""
NUM_ATTEMPTS = 3
"""For an image whose child was killed from outside or did not get to run."""
_PAUSE_S = 0.5
"""Before another attempt, growing with each: what took the memory may have ended by then."""
_MEMORY = " (by the kernel, short of memory?)"
_OWN_SIGNALS = {
    getattr(signal, f"SIG{name}")
    for name in ("SEGV", "ABRT", "BUS", "FPE", "ILL", "SYS", "TRAP", "XCPU", "STKFLT")
    if hasattr(signal, f"SIG{name}")
}
"""What decoding itself dies of; any other signal came from an operator, a supervisor, or the kernel short of
memory."""
_PIPE_BYTES = (
    2**20
)  # one write for most images and for 224 px of pixels; the Linux default of 64 KiB means several wake-ups

_KEEP_MEMORY = {
    "PILLOW_BLOCKS_MAX": "8",
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}
"""Of the child, which would else give its memory back after each image and have it zeroed again for the next:
128 MiB stay. On photographs of 500x375 and 1,200 px decoding in a child took 1.2 to 1.4 times as long as in
the caller without it, 1.0 to 1.1 with it; over all kinds of ``jobs.benchmark --stage decode`` it is 1.0 to
1.3, most where an image takes under 3 ms."""


class Decoder:
    """Owns one child process at a time; ``pixels`` or ``shrunk`` by the settings it was made with.

    Not safe for concurrent use. A child that dies of an image or takes too long over it fails that one as
    CRASHED and is replaced for the next; one that was killed from outside or did not get to run is replaced
    for the same image, ``NUM_ATTEMPTS`` times in all.
    """

    def __init__(
        self,
        task: Preprocess | int,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """``task``: a ``Preprocess`` to get RGB pixels, or a short side in px to get bytes for a training
        shard.

        ``timeout_s``: processor time per image.
        """
        self.timeout_s = timeout_s
        plain = {"shrink": task} if isinstance(task, int) else {"preprocess": asdict(task)}
        self._settings: dict[str, object] = {**plain, "memory_bytes": memory_bytes}
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe_bytes = 0
        self._under_way: list[bytes] = []
        """What the child was given and has not answered, in order: at most two."""

    def __call__(self, data: bytes) -> bytes:
        """RGB pixels (S*S*3 bytes, row by row) or shard bytes. Raises ``ImageFailure``."""
        return self.finish(data)

    def begin(self, data: bytes) -> None:
        """Give the child its next image while it may be at work on the one before; ``finish`` of both in this
        order. Never raises."""
        if any(begun is data for begun in self._under_way):
            return
        if len(self._under_way) > 1 or (self._under_way and REQUEST.size + len(data) > self._pipe_bytes):
            return  # the child, busy, would not take it, and this process would wait
        child = self._living_child()
        try:
            self._send(child, data, Wait(child.pid, self.timeout_s))
        except BrokenPipeError:
            pass  # finish finds out
        except TimeoutError:
            self.close()  # it has got a part, and would take the next image for the rest

    def finish(self, data: bytes) -> bytes:
        """As calling; the image may have been begun. Another that was begun before it and not finished is
        forgotten."""
        for attempt in range(1, NUM_ATTEMPTS + 1):
            try:
                return self._attempt(data)
            except _NotTheImage as cause:
                last = str(cause)
            if attempt < NUM_ATTEMPTS:
                time.sleep(_PAUSE_S * (attempt - 1))
        raise ImageFailure("CRASHED", f"decoder {last}, {NUM_ATTEMPTS} times")

    def _attempt(self, data: bytes) -> bytes:
        child = self._child_for(data)
        wait = Wait(child.pid, self.timeout_s)
        try:
            if not self._under_way:
                self._send(child, data, wait)
            status, size = REPLY.unpack(_read_exactly(child, REPLY.size, wait))
            payload = _read_exactly(child, size, wait)
        except TimeoutError as cause:
            self.close()
            if wait.slept_s >= self.timeout_s:
                raise ImageFailure("CRASHED", f"decoding took over {self.timeout_s:g} s, {cause}") from None
            raise _NotTheImage(str(cause)) from None
        except (BrokenPipeError, EOFError):
            raise self._cause_of_death(child) from None
        except BaseException:
            self.close()  # an answer is still under way
            raise
        self._under_way.pop(0)
        if status:
            code, detail = json.loads(payload)
            raise ImageFailure(cast(ImageErrorCode, code), detail)
        return payload

    def _child_for(self, data: bytes) -> subprocess.Popen[bytes]:
        """The child that was given this image, though it may have died of it since, or else a living one."""
        if self._under_way and self._under_way[0] is data:
            return cast("subprocess.Popen[bytes]", self._child)
        if self._under_way:
            self.close()  # never the answer to another image
        return self._living_child()

    def _send(self, child: subprocess.Popen[bytes], data: bytes, wait: Wait) -> None:
        fd = cast(BinaryIO, child.stdin).fileno()
        write_all(fd, [REQUEST.pack(len(data)), data], lambda: wait.until(fd, select.POLLOUT))
        self._under_way.append(data)

    @property
    def pid(self) -> int | None:
        """Process id of the child, if one runs."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                with contextlib.suppress(OSError):
                    cast(BinaryIO, pipe).close()
        self._child, self._under_way = None, []

    def _living_child(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self.close()  # died between two images: nobody's fault
        if self._child is None:
            self._child = _start_child(
                {**self._settings, "timeout_s": self.timeout_s, "patience_s": patience_s(self.timeout_s) + 5}
            )
            self._pipe_bytes = fcntl.fcntl(cast(BinaryIO, self._child.stdin).fileno(), fcntl.F_GETPIPE_SZ)
        return self._child

    def _cause_of_death(self, child: subprocess.Popen[bytes]) -> Exception:
        try:
            code = child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        if code >= 0:
            return _NotTheImage(f"exited with {code}")
        cause = signal.Signals(-code)
        if cause == signal.SIGPROF:
            return ImageFailure("CRASHED", f"decoding took over {self.timeout_s:g} s of processor time")
        if cause in _OWN_SIGNALS:
            return ImageFailure("CRASHED", f"decoding ended its process by {cause.name}")
        if cause == signal.SIGALRM:
            return _NotTheImage("did not get to run in time")
        return _NotTheImage(
            f"was killed by {cause.name} from outside{_MEMORY if cause == signal.SIGKILL else ''}"
        )


class _NotTheImage(Exception):
    """What ended the child, or kept it from answering, is something that decoding does not do."""


def _start_child(settings: dict[str, object]) -> subprocess.Popen[bytes]:
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
    )
    for pipe in (cast(BinaryIO, child.stdin), cast(BinaryIO, child.stdout)):
        os.set_blocking(pipe.fileno(), False)
        with contextlib.suppress(OSError):  # over the user's pipe quota: slower, not wrong
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return child


def _read_exactly(child: subprocess.Popen[bytes], size: int, wait: Wait) -> bytes:
    """Mostly what one read gives, as it is: the child writes an answer in one go."""
    fd = cast(BinaryIO, child.stdout).fileno()
    parts: list[bytes] = []
    while size:
        try:
            part = os.read(fd, size)
        except BlockingIOError:
            wait.until(fd, select.POLLIN)
            continue
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
