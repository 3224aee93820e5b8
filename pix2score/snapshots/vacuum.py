"""vacuum: what no kept snapshot and no run needs is removed.

Small or mostly superseded embedding files are rewritten first (``compaction``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pix2score.catalog.hashes import HASHES, hashes_path
from pix2score.host.executor import Executor, LocalThreads
from pix2score.snapshots.compaction import compact
from pix2score.snapshots.config import VacuumConfig, seconds
from pix2score.snapshots.indexes import INDEX, each_index, files_of_index, serves
from pix2score.snapshots.leases import Leases, read_leases
from pix2score.snapshots.lists import CONSUMED, LISTS, read_lists
from pix2score.snapshots.manifest import (
    live,
    numbers,
    parse_snapshot,
    published_times,
    ranges_text,
    read_manifests,
    remove_manifests,
)
from pix2score.snapshots.pieces import STAGED, Receipt, staged_receipts
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import TABLES
from pix2score.storage.folder import Entry, Folder
from pix2score.summaries import VacuumSummary

logger = logging.getLogger(__name__)
_PLACES = (*TABLES, LISTS, HASHES, INDEX, STAGED)
MIN_TEMPORARY_AGE_S = 3_600.0
"""Of a file that a writer has not finished: younger ones may be at work."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What may go, by what was there when it was looked for."""

    known: list[int]
    """Snapshots that there were."""
    old: list[int]
    """Those of them that go."""
    surplus: list[Entry]
    """Files that go, receipts first: a file must never go before the receipt that names it."""


def vacuum(config: VacuumConfig) -> VacuumSummary:
    """Remove what no kept snapshot names and no run of late staged; return counts and bytes.

    The newest ``keep`` snapshots are kept, and those of ``keep_since``. Beside a scoring run it is safe: the
    run holds a lease, and what it may publish stays; so is it beside ``publish``.

    Raises:
        DataError: no snapshot there.
        AccessError, StorageError: something could not be removed; what was removed first are receipts and old
        snapshots.
    """
    return vacuum_on(config, LocalThreads())


def vacuum_on(config: VacuumConfig, workers: Executor) -> VacuumSummary:
    """As ``vacuum``; ``workers`` rewrite files of embeddings and of the dead."""
    folder, started = Folder(config.scores), time.monotonic()
    snapshot = live(config.scores)
    now = time.time()
    compacted = (
        0
        if config.dry_run
        else compact(
            folder,
            snapshot,
            _forgotten(folder, snapshot, now - seconds(config.keep_staged)),
            workers,
        )
    )
    found = _found(folder, config, now)
    surplus = found.surplus
    if not config.dry_run:
        remove_manifests(folder, found.old)
        surplus = still_surplus(folder, found.surplus, found.known, found.old)
        folder.delete([entry.path for entry in surplus])
    return {
        "job": "vacuum",
        "snapshots_removed": len(found.old),
        "files_removed": len(surplus),
        "bytes_removed": sum(e.size for e in surplus),
        "files_compacted": compacted,
        "seconds": round(time.monotonic() - started, 3),
    }


def still_surplus(
    folder: Folder, surplus: Sequence[Entry], known: Sequence[int], removed: Sequence[int]
) -> list[Entry]:
    """Those of ``surplus`` that nobody needs by now: none while a removed snapshot is being published anew.

    To be asked when the manifests of ``removed`` are gone: a publication that had seen one of them by then
    has its lease here, or its snapshot is not among the ``known``.
    """
    leases = read_leases(folder)  # before the numbers: a lease ends after publication
    again = leases.snapshots & {*removed}
    if leases.runs:  # one of them may be taking up an index
        surplus = [entry for entry in surplus if not _of_an_index(entry)]
    if again:
        logger.warning(
            "snapshot %s is being read or published again: no file is removed now", ranges_text(sorted(again))
        )
        return []
    new = [number for number in numbers(folder) if number > max(known)]
    named = _named(folder, new) | _named_by_indexes(folder, numbers(folder))
    return [entry for entry in surplus if entry.path not in named]


def _found(folder: Folder, config: VacuumConfig, now: float) -> _Found:
    known = published_times(folder)
    newest = _newest(folder, sorted(known), config.keep)
    older_than = now - seconds(config.keep_staged)
    entries = _entries(folder)
    receipts = staged_receipts(folder)
    # After the listing: a run that begins now finds what is listed here, and its lease is seen.
    leases = read_leases(folder)
    if leases.runs:
        logger.info("at work: run %s; staged pieces and its files stay", ", ".join(sorted(leases.runs)))
    young = {entry.path for entry in entries if entry.modified > older_than}
    waiting = [
        receipt
        for receipt in receipts
        if receipt.path in young or leases.runs or receipt.origin.model_version in config.keep_model
    ]
    _log_kept_models(config.keep_model, receipts)
    # What a run at work reads has the scores of the live snapshot, and may be what was compacted just now.
    read = live(config.scores).same_scores if leases.runs else ()
    kept = {*newest, *read, *leases.snapshots, *_published_since(known, config, now)} & {*known}
    named = {path for receipt in waiting for path in (receipt.path, *(file.path for file in receipt.files))}
    named |= _named(folder, sorted(kept))
    named |= _named_by_indexes(folder, kept)
    surplus = [
        entry
        for entry in entries
        if entry.path not in named and entry.path not in young and not _is_leased(entry, leases)
    ]
    unfinished = [
        entry
        for entry in _entries(folder, temporary=True)
        if entry.modified < min(older_than, now - MIN_TEMPORARY_AGE_S)
    ]
    over = [Entry(path, 0, "") for path in leases.over]
    everything = sorted([*surplus, *unfinished, *over], key=lambda entry: not entry.path.endswith(".json"))
    return _Found(sorted(known), sorted({*known} - kept), everything)


def _newest(folder: Folder, known: Sequence[int], keep: int) -> list[int]:
    """The newest snapshots, down to the one with which there are ``keep`` with different scores.

    A compaction, and a snapshot published again, have the scores files of another.
    """
    found, scores = [], set[frozenset[str]]()
    for number, data in read_manifests(folder, known[::-1]):
        files = parse_snapshot(folder, number, data).files_of("scores")
        found.append(number)
        scores.add(frozenset(file.path for file in files))
        if len(scores) == keep:
            break
    return found


def _published_since(known: Mapping[int, float], config: VacuumConfig, now: float) -> set[int]:
    if config.keep_since is None:
        return set()
    since = now - seconds(config.keep_since, "keep_since")
    return {number for number, published in known.items() if published >= since}


def _named(folder: Folder, snapshots: Sequence[int]) -> set[str]:
    """Files of the snapshots, and the lists that name them; a list of several is read once."""
    named = set[str]()
    for number, data in read_manifests(folder, snapshots):
        snapshot = parse_snapshot(folder, number, data)
        unread = [one for one in snapshot.lists if one.path not in named]
        named |= {one.path for one in unread}
        named |= _hashes_of(snapshot)
        if snapshot.lists:
            some = read_lists(folder, [one for one in unread if one.table != CONSUMED])
        else:
            some = snapshot.some_files(*TABLES)
        named |= {file.path for files in some for file in files}
    return named


def _named_by_indexes(folder: Folder, snapshots: Collection[int]) -> set[str]:
    """Files of the indexes of the snapshots, and of the one by which the live one's ``similar`` answers."""
    named, newest, is_found = set[str](), live(folder.uri), False
    for card in each_index(folder):
        is_used = not is_found and serves(card, newest)
        is_found |= is_used
        if is_used or card.snapshot in snapshots:
            named |= files_of_index(card)
    return named


def _hashes_of(snapshot: Snapshot) -> set[str]:
    """Hashes of images that lie in its catalog, should there be any."""
    pin = snapshot.manifest.get("catalog")
    return {hashes_path(pin["uri"], file) for file in pin["files"]} if pin else set()


def _log_kept_models(versions: Sequence[str], receipts: Sequence[Receipt]) -> None:
    for version in versions:
        rows = [receipt.rows for receipt in receipts if receipt.origin.model_version == version]
        logger.info("model %s: %d staged pieces with %d rows stay", version, len(rows), sum(rows))


def _forgotten(folder: Folder, snapshot: Snapshot, older_than: float) -> set[str]:
    """Files of removed rows that are too old to come back.

    None while a run, that may take rows of them back, is at work.
    """
    if not snapshot.files_of("removed") or read_leases(folder).runs:
        return set()
    return {
        f"removed/{entry.path}" for entry in (folder / "removed").entries() if entry.modified <= older_than
    }


def _entries(folder: Folder, *, temporary: bool = False) -> list[Entry]:
    return [
        Entry(f"{top}/{entry.path}", entry.size, entry.etag, entry.modified)
        for top in _PLACES
        for entry in (folder / top).entries(temporary=temporary)
    ]


def _of_an_index(entry: Entry) -> bool:
    return entry.path.startswith(f"{INDEX}/")


def _is_leased(entry: Entry, leases: Leases) -> bool:
    """Whether a run at work wrote it, or may take it up."""
    top, run, *_ = entry.path.split("/")
    may_be_taken_up = _of_an_index(entry) or (top == STAGED and entry.path.endswith(".json"))
    return run in leases.runs or (bool(leases.runs) and may_be_taken_up)
