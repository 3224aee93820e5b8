"""Decodes bytes from strangers in a child process, so that a bad image costs one row and never the worker.

The child runs ``images`` under an address-space limit and a time limit per image. It speaks length-prefixed messages over its standard
input and output, and ends by itself when its owner is gone. Run as ``python -m pix2score.decoder SETTINGS`` by ``Decoder`` only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from dataclasses import asdict
from typing import BinaryIO, cast

from pix2score.errors import ImageErrorCode, ImageFailure
from pix2score.images import Preprocess, preprocess_from_dict, shrink, to_rgb

MEMORY_BYTES = 2 * 2**30  # 100 megapixels of RGBA with its white background and RGB copy need about 1.3 GiB
TIMEOUT_S = 30.0
_REQUEST = struct.Struct("<Q")
_REPLY = struct.Struct("<BQ")
_PIPE_BYTES = 2**20  # one write for most images and for 224 px of pixels; the Linux default of 64 KiB means several wake-ups


_KEEP_MEMORY = {"PILLOW_BLOCKS_MAX": "8", "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}
"""Of the child, which would else give its memory back after each image and have it zeroed again for the next: 128 MiB stay. On photographs
of 500x375 and 1,200 px decoding in a child took 1.2 to 1.4 times as long as in the caller without it, 1.0 to 1.1 with it; over all kinds of
``jobs.benchmark --stage decode`` it is 1.0 to 1.3, most where an image takes under 3 ms."""


class Decoder:
    """Owns one child process at a time; ``pixels`` or ``shrunk`` by the settings it was made with.

    Not safe for concurrent use. A child that dies or overruns fails that one image as CRASHED and is replaced for the next; one that was
    killed from outside is replaced for the same image, once.
    """

    def __init__(
        self,
        task: Preprocess | int,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """``task``: a ``Preprocess`` to get RGB pixels, or a short side in px to get bytes for a training shard."""
        self.timeout_s = timeout_s
        plain = {"shrink": task} if isinstance(task, int) else {"preprocess": asdict(task)}
        self._settings = json.dumps({**plain, "memory_bytes": memory_bytes, "timeout_s": timeout_s})
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe_bytes = 0
        self._under_way: list[bytes] = []
        """What the child was given and has not answered, in order: at most two."""

    def __call__(self, data: bytes) -> bytes:
        """RGB pixels (S*S*3 bytes, row by row) or shard bytes. Raises ``ImageFailure``."""
        return self.finish(data)

    def begin(self, data: bytes) -> None:
        """Give the child its next image while it may be at work on the one before; ``finish`` of both in this order. Never raises."""
        if any(begun is data for begun in self._under_way):
            return
        if len(self._under_way) > 1 or (self._under_way and _REQUEST.size + len(data) > self._pipe_bytes):
            return  # the child, busy, would not take it, and this process would wait
        with contextlib.suppress(TimeoutError, BrokenPipeError):  # finish finds out
            self._send(self._living_child(), data, time.monotonic() + self.timeout_s)

    def finish(self, data: bytes) -> bytes:
        """As calling; the image may have been begun. Another that was begun before it and not finished is forgotten.

        A child that something outside killed decodes the image once more: the image need not be what killed it.
        """
        try:
            return self._attempt(data)
        except _KilledFromOutside:
            pass
        try:
            return self._attempt(data)
        except _KilledFromOutside as killed:
            raise ImageFailure("CRASHED", f"decoder was killed by {killed} twice") from None

    def _attempt(self, data: bytes) -> bytes:
        child = self._living_child()
        if self._under_way and self._under_way[0] is not data:
            self.close()  # never the answer to another image
            child = self._living_child()
        deadline = time.monotonic() + self.timeout_s
        try:
            if not self._under_way:
                self._send(child, data, deadline)
            status, size = _REPLY.unpack(_read_exactly(child, _REPLY.size, deadline))
            payload = _read_exactly(child, size, deadline)
        except TimeoutError:
            self.close()
            raise ImageFailure("CRASHED", f"decoding took over {self.timeout_s:g} s") from None
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

    def _send(self, child: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
        _write_all(child, _REQUEST.pack(len(data)), deadline)
        _write_all(child, data, deadline)
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
            self._child = _start_child(self._settings)
            self._pipe_bytes = fcntl.fcntl(cast(BinaryIO, self._child.stdin).fileno(), fcntl.F_GETPIPE_SZ)
        return self._child

    def _cause_of_death(self, child: subprocess.Popen[bytes]) -> Exception:
        try:
            code = child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        if -code in (signal.SIGKILL, signal.SIGTERM):
            return _KilledFromOutside(signal.Signals(-code).name)
        return ImageFailure(
            "CRASHED", f"decoder was killed by {signal.Signals(-code).name}" if code < 0 else f"decoder exited with {code}"
        )


class _KilledFromOutside(Exception):
    """The child got a signal that decoding itself does not raise: an operator, a supervisor, or the kernel short of memory."""


def _start_child(settings: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OPENBLAS_NUM_THREADS": "1",
    } | _KEEP_MEMORY
    child = subprocess.Popen(
        [sys.executable, "-m", "pix2score.decoder", settings],
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


def _wait(fd: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _write_all(child: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
    fd = cast(BinaryIO, child.stdin).fileno()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            _wait(fd, select.POLLOUT, deadline)


def _read_exactly(child: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    fd = cast(BinaryIO, child.stdout).fileno()
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        _wait(fd, select.POLLIN, deadline)
        num_read = os.readv(fd, [view])
        if not num_read:
            raise EOFError
        view = view[num_read:]
    return bytes(buffer)


def _serve(settings: dict[str, object]) -> None:
    """The child's loop: one request, one reply, until standard input ends."""
    limit, timeout_s = cast(int, settings["memory_bytes"]), cast(float, settings["timeout_s"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a chatty codec must not write into the replies
    preprocess = preprocess_from_dict(cast(dict[str, object], settings["preprocess"])) if "preprocess" in settings else None
    short_side = cast(int, settings.get("shrink", 0))
    while header := requests.read(_REQUEST.size):
        data = requests.read(_REQUEST.unpack(header)[0])
        # The default action of SIGALRM ends the process even inside C code: a child whose owner was killed cannot hang for ever.
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 5)
        status, payload = _attempt(data, preprocess, short_side)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(_REPLY.pack(status, len(payload)) + payload)
        replies.flush()


def _attempt(data: bytes, preprocess: Preprocess | None, short_side: int) -> tuple[int, bytes]:
    try:
        return 0, shrink(data, short_side) if preprocess is None else to_rgb(data, preprocess).tobytes()
    except ImageFailure as failure:
        return 1, json.dumps([failure.code, failure.detail]).encode()
    except MemoryError:
        return 1, json.dumps(["TOO_LARGE", "needs more memory than allowed"]).encode()


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
