"""What a reader of the scores has to do after a night.

The keys scored, failed or removed since a snapshot that it knows.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pix2score.catalog.keys import KEY, key_fields
from pix2score.errors import ConfigError
from pix2score.snapshots.manifest import live, read_snapshot
from pix2score.snapshots.read import batches_of
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import OK, PENDING
from pix2score.storage.folder import Folder
from pix2score.storage.sql import engine, load, query


def read_changes(place: str, since: int) -> pa.RecordBatchReader:
    """Keys whose row is another one in the live snapshot than in snapshot ``since``.

    Of all others nothing needs to be read.

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
    before = read_snapshot(folder, since) if since else None
    id_type = snapshot.layout.id_type
    schema = pa.schema([*key_fields(id_type), pa.field("change", pa.string(), nullable=False)])
    return pa.RecordBatchReader.from_batches(schema, _changes(folder, before, snapshot, schema))


def _changes(
    folder: Folder, before: Snapshot | None, after: Snapshot, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    if before and before.number == after.number:
        return
    facts = [pa.field("status", pa.string()), pa.field("run", pa.string())]
    columns = pa.schema([*(schema.field(name).with_nullable(True) for name in KEY), *facts])
    with engine() as connection:
        for table, snapshot in (("old", before), ("new", after)):
            rows = (
                batches_of(folder, snapshot, snapshot.files_of("scores"), columns.names)
                if snapshot
                else iter(())
            )
            load(connection, table, columns, rows)
        # A run scores a key once: the same run means the same row.
        sql = (
            f"SELECT illust_id, page, CASE WHEN n.run IS NULL THEN 'removed' WHEN n.status = '{OK}' THEN "
            f"'scored' WHEN n.status = '{PENDING}' THEN '{PENDING}' ELSE 'failed' END "
            "AS change FROM new n FULL JOIN old o USING (illust_id, page) WHERE n.run IS DISTINCT FROM o.run "
            "ORDER BY illust_id, page"
        )
        for table_ in query(connection, sql, schema):
            yield from table_.to_batches()
