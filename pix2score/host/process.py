"""What the process of a job needs before anything heavy is imported: threads that fit its container, one Ray,
a user's name, a home."""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from pix2score.host.cores import limit_library_threads


def settle() -> None:
    """A container may run the process under a uid that has neither a name nor a home; torch and Ray Train ask
    for both when imported."""
    limit_library_threads()
    os.environ.setdefault(
        "RAY_ENABLE_AUTO_CONNECT", "0"
    )  # else a thread that is late calls up another Ray after ours has ended
    _have_a_name()
    _have_a_home()


def tell_of_an_interrupt_in_a_line() -> None:
    """Ctrl-C while a command still imports what it needs, which takes seconds, is one line on standard error,
    no traceback."""
    sys.excepthook = _tell


def _tell(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted before anything was begun; the same command again is safe", file=sys.stderr)
    else:
        sys.__excepthook__(kind, exc, trace)


def _have_a_name() -> None:
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        os.environ["USER"] = f"uid{os.getuid()}"


def _have_a_home() -> None:
    """Where there is none: one of this process's own, which goes with it; /tmp itself could hold what others
    left for it to read."""
    try:
        Path.home()
    except RuntimeError:
        home = tempfile.mkdtemp(prefix="pix2score-home-")
        os.environ["HOME"] = home
        atexit.register(shutil.rmtree, home, ignore_errors=True)
