"""Decodes bytes from strangers in a child process, so that a bad image costs one row and never the worker.

Owns the child: starts it, gives it images, waits for answers, and tells what an image did to it from what
something else did. An image has a limit of processor time: a pause of the child, the container or the machine
is no fault of the image. What the child does is in ``images.child``; it is run as ``python -m
pix2score.images.decoder SETTINGS`` by ``Decoder`` only.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import asdict
from typing import cast

from pix2score.errors import ImageErrorCode, ImageFailure
from pix2score.host.child_wait import Wait, patience_s
from pix2score.images.child import serve
from pix2score.images.child_process import ChildProcess
from pix2score.images.preprocess import Preprocess
from pix2score.images.slots import NUM_SLOTS, Answer

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
        self._child: ChildProcess | None = None
        self._begun: list[bytes] = []
        """Images without an answer, in order; a child that takes another's place is given them again."""

    def __call__(self, data: bytes) -> bytes:
        """RGB pixels (S*S*3 bytes, row by row) or shard bytes. Raises ``ImageFailure``."""
        return self.finish(data)

    def begin(self, data: bytes) -> bool:
        """Give the child another image while it may be at work on those before; ``finish`` of all in this
        order. Never raises.

        False: it has enough, or would not take this one, and this process would wait; ``finish`` the first.
        """
        child = self._ready_child()
        if self._begun and not (len(self._begun) < NUM_SLOTS and child.would_take(self._begun[1:], data)):
            return False
        self._begun.append(data)
        try:
            self._give(child, Wait(child.pid, self.timeout_s))
        except BrokenPipeError:
            pass  # finish finds out
        except TimeoutError:
            self._end()  # it has got a part, and would take the next image for the rest
        return True

    def finish(self, data: bytes) -> bytes:
        """As calling; the image may have been begun. Others that were begun before it and not finished are
        forgotten."""
        if not self._begun or self._begun[0] is not data:
            if self._begun:
                self.close()  # never the answer to another image
            self._begun = [data]
        try:
            return self._answer()
        finally:
            del self._begun[:1]

    def _answer(self) -> bytes:
        for attempt in range(1, NUM_ATTEMPTS + 1):
            try:
                return self._attempt()
            except _NotTheImage as cause:
                last = str(cause)
            if attempt < NUM_ATTEMPTS:
                time.sleep(_PAUSE_S * (attempt - 1))
        raise ImageFailure("CRASHED", f"decoder {last}, {NUM_ATTEMPTS} times")

    def _attempt(self) -> bytes:
        """The answer to the first image."""
        answer = self._heard(self._ready_child())
        payload = cast(bytes, answer.payload)
        if answer.status:
            code, detail = json.loads(payload)
            raise ImageFailure(cast(ImageErrorCode, code), detail)
        return payload

    def _heard(self, child: ChildProcess) -> Answer:
        """Raises ``ImageFailure``, ``_NotTheImage``."""
        wait = Wait(child.pid, self.timeout_s)
        try:
            if not child.num_given:
                self._give(child, wait)
            return child.receive(wait)
        except TimeoutError as cause:
            unsaid = child.unsaid()
            self._end()
            if unsaid is not None:
                return unsaid
            if wait.slept_s >= self.timeout_s:
                raise ImageFailure("CRASHED", f"decoding took over {self.timeout_s:g} s, {cause}") from None
            raise _NotTheImage(str(cause)) from None
        except (BrokenPipeError, EOFError):
            unsaid = child.unsaid()
            if unsaid is not None:
                return unsaid
            raise self._cause_of_death(child) from None
        except BaseException:
            self.close()  # an answer is still under way
            raise

    def _ready_child(self) -> ChildProcess:
        """One that lives, or the one that was given images, though it may have died of them since."""
        if self._child is not None and not self._child.num_given and self._child.has_died():
            self._end()  # between two images: nobody's fault
        if self._child is None:
            self._child = ChildProcess(
                {**self._settings, "timeout_s": self.timeout_s, "patience_s": patience_s(self.timeout_s) + 5}
            )
        return self._child

    def _give(self, child: ChildProcess, wait: Wait) -> None:
        for data in self._begun[child.num_given :]:
            child.give(data, wait)

    @property
    def pid(self) -> int | None:
        """Process id of the child, if one runs."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child; forget what was begun."""
        self._end()
        self._begun = []

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child = None

    def _cause_of_death(self, child: ChildProcess) -> Exception:
        code = child.exit_code(timeout_s=5)
        self._end()
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


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
