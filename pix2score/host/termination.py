"""Being told to end by SIGTERM, as Kubernetes, ``timeout`` and ``ray job stop`` do: it comes out as an
exception, like Ctrl-C.

Ray's own C++ handler aborts a process that does not end in time, and one that is told twice; this one
replaces it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

EXIT_STATUS = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """The process was told to end."""

    def __str__(self) -> str:
        return "told to end by SIGTERM"


class _State:
    """Of this process."""

    is_asked = False
    is_deferred = False
    is_acknowledged = False


def install() -> Any:
    """SIGTERM raises ``Terminated`` in the main thread from now on, until that is acknowledged; returns what
    handled it before.

    Does nothing, and returns None, in another thread: there Python allows no handler.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    _State.is_asked = _State.is_acknowledged = False
    return signal.signal(signal.SIGTERM, _handle)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """``install`` inside the block, and afterwards what was there before. A handler of the caller's own, as a
    scheduler sets one for its tasks, stays."""
    with kept():
        if not callable(signal.getsignal(signal.SIGTERM)):
            install()
        yield


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """What handles SIGTERM before the block does so afterwards, whatever a library sets inside.

    Does nothing in a thread other than the main one: there Python allows no handler.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside the block a SIGTERM only makes ``is_asked`` true: the body looks, puts its work in order, and
    calls ``leave``."""
    outer, _State.is_deferred = _State.is_deferred, True
    try:
        yield
    finally:
        _State.is_deferred = outer
    if _State.is_asked and not outer:
        leave()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C inside the block comes out as ``KeyboardInterrupt``, whatever handler a library sets there.

    Ray Train's calls ``sys.exit``, with code 0 at that, and is still set after the training.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except Terminated:
        raise
    except SystemExit as exc:
        raise KeyboardInterrupt from exc
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def is_asked() -> bool:
    """Whether this process was told to end."""
    return _State.is_asked


def is_told(exc: BaseException) -> bool:
    """Whether this is how Ctrl-C or SIGTERM comes out, also by Ray's handler while Ray starts."""
    is_rays = isinstance(exc, SystemExit) and exc.code == signal.SIGTERM
    return isinstance(exc, (KeyboardInterrupt, Terminated)) or is_rays


def acknowledge(exc: BaseException) -> None:
    """After Ctrl-C, SIGTERM or ``sys.exit`` the process is on its way out: being told again must not disturb
    it."""
    if isinstance(exc, (KeyboardInterrupt, SystemExit)):
        _State.is_acknowledged = True


def leave() -> None:
    """Raise ``Terminated``, unless the process is on its way out."""
    if not _State.is_acknowledged:
        raise Terminated(EXIT_STATUS)


def _handle(*_: Any) -> None:
    _State.is_asked = True
    if not _State.is_deferred:
        leave()
