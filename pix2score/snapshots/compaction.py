"""Embedding files rewritten with live rows only.

Of runs whose rows are mostly superseded, and of runs that left many small files.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import pyarrow as pa

from pix2score.catalog.keys import KEY
from pix2score.errors import ConflictError
from pix2score.snapshots.manifest import OF_PUBLICATION, Snapshot, publish
from pix2score.snapshots.read import dead_ids
from pix2score.snapshots.tables import DataFile, dead_schema, unique_path, write_file
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet, parquet_batches
from pix2score.storage.sql import engine, in_memory, load, numbered, query

logger = logging.getLogger(__name__)

MOSTLY_DEAD = 0.5
FILE_BYTES = 64 * 2**20
"""Of a file that small ones are merged into: what a piece of a GPU run holds."""
MANY_SMALL = 16
"""Files of one run of under half of ``FILE_BYTES`` that are worth merging: pieces of CPU runs hold 512 rows,
2 MB."""
MERGED_BYTES = 4 * 2**30
"""Of small files that one call merges, so that it ends in minutes; the rest is for the next."""


def compact(folder: Folder, snapshot: Snapshot, forgotten: Collection[str] = ()) -> int:
    """Publish the same scores with the chosen embedding files rewritten; return how many were.

    The new snapshot does not name the ``forgotten`` files. A run at work builds upon it when it publishes.
    One that published meanwhile wins, and nothing is compacted.
    """
    chosen = _chosen(snapshot)
    if not chosen and not {file.path for file in snapshot.files} & {*forgotten}:
        return 0
    old = {file.path for files in chosen.values() for file in files}
    try:
        by_run = _by_run(snapshot)
        whole = {run for run in chosen if len(chosen[run]) == len(by_run[run])}
        new = [
            file
            for run, files in chosen.items()
            for file in _rewritten(folder, snapshot, run, files, is_whole=run in whole)
        ]
        kept = [
            file
            for file in snapshot.files
            if file.table != "dead" and file.path not in old and file.path not in forgotten
        ]
        others = {*by_run} - whole
        published = _publish(
            folder, snapshot, [*kept, *new, *_dead_of_others(folder, snapshot, others)], len(old)
        )
    except (ConflictError, FileNotFoundError):
        logger.info("a run published while embeddings were compacted: they stay as they are")
        return 0
    logger.info("snapshot %d: %d embedding files rewritten as %d", published.number, len(old), len(new))
    return len(old)


def _by_run(snapshot: Snapshot) -> dict[str, list[DataFile]]:
    found: dict[str, list[DataFile]] = defaultdict(list)
    for file in snapshot.files_of("embeddings"):
        found[file.run].append(file)
    return found


def _chosen(snapshot: Snapshot) -> dict[str, list[DataFile]]:
    """Run -> its files to rewrite.

    All of a run that is mostly superseded, the small ones of a run that has many.
    """
    alive, chosen, budget = snapshot.manifest.get("runs", {}), {}, MERGED_BYTES
    for run, files in _by_run(snapshot).items():
        rows = sum(file.rows for file in files)
        small = [file for file in files if file.bytes < FILE_BYTES // 2]
        if rows - alive.get(run, rows) > MOSTLY_DEAD * rows:
            chosen[run] = files
        elif len(small) >= MANY_SMALL and budget > 0:
            budget -= sum(file.bytes for file in small)
            chosen[run] = small
    return chosen


def _publish(folder: Folder, snapshot: Snapshot, files: Sequence[DataFile], num_old: int) -> Snapshot:
    manifest = {
        name: value
        for name, value in snapshot.manifest.items()
        if name not in ("snapshot", "parent", *OF_PUBLICATION)
    }
    manifest |= {
        "files": [asdict(file) for file in files],
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    manifest |= {"compacted": num_old, "compaction_of": [*snapshot.same_scores, snapshot.number]}
    return publish(folder, snapshot.number, manifest)


def _rewritten(
    folder: Folder, snapshot: Snapshot, run: str, files: Sequence[DataFile], *, is_whole: bool
) -> Iterator[DataFile]:
    """Rows of some files of a run in new files of about ``FILE_BYTES``, each sorted by key.

    Of all its files only the live rows.
    """
    dead = dead_ids(folder, snapshot, {run} if is_whole else ())
    pending: list[pa.Table] = []
    for file in files:
        pending.append(without(_rows(folder, file), dead))
        if sum(table.nbytes for table in pending) >= FILE_BYTES:
            yield from _written(folder, snapshot, run, pending)
            pending = []
    yield from _written(folder, snapshot, run, pending)


def _rows(folder: Folder, file: DataFile) -> pa.Table:
    with open_parquet(folder, file.path) as opened:
        return opened.read()


def without(rows: pa.Table, dead: pa.Table) -> pa.Table:
    """Rows whose key is not in ``dead``, in their order."""
    if not dead.num_rows:
        return rows
    sql = "SELECT position FROM keys ANTI JOIN dead USING (illust_id, page) ORDER BY 1"
    return rows.take(in_memory(sql, keys=numbered(rows, *KEY), dead=dead.select(list(KEY))).column(0))


def _written(folder: Folder, snapshot: Snapshot, run: str, tables: Sequence[pa.Table]) -> Iterator[DataFile]:
    rows = pa.concat_tables(tables) if tables else snapshot.layout.embeddings.empty_table()
    if rows.num_rows:
        ordered = rows.cast(snapshot.layout.embeddings).sort_by([(name, "ascending") for name in KEY])
        yield write_file(folder, "embeddings", unique_path("embeddings", run), ordered)


def _dead_of_others(folder: Folder, snapshot: Snapshot, runs: set[str]) -> list[DataFile]:
    """Dead keys of ``runs``, some of whose embedding files stay as they are, in new files."""
    schema = dead_schema(snapshot.layout.id_type)
    files = snapshot.files_of("dead")
    if not files or not runs:
        return []
    with engine() as connection:
        load(connection, "dead", schema, parquet_batches(folder, [file.path for file in files], schema.names))
        names = pa.table({"run": sorted(runs)})
        load(connection, "others", names.schema, iter(names.to_batches()))
        run = str(snapshot.manifest["run"])
        sql = "SELECT * FROM dead SEMI JOIN others USING (run)"
        return [
            write_file(folder, "dead", unique_path("dead", run), rows)
            for rows in query(connection, sql, schema, 1_000_000)
        ]
