"""What a reader of the scores has to do after a night.

The keys scored, failed or removed since a snapshot that it knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pix2score.catalog.keys import KEY, key_fields
from pix2score.errors import ConfigError
from pix2score.snapshots.manifest import live, read_snapshot
from pix2score.snapshots.read import batches_of, schema_of_scores
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import OK, PENDING
from pix2score.storage.folder import Folder
from pix2score.storage.quoting import identifier
from pix2score.storage.sql import engine, load, query


def read_changes(place: str, since: int) -> pa.RecordBatchReader:
    """Keys whose row is another one in the live snapshot than in snapshot ``since``.

    Of all others nothing needs to be read. A row is another one too where a column of the catalog
    that ``score --carry`` took is.

    Args:
        place: scores folder, local or s3://.
        since: number of the snapshot that the reader has; 0 for none, then every key comes.

    Returns:
        A reader of batches with ``illust_id``, ``page`` and ``change``: ``scored`` (upsert it), ``failed``
        (it has no predictions now), ``pending`` (nor has it, as it was not scored yet) or ``removed``
        (delete it). Sorted by key; out of core, so its size does not matter.

    Raises:
        DataError: snapshot ``since`` is removed (``jobs.vacuum --keep`` says how many do), or
            there is none at all.
        ConfigError: ``since`` is newer than the live snapshot.
    """
    folder, snapshot = Folder(place), live(place)
    if not 0 <= since <= snapshot.number:
        raise ConfigError(f"since {since}: the live snapshot of {folder.uri} is {snapshot.number}")
    return changes_between(folder, read_snapshot(folder, since) if since else None, snapshot)


def changes_between(folder: Folder, before: Snapshot | None, after: Snapshot) -> pa.RecordBatchReader:
    """As ``read_changes``, of two snapshots of a folder."""
    schema = pa.schema([*key_fields(after.layout.id_type), pa.field("change", pa.string(), nullable=False)])
    return pa.RecordBatchReader.from_batches(schema, _changes(folder, before, after, schema))


def _changes(
    folder: Folder, before: Snapshot | None, after: Snapshot, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    if before and before.number == after.number:
        return
    compared = _compared(before, after)
    with engine() as connection:
        for table, snapshot in (("old", before), ("new", after)):
            if snapshot is None:
                load(connection, table, _columns(folder, after, compared), ())
                continue
            columns = _columns(folder, snapshot, compared)
            rows = batches_of(folder, snapshot, snapshot.files_of("scores"), columns.names)
            load(connection, table, columns, rows)
        differs = " OR ".join(f"n.{name} IS DISTINCT FROM o.{name}" for name in map(identifier, compared))
        sql = (
            f"SELECT illust_id, page, CASE WHEN n.run IS NULL THEN 'removed' WHEN n.status = '{OK}' THEN "
            f"'scored' WHEN n.status = '{PENDING}' THEN '{PENDING}' ELSE 'failed' END "
            f"AS change FROM new n FULL JOIN old o USING (illust_id, page) WHERE {differs or 'true'} "
            "ORDER BY illust_id, page"
        )
        for table_ in query(connection, sql, schema):
            yield from table_.to_batches()


def _compared(before: Snapshot | None, after: Snapshot) -> list[str]:
    """Columns of which one differs where a row does; none if every row does.

    A run scores a key once: the same run means the same answer. What was carried from the catalog may be
    another one all the same.
    """
    old, new = (one.manifest.get("carry") if one else None for one in (before, after))
    if before is None or old == new:
        return ["run"]
    old_columns, new_columns = (one["columns"] if one else {} for one in (old, new))
    return ["run", *new_columns] if old_columns == new_columns else []


def _columns(folder: Folder, snapshot: Snapshot, compared: Sequence[str]) -> pa.Schema:
    found = schema_of_scores(folder, snapshot)
    names = dict.fromkeys([*KEY, "status", "run", *compared])
    return pa.schema([found.field(name).with_nullable(True) for name in names])
