"""Files of the live snapshot replaced by others that say the same, upon whatever is live by then."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pix2score.errors import ConflictError, DataError
from pix2score.snapshots.damage import broken_files
from pix2score.snapshots.manifest import live_number, publish, read_snapshot, without_publication
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import DataFile
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replacement:
    """Files of one table, and those that hold what is worth keeping of them."""

    old: tuple[DataFile, ...]
    new: tuple[DataFile, ...]
    needs_dead: bool = False
    """Whether rows are left out that may come back as long as the files of the dead list them."""


def publish_replaced(
    folder: Folder,
    base: Snapshot,
    replaced: Sequence[Replacement],
    dead: Replacement | None,
    forgotten: Collection[str],
) -> Snapshot | None:
    """Publish the live snapshot with files replaced, and without those ``forgotten``; return it.

    ``base``: the snapshot whose dead are left out of ``replaced``. A night that published since then keeps
    every file that it named, and each of ``replaced`` counts that it still names; ``dead``, from which rows
    of no file any more are left out, only if all do. None, and nothing is published, where there is nothing
    to replace, or the rows that are dead in ``base`` may be live again: an older snapshot was published anew.
    """
    while True:
        newest = read_snapshot(folder, live_number(folder))
        if _is_taken_back(folder, base, newest):
            logger.info("snapshot %d is live again: embeddings stay as they are", newest.number)
            return None
        files = _replaced(newest, replaced, dead, forgotten)
        if files is None:
            return None
        _check_new(folder, [*replaced, *([dead] if dead else [])], files)
        num_old = sum(len(one.old) for one in replaced)
        facts = without_publication(newest) | {
            "files": [asdict(file) for file in files],
            "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "compacted": num_old,
            "compaction_of": [*newest.same_scores, newest.number],
        }
        try:
            published = publish(folder, newest.number, facts)
        except ConflictError:
            continue  # upon that one, then
        logger.info("snapshot %d: %d embedding files rewritten", published.number, num_old)
        return published


def _replaced(
    newest: Snapshot,
    replaced: Sequence[Replacement],
    dead: Replacement | None,
    forgotten: Collection[str],
) -> list[DataFile] | None:
    """Files of ``newest`` with the others in place of theirs; None if none is."""
    files = list(newest.files)
    named = {file.path for file in files}
    fitting = [one for one in replaced if all(file.path in named for file in one.old)]
    if dead and len(fitting) == len(replaced) and all(file.path in named for file in dead.old):
        fitting.append(dead)
    else:
        fitting = [one for one in fitting if not one.needs_dead]
    if not fitting and not named & {*forgotten}:
        return None
    old = {file.path for one in fitting for file in one.old} | {*forgotten}
    new = [file for one in fitting for file in one.new]
    order = ("scores", "embeddings", "dead", "removed")
    kept = [*(file for file in files if file.path not in old), *new]
    return sorted(kept, key=lambda file: order.index(file.table))


def _is_taken_back(folder: Folder, base: Snapshot, newest: Snapshot) -> bool:
    """Whether a snapshot since ``base`` was an older one published anew, or is not known."""
    try:
        between = [read_snapshot(folder, number) for number in range(base.number + 1, newest.number)]
    except DataError:
        return True
    return any("restored_from" in one.manifest for one in [*between, newest][: newest.number - base.number])


def _check_new(folder: Folder, replaced: Sequence[Replacement], files: Sequence[DataFile]) -> None:
    """Raise ``DataError`` if a file that is about to be named is gone: another ``vacuum`` took it for one of
    nobody's."""
    named = {file.path for file in files}
    new = [file for one in replaced for file in one.new if file.path in named]
    for path, what in broken_files(folder, new).items():
        raise DataError(f"{folder.full(path)} {what}: nothing was published; run vacuum again, alone")
