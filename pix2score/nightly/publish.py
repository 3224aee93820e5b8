"""The end of a night: the scores table is rewritten, and one create-if-absent makes it all live."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pix2score.errors import ConflictError, DataError, LimitError, Pix2ScoreError, StorageError
from pix2score.host.executor import Executor
from pix2score.nightly.dealt_ranges import rewrite
from pix2score.nightly.gate import DriftGate
from pix2score.nightly.merge import Merged, merge_range
from pix2score.nightly.publication import Publication, files_of, manifest_of
from pix2score.nightly.ranges import Changes, sort_changes
from pix2score.snapshots.damage import broken_files
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.manifest import conflict, drafted, live_number, publish, read_snapshot
from pix2score.snapshots.pieces import STAGED
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import DataFile

logger = logging.getLogger(__name__)


def publish_night(
    publication: Publication, facts: Mapping[str, Any], executor: Executor, gate: DriftGate | None = None
) -> Snapshot:
    """Make the next snapshot live, and return it. The run's lease is given back, whatever comes of it.

    Raises:
        LimitError: its answers moved further from the live snapshot's than ``gate`` allows.
        ConflictError: another run published first.
        DataError: a live file was altered; its rows are not carried.
        StorageError: the staged rows are not the planned ones, or a file that the snapshot would name is
            missing.
    """
    lease = Lease(publication.out, publication.origin.run)
    lease.take()
    try:
        return _published(_upon_live(publication), facts, executor, gate)
    finally:
        lease.release()


def _published(
    publication: Publication, facts: Mapping[str, Any], executor: Executor, gate: DriftGate | None
) -> Snapshot:
    try:
        merged = _rewrite(publication, executor)
    except (Pix2ScoreError, FileNotFoundError):
        _upon_live(publication)  # another run that published removes the pieces it resumed: no damage
        raise
    counts, run = publication.plan.counts, publication.origin.run
    if merged.rows != counts.keys:
        raise StorageError(
            f"run {run}: the new table has {merged.rows} rows, the catalog {counts.keys} keys: not published"
        )
    if gate:
        facts = _with_drift(publication, merged, facts, executor, gate)
    snapshot = _commit(publication, merged, facts)
    _tidy_up(publication)
    return snapshot


def _with_drift(
    publication: Publication,
    merged: Merged,
    facts: Mapping[str, Any],
    executor: Executor,
    gate: DriftGate,
) -> dict[str, Any]:
    """``facts`` with the drift of the new table in their account; its files are removed if it may not go
    live."""
    live = publication.live
    if live:
        manifest = manifest_of(publication, merged, files_of(publication, merged), facts)
        try:
            gate.check(publication.out, drafted(live.number, manifest), live, executor)
        except LimitError:
            _remove_rewritten(publication, merged)
            raise
    return {**facts, "account": {**(facts.get("account") or {}), "drift": gate.drift}}


def _remove_rewritten(publication: Publication, merged: Merged) -> None:
    """Remove what was written of a table that may not go live: the pieces that it was made of stay."""
    out, own = publication.out, f"{STAGED}/{publication.origin.run}/changes"
    known = {file.path for file in publication.live.files} if publication.live else set()
    paths = [file.path for file in merged.files if file.path not in known]
    try:
        out.delete([*paths, *(f"{own}/{entry.path}" for entry in (out / own).entries())])
    except (StorageError, DataError) as exc:
        logger.warning("not published, and its files could not be removed: %s", exc)


def _commit(publication: Publication, merged: Merged, facts: Mapping[str, Any]) -> Snapshot:
    """One create-if-absent; tried again only upon a compaction of the snapshot that the night builds on."""
    while True:
        publication = _upon_live(publication)
        files = files_of(publication, merged)
        _check_new(publication, files)
        parent = publication.live.number if publication.live else 0
        try:
            return publish(publication.out, parent, manifest_of(publication, merged, files, facts))
        except ConflictError:
            if _upon_live(publication).live == publication.live:
                raise


def _upon_live(publication: Publication) -> Publication:
    """As given, but built on the newest compaction of the live snapshot.

    Raises ``ConflictError`` if a run published meanwhile.
    """
    out, live = publication.out, publication.live
    number = live_number(out)
    if number == (live.number if live else 0):
        return publication
    newest = read_snapshot(out, number) if live and number > live.number else None
    if newest is None or live is None or live.number not in newest.same_scores:
        raise conflict(out, number)
    if _took_back(publication) and not {*live.files_of("dead")} <= {*newest.files_of("dead")}:
        raise conflict(out, number)  # embeddings of what came back may be gone
    return replace(publication, live=newest)


def _took_back(publication: Publication) -> bool:
    """Whether the plan takes back rows of the live snapshot, whose embeddings are among its dead."""
    return any(not receipt.is_staged for receipt in publication.plan.resumed_from)


def _check_new(publication: Publication, files: Sequence[DataFile]) -> None:
    """Raise ``StorageError`` if a file that only the new snapshot names is not as it was written."""
    known = {file.path for file in publication.live.files} if publication.live else set()
    for path, what in broken_files(
        publication.out, [file for file in files if file.path not in known]
    ).items():
        raise StorageError(
            f"run {publication.origin.run}: {publication.out.full(path)} {what}: not published; the next run "
            "scores what is lost"
        )


def _rewrite(publication: Publication, executor: Executor) -> Merged:
    out, run, layout, plan = publication.out, publication.origin.run, publication.layout, publication.plan
    live = publication.carried_from.files_of("scores") if publication.carried_from else []
    changed = plan.counts.resumed + sum(receipt.rows for receipt in publication.receipts)
    dead = publication.carried_from.files_of("dead") if publication.carried_from else []
    changes = Changes(
        list(publication.receipts),
        plan.resumed,
        plan.resumed_from,
        plan.removed,
        changed,
        dead,
        publication.is_same_model,
        bool(plan.counts.recarried),
    )
    prefix = f"{STAGED}/{run}/changes"
    if plan.is_by_ranges:
        return rewrite(executor, out, prefix, run, layout, live, changes, plan.cuts, plan.carried)
    ranges, merged = executor.call(sort_changes, out, prefix, run, layout, live, changes)
    calls = [(out, run, layout, keys, publication.is_same_model, plan.carried) for keys in ranges]
    for one in executor.each(merge_range, calls):
        merged.add(one)
    return merged


def _tidy_up(publication: Publication) -> None:
    """Remove pieces that are published now, receipts first; what cannot be removed is left to jobs.vacuum."""
    out, own = publication.out, f"{STAGED}/{publication.origin.run}"
    used = [
        receipt
        for receipt in (*publication.plan.resumed_from, *publication.plan.already_published)
        if receipt.is_staged
    ]
    try:
        paths = [f"{own}/{entry.path}" for entry in (out / own).entries()]
        paths += [path for receipt in used for path in (receipt.path, receipt.scores.path)]
        out.delete(sorted(set(paths), key=lambda path: not path.endswith(".json")))
    except (StorageError, DataError) as exc:
        logger.warning("published, but staged files could not be removed: %s", exc)
