"""publish: an older snapshot is live again, under a new number that names the same files.

Nothing is rewritten. To the next night it is the live snapshot as any other: it plans by its rows, its model
and its catalog, and takes up whatever is staged that those files do not hold.
"""

from __future__ import annotations

import getpass
import logging
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from pix2score.cli.summary import recorded
from pix2score.errors import ConflictError, DataError
from pix2score.snapshots.config import PublishConfig
from pix2score.snapshots.damage import damages
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.lists import as_files
from pix2score.snapshots.manifest import (
    conflict,
    live,
    live_number,
    new_run_id,
    publish,
    read_snapshot,
    without_publication,
)
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder
from pix2score.summaries import PublishSummary

logger = logging.getLogger(__name__)
_NAMED = 5  # damaged files in a message


def publish_snapshot(config: PublishConfig) -> PublishSummary:
    """Make the files of snapshot ``config.snapshot`` live under a new number; return that and its counts.

    Nothing is written if they are live already. Every byte of them is read first.

    Raises:
        DataError: no such snapshot, or a file of it is missing or altered; nothing is published.
        ConflictError: another run published meanwhile.
    """
    folder, started = Folder(config.scores), time.monotonic()
    before, chosen = live(config.scores), read_snapshot(folder, config.snapshot)
    if chosen.content == before.content:
        logger.info("nothing to do: snapshot %d is live and has these files", before.number)
        known = {"job": "publish", **_facts(before), "seconds": round(time.monotonic() - started, 3)}
        return cast("PublishSummary", known)
    run = new_run_id(datetime.now(UTC).strftime("%Y%m%dT%H%M%S"))
    lease = Lease(folder, run, snapshot=chosen.number)
    with recorded(folder, f"runs/{run}/summary.json", {"job": "publish", "run": run}) as summary:
        folder.prove_exclusive()
        lease.take()
        with lease.kept():
            check_whole(folder, chosen)
            published = publish_again(folder, before, chosen, config.note)
        logger.info("snapshot %d is live, with the files of %d", published.number, chosen.number)
        summary.update(_facts(published))
    return cast("PublishSummary", summary)


def check_whole(folder: Folder, snapshot: Snapshot) -> None:
    """Read every file of a snapshot. Raises ``DataError`` in one line if some are not as it names them."""
    number, size = snapshot.num_files, snapshot.num_bytes / 1e6
    logger.info("snapshot %d: reading %d files, %.1f MB", snapshot.number, number, size)
    if found := damages(folder, as_files(snapshot.lists)) or damages(folder, snapshot.files):
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise DataError(
            f"snapshot {snapshot.number} of {folder.uri} cannot be published: "
            f"{'; '.join(found[:_NAMED])}{more}; nothing was published, choose another"
        )


def publish_again(folder: Folder, before: Snapshot, chosen: Snapshot, note: str | None = None) -> Snapshot:
    """Publish the files of ``chosen`` upon ``before``, the live snapshot, or upon a compaction of it.

    The caller holds a lease that names ``chosen``: as its manifest is still there, ``vacuum`` either removes
    nothing of it or finds that lease, or the new snapshot.

    Raises ``ConflictError`` if another run published, ``DataError`` if ``chosen`` was removed.
    """
    while True:
        newest = live_number(folder)
        if newest != before.number and before.number not in read_snapshot(folder, newest).same_scores:
            raise conflict(folder, newest)
        read_snapshot(folder, chosen.number)
        try:
            return publish(folder, newest, _manifest(chosen, note))
        except ConflictError:
            if live_number(folder) == newest:
                raise


def _manifest(chosen: Snapshot, note: str | None) -> Mapping[str, Any]:
    """What ``chosen`` says of its files, with who published them anew, when and why.

    ``run`` and ``consumed`` are those of ``chosen``: which staged pieces are in its files. Pieces published
    later are not, and may be taken up again. ``compaction_of`` is not: a run that was planned upon an earlier
    snapshot with these scores has been overtaken by those between.
    """
    return {
        **without_publication(chosen),
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "restored_from": chosen.number,
        "published_by": _publisher(),
        **({"note": note} if note else {}),
    }


def _publisher() -> str:
    """user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _facts(published: Snapshot) -> dict[str, Any]:
    manifest = published.manifest
    return {
        "snapshot": published.number,
        "restored_from": manifest.get("restored_from"),
        "model_version": manifest["model_version"],
        "rows": manifest["counts"]["rows"],
        "failed": manifest["counts"]["failed"],
        "files": published.num_files,
        "bytes": published.num_bytes,
    }
