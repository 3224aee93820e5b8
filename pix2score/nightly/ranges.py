"""The scores table rewritten: rows of the live snapshot that are carried over, merged with the night's.

Two steps, each a pure function that a Ray task runs: ``sort_changes`` checks the night's rows, sorts them out
of core and cuts the key space into ranges; ``merge_range`` merges one range in memory, so that ranges run
side by side on as many cores as there are.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pix2score.catalog.keys import key_fields
from pix2score.host.scratch import scratch_folder
from pix2score.nightly.changed_rows import check_changed_keys, disk_bytes, load_changed_keys, sorted_changes
from pix2score.nightly.cuts import Cut, cuts, neighbours, range_rows
from pix2score.nightly.merge import Merged, Range, unchanged, write_dead
from pix2score.snapshots.pieces import Receipt
from pix2score.snapshots.tables import SCHEMA_VERSION, DataFile, Layout, dead_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches, parquet_bytes
from pix2score.storage.parts import Part
from pix2score.storage.sql import MEMORY_BYTES, engine, load, query, side_by_side

SORT_MEMORY_BYTES = MEMORY_BYTES * 3 // 4
"""DuckDB's share while it sorts keys; what waits to be written as ranges has the rest."""
_NUM_WRITERS = 2  # ranges written side by side: three of them, and their files, are in memory
DEAD_ROWS = 1_000_000
"""Of a file of the dead, some 20 bytes each."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What changes: rows that this run staged, rows resumed from earlier pieces, and keys to be removed."""

    own: list[Receipt]
    resumed: list[Part]
    resumed_from: list[Receipt]
    removed: list[Part]
    num_changed: int
    """Rows of ``own`` and ``resumed`` together, as planned."""
    dead: list[DataFile] = field(default_factory=list)
    """Files of the dead that stay unless one of them comes back."""
    is_same_model: bool = True
    """Whether live files may stay as they are: their answers are of tonight's model."""
    is_recarried: bool = False
    """Whether none may, as catalog columns that stand beside the answers have changed."""

    @property
    def may_stay(self) -> bool:
        """Whether live files of ranges in which nothing changes stay as they are."""
        return self.is_same_model and not self.is_recarried


def sort_changes(
    folder: Folder, prefix: str, run: str, layout: Layout, live: Sequence[DataFile], changes: Changes
) -> tuple[list[Range], Merged]:
    """Write the changes below ``prefix``, sorted and cut; return the ranges to merge and what needs none.

    The latter is the files of ranges in which nothing changes, and dead files of pieces that were resumed in
    part.

    Raises ``StorageError`` if the pieces do not hold the planned number of rows with distinct keys: nothing
    may be published then.
    """
    ranges, merged, most_rows = [], Merged(), range_rows(layout)
    pieces, what = [*changes.own, *changes.resumed_from], f"sorting {changes.num_changed} changed rows"
    with (
        engine(SORT_MEMORY_BYTES, disk_bytes=disk_bytes(pieces), what=what) as connection,
        scratch_folder() as scratch,
    ):
        unused = load_changed_keys(
            connection, folder, layout, changes.own, changes.resumed, changes.resumed_from
        )
        check_changed_keys(connection, run, changes.num_changed)
        _load_keys(connection, "removed_keys", folder, changes.removed, layout)
        changed = sorted_changes(connection, folder, layout, pieces, scratch, max(1, most_rows // 2))
        pending = (
            (cut, _removed_within(connection, layout, cut))
            for cut in cuts(changed, neighbours(live, most_rows), most_rows)
        )
        write = functools.partial(_written, folder, prefix)
        for cut, written in side_by_side(write, pending, _NUM_WRITERS):
            if changes.may_stay and stays(cut) and not (written.changed or written.removed):
                merged.add(unchanged(cut.live))
            else:
                ranges.append(written)
        merged.add(_without_returned(connection, folder, run, layout, changes))
    merged.files += write_dead(folder, run, unused) if unused else []
    return ranges, merged


def stays(cut: Cut) -> bool:
    """Whether the live files of a range may stay: all of them lie in it, and it is known what they hold."""
    is_counted = all(file.runs is not None and file.version == SCHEMA_VERSION for file in cut.live)
    return cut.is_whole and is_counted


def _without_returned(
    connection: duckdb.DuckDBPyConnection, folder: Folder, run: str, layout: Layout, changes: Changes
) -> Merged:
    """The files of the dead rewritten, if rows are taken back whose embeddings they list."""
    pieces = [receipt.scores.path for receipt in changes.resumed_from if not receipt.is_staged]
    if not pieces:
        return Merged()
    schema = dead_schema(layout.id_type)
    load(
        connection,
        "superseded",
        schema,
        parquet_batches(folder, [file.path for file in changes.dead], schema.names),
    )
    places = pa.table({"piece": pieces})
    load(connection, "back_from", places.schema, iter(places.to_batches()))
    back = "(SELECT illust_id, page, run FROM resumed SEMI JOIN back_from USING (piece))"
    rows = query(
        connection,
        f"SELECT * FROM superseded ANTI JOIN {back} USING (illust_id, page, run)",
        schema,
        DEAD_ROWS,
    )
    return Merged(
        files=[file for table in rows for file in write_dead(folder, run, table)], is_dead_rewritten=True
    )


def _load_keys(
    connection: duckdb.DuckDBPyConnection, table: str, folder: Folder, parts: Sequence[Part], layout: Layout
) -> None:
    schema = pa.schema(key_fields(layout.id_type))
    load(connection, table, schema, parquet_batches(folder, [part.path for part in parts], schema.names))


def _removed_within(connection: duckdb.DuckDBPyConnection, layout: Layout, cut: Cut) -> pa.Table:
    """Removed keys within the bounds of ``cut``."""
    bounds = [(sign, key) for sign, key in ((">", cut.low), ("<", cut.high)) if key is not None]
    tests = [
        f"(illust_id {sign} ? OR (illust_id = ? AND page {'>=' if sign == '>' else '<'} ?))"
        for sign, _ in bounds
    ]
    values = [value for _, key in bounds for value in (key[0], *key)]
    where = f"WHERE {' AND '.join(tests)}" if tests else ""
    found: pa.Table = (
        connection.cursor()
        .sql(f"SELECT illust_id, page FROM removed_keys {where}", params=values)
        .to_arrow_table()
    )
    return found.cast(pa.schema(key_fields(layout.id_type)))


def _written(folder: Folder, prefix: str, pending: tuple[Cut, pa.Table]) -> tuple[Cut, Range]:
    """A cut, and the same as a range whose changed and removed keys are in storage."""
    cut, removed = pending
    changed_part = _part(folder, prefix, "changed", cut.changed)
    return cut, Range(cut.low, cut.high, cut.live, changed_part, _part(folder, prefix, "removed", removed))


def _part(folder: Folder, prefix: str, name: str, rows: pa.Table | None) -> Part | None:
    if rows is None or not rows.num_rows:
        return None
    path = f"{prefix}/{name}-{uuid.uuid4().hex[:16]}.parquet"
    # Read once and soon: LZ4 takes 1.0 µs and 180 bytes a row, zstd 1.6 µs and 152 bytes.
    folder.publish(path, parquet_bytes(rows, compression="lz4"))
    return Part(path, rows.num_rows)
