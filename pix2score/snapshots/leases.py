"""Leases: what a scoring run says while it can still publish, so that ``vacuum`` leaves alone what it needs.

    leases/<run>.json      from before the run looks at staged pieces until it has published or ended

A lease is in force for ``EXPIRES_S`` after it was last written, by the storage's own clock, so that
clocks of machines do not matter. A run writes it again every ``RENEW_S``. One whose process is known to be
gone (same machine, same start of it) is not waited for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pix2score.errors import AccessError, DataError, StorageError
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)

LEASES = "leases"
EXPIRES_S = 3600.0
"""Twelve renewals: a run may be paused or cut off from its storage for most of an hour."""
RENEW_S = 300.0


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, described so that another one on the same machine knows whether it still runs."""

    boot: str
    """Id of the machine's last start and of the process namespace."""
    pid: int
    started: str
    """Clock ticks from the machine's start to the process's."""

    @property
    def is_gone(self) -> bool:
        """Whether the process surely runs no more; False where this process cannot tell."""
        return self.boot == _boot() and _started(self.pid) != self.started


def this_process() -> Holder:
    """The process that calls."""
    return Holder(_boot(), os.getpid(), _started(os.getpid()) or "")


def _boot() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return uuid.uuid4().hex  # equal to no other: nothing is known


def _started(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]  # field 22 of proc(5); the name before may hold anything


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one run to what is in a scores folder."""

    folder: Folder
    run: str
    holder: Holder = field(default_factory=this_process)
    snapshot: int | None = None
    """An older snapshot that it is about to publish anew: ``vacuum`` must not remove it meanwhile."""

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{LEASES}/{self.run}.json"

    def take(self) -> None:
        """Write it, or write it again."""
        content = {"run": self.run, "holder": asdict(self.holder), "snapshot": self.snapshot}
        self.folder.publish(self.path, json.dumps(content).encode(), replace=True)

    def release(self) -> None:
        """Give it back. What cannot be removed expires."""
        with _logged(f"lease of run {self.run} was not given back"):
            self.folder.delete([self.path])

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renew it while the body runs, if it was taken; give it back at the end."""
        try:
            with self.renewed():
                yield
        finally:
            self.release()

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew it while the body runs, if it was taken."""
        ended = threading.Event()
        thread = threading.Thread(target=self._renew, args=(ended,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(RENEW_S):
            with _logged(f"lease of run {self.run} was not renewed"):
                if self.folder.is_file(self.path) and not ended.is_set():
                    self.take()


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    try:
        yield
    except (DataError, StorageError) as exc:
        logger.warning("%s: %s", what, exc)


@dataclass(frozen=True, slots=True)
class Leases:
    """Leases of a folder at one moment: runs that are at work, and objects of leases that are over."""

    runs: frozenset[str]
    over: tuple[str, ...]
    snapshots: frozenset[int] = frozenset()
    """Older snapshots that are about to be published anew."""


def read_leases(folder: Folder) -> Leases:
    """Which runs are at work.

    One small object is written and removed where there is any lease, to ask the storage's clock.
    """
    entries = (folder / LEASES).entries(suffix=".json")
    if not entries:
        return Leases(frozenset(), ())
    now = _storage_time(folder)
    contents = folder.read_many([f"{LEASES}/{entry.path}" for entry in entries])
    runs, over, snapshots = set(), [], set()
    for entry in entries:
        content = contents.get(f"{LEASES}/{entry.path}")
        if content is None:
            continue  # given back by now
        if now - entry.modified > EXPIRES_S or _is_gone(content):
            over.append(f"{LEASES}/{entry.path}")
        else:
            runs.add(entry.path.removesuffix(".json"))
            snapshots |= _snapshots(content)
    return Leases(frozenset(runs), tuple(over), frozenset(snapshots))


def _is_gone(content: bytes) -> bool:
    try:
        return Holder(**json.loads(content)["holder"]).is_gone
    except (ValueError, KeyError, TypeError):
        return False


def _snapshots(content: bytes) -> set[int]:
    try:
        return {int(json.loads(content)["snapshot"])}
    except (ValueError, KeyError, TypeError):
        return set()


def _storage_time(folder: Folder) -> float:
    """Seconds since 1970 by the clock that dates objects; by this machine's, where nothing may be written."""
    path = f"{LEASES}/clock-{uuid.uuid4().hex[:16]}"
    try:
        folder.publish(path, b"now")
    except AccessError:
        return time.time()
    try:
        return folder.entry(path).modified
    finally:
        folder.delete([path])
