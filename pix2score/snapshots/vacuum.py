"""vacuum: what no kept snapshot and no run needs is removed.

Small or mostly superseded embedding files are rewritten first (``compaction``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from pix2score.snapshots.compaction import compact
from pix2score.snapshots.config import VacuumConfig, seconds
from pix2score.snapshots.leases import Leases, read_leases
from pix2score.snapshots.manifest import Snapshot, live, numbers, read_snapshot, remove_manifests
from pix2score.snapshots.pieces import STAGED, staged_receipts
from pix2score.storage.folder import Entry, Folder
from pix2score.summaries import VacuumSummary

logger = logging.getLogger(__name__)
_TABLES = ("scores", "embeddings", "dead", "removed", STAGED)
MIN_TEMPORARY_AGE_S = 3_600.0
"""Of a file that a writer has not finished: younger ones may be at work."""


def vacuum(config: VacuumConfig) -> VacuumSummary:
    """Remove what no kept snapshot names and no run of late staged; return counts and bytes.

    The newest ``keep`` snapshots are kept. Beside a scoring run it is safe: the run holds a lease, and what
    it may publish stays.

    Raises:
        DataError: no snapshot there.
        AccessError, StorageError: something could not be removed; what was removed first are receipts and old
        snapshots.
    """
    folder, started = Folder(config.scores), time.monotonic()
    snapshot = live(config.scores)
    now = time.time()
    compacted = (
        0
        if config.dry_run
        else compact(folder, snapshot, _forgotten(folder, snapshot, now - seconds(config.keep_staged)))
    )
    kept_numbers = numbers(folder)[-config.keep :]
    old = [number for number in numbers(folder) if number < kept_numbers[0]]
    kept = [read_snapshot(folder, number) for number in kept_numbers]
    surplus = _surplus(folder, kept, now - seconds(config.keep_staged), now - MIN_TEMPORARY_AGE_S)
    if not config.dry_run:
        remove_manifests(folder, old)
        folder.delete([entry.path for entry in surplus])
    return {
        "job": "vacuum",
        "snapshots_removed": len(old),
        "files_removed": len(surplus),
        "bytes_removed": sum(e.size for e in surplus),
        "files_compacted": compacted,
        "seconds": round(time.monotonic() - started, 3),
    }


def _forgotten(folder: Folder, snapshot: Snapshot, older_than: float) -> set[str]:
    """Files of removed rows that are too old to come back.

    None while a run, that may take rows of them back, is at work.
    """
    if not snapshot.files_of("removed") or read_leases(folder).runs:
        return set()
    return {
        f"removed/{entry.path}" for entry in (folder / "removed").entries() if entry.modified <= older_than
    }


def _surplus(
    folder: Folder, kept: Sequence[Snapshot], older_than: float, unfinished_before: float
) -> list[Entry]:
    """What may go, receipts first: a file must never go before the receipt that names it."""
    entries = _entries(folder)
    receipts = staged_receipts(folder)
    leases = read_leases(
        folder
    )  # after the listing: a run that begins now finds what is listed here, and its lease is seen
    if leases.runs:
        logger.info("at work: run %s; staged pieces and its files stay", ", ".join(sorted(leases.runs)))
    young = {entry.path for entry in entries if entry.modified > older_than}
    named = {file.path for snapshot in kept for file in snapshot.files}
    named |= {
        file.path for receipt in receipts if receipt.path in young or leases.runs for file in receipt.files
    }
    surplus = [
        entry
        for entry in entries
        if entry.path not in named and entry.path not in young and not _is_leased(entry, leases)
    ]
    unfinished = [
        entry
        for entry in _entries(folder, temporary=True)
        if entry.modified < min(older_than, unfinished_before)
    ]
    over = [Entry(path, 0, "") for path in leases.over]
    return sorted([*surplus, *unfinished, *over], key=lambda entry: not entry.path.endswith(".json"))


def _entries(folder: Folder, *, temporary: bool = False) -> list[Entry]:
    return [
        Entry(f"{top}/{entry.path}", entry.size, entry.etag, entry.modified)
        for top in _TABLES
        for entry in (folder / top).entries(temporary=temporary)
    ]


def _is_leased(entry: Entry, leases: Leases) -> bool:
    """Whether a run at work wrote it, or may take it up."""
    top, run, *_ = entry.path.split("/")
    return run in leases.runs or (bool(leases.runs) and top == STAGED and entry.path.endswith(".json"))
