"""Temporary folders on the local disk: room for them is checked before work starts, and those of killed
processes are removed.

A folder holds a lock file that its owner keeps locked; the kernel lets go of it when the process ends,
however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pix2score.errors import ConfigError

logger = logging.getLogger(__name__)

PREFIX = "pix2score-"
LOCK = ".owner"


@contextlib.contextmanager
def scratch_folder(needed_bytes: int = 0, what: str = "this") -> Iterator[Path]:
    """An empty folder below the system's temporary folder, removed afterwards; folders that killed processes
    left there are removed first.

    Raises ``ConfigError`` if less than ``needed_bytes`` are free there; ``what`` is the work that needs them.
    """
    top = Path(tempfile.gettempdir())
    remove_abandoned(top)
    free = shutil.disk_usage(top).free
    if free < needed_bytes:
        raise ConfigError(f"{what} needs about {size_text(needed_bytes)} of temporary disk: {room(top)}")
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder,
        _owned(Path(folder)),
    ):
        yield Path(folder)


def size_text(num_bytes: int) -> str:
    """For people: in MiB, from a GiB on in GiB."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def room(folder: str | os.PathLike[str]) -> str:
    """What is free in a temporary folder, and what to do if that is too little."""
    free = shutil.disk_usage(folder).free
    mend = "free some, or set TMPDIR, on a cluster on its nodes, to a folder on a larger disk"
    return f"{size_text(free)} are free in {os.fspath(folder)}; {mend}"


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """The folder's lock file is there and locked. It gets its name only once it is locked: under it, unlocked
    means abandoned."""
    draft = folder / f"{LOCK}-draft"
    with draft.open("w") as file:
        file.write(f"{socket.gethostname()} {_boot()}")
        file.flush()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a filesystem without locks: the folder is never taken for abandoned
            draft.unlink()
        else:
            draft.rename(folder / LOCK)
        yield


def remove_abandoned(top: Path) -> None:
    """Remove folders of our own, of this machine, whose owner has ended. One without a lock file is never
    touched: it may be anybody's."""
    for folder in top.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _abandoned(folder) as is_ours:
            if is_ours:
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("removed %s, which a killed process had left", folder)


@contextlib.contextmanager
def _abandoned(folder: Path) -> Iterator[bool]:
    """Whether the folder is ours and its owner has ended; locked meanwhile, so that only one of two removes
    it. ``OSError`` if not."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        yield False
        return
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        host, _, boot = os.read(lock, 1024).decode(errors="replace").partition(" ")
        # A temporary folder may be shared: with another container of this machine (same boot), or over NFS,
        # whose locks may not travel.
        is_here = host == socket.gethostname() or bool(boot and boot == _boot())
        yield is_here and os.fstat(lock).st_uid == os.geteuid()
    finally:
        os.close(lock)


def _boot() -> str:
    """Changes with every start of this machine; empty where there is no telling."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
