"""A night's rows out of their pieces, in key order.

Keys are checked and sorted in DuckDB; whole rows are only put in their places. A row is ten times as wide as
its key, and DuckDB is slow to sort lists along: sorting whole rows took twice the time and the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pix2score.catalog.keys import key_fields
from pix2score.errors import DataError, StorageError
from pix2score.snapshots.pieces import STAGED, Receipt
from pix2score.snapshots.tables import (
    EMBEDDING_RUN,
    OK,
    Layout,
    checked_bytes,
    dead_schema,
    resumed_schema,
    scores_rows,
)
from pix2score.storage.external_sort import Ranks, in_order, ranks_of
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.parts import Part
from pix2score.storage.sql import load, one_row, query, side_by_side

DIES = f"status = '{OK}' AND {EMBEDDING_RUN} = run AND starts_with(piece, '{STAGED}/')"
"""SQL: whether the embedding of a row that is not resumed is dead. Its own alone: what answered from a stored
one leaves that as it is. Rows that were removed are listed as dead already."""
_POSITION = pa.field("position", pa.int64())
_KEY_DISK_BYTES = 120  # in DuckDB's tables, and spilled while they are sorted


def disk_bytes(pieces: Sequence[Receipt]) -> int:
    """Temporary disk that the functions below take.

    The rows with LZ4, a quarter more than their Parquet, and their keys.
    """
    return sum(piece.scores.bytes * 5 // 4 + piece.scores.rows * _KEY_DISK_BYTES for piece in pieces)


def load_changed_keys(
    connection: duckdb.DuckDBPyConnection,
    folder: Folder,
    layout: Layout,
    own: Sequence[Receipt],
    resumed: Sequence[Part],
    resumed_from: Sequence[Receipt],
) -> pa.Table | None:
    """Make table ``changed``; return ok rows of staged pieces that are not resumed.

    Their embeddings are dead. The table holds the keys of the rows in ``own`` and of those in
    ``resumed_from`` that ``resumed`` names, and the ``position`` of the row among all rows of the pieces,
    ``own`` first.
    """
    keys = pa.schema(key_fields(layout.id_type))
    num_own = _load_positions(connection, "changed", folder, own, keys)
    if not resumed:
        return None
    schema = resumed_schema(layout.id_type)
    load(
        connection, "resumed", schema, parquet_batches(folder, [part.path for part in resumed], schema.names)
    )
    facts = [pa.field(name, pa.string()) for name in ("run", "status", EMBEDDING_RUN, "piece")]
    _load_positions(connection, "offered", folder, resumed_from, pa.schema([*keys, *facts]), num_own)
    matching = "JOIN resumed USING (illust_id, page, piece)"
    connection.execute(f"INSERT INTO changed SELECT illust_id, page, position FROM offered SEMI {matching}")
    rest = f"SELECT illust_id, page, run FROM offered ANTI {matching} WHERE {DIES}"
    tables = list(query(connection, rest, dead_schema(layout.id_type)))
    return pa.concat_tables(tables) if tables else None


def _load_positions(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    folder: Folder,
    pieces: Sequence[Receipt],
    columns: pa.Schema,
    first: int = 0,
) -> int:
    """Load ``columns`` of all rows of the pieces, and ``position`` from ``first`` on; return the next one."""
    position = first

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal position
        for rows in piece_rows(folder, pieces, columns):
            numbers = pa.array(range(position, position + rows.num_rows), pa.int64())
            position += rows.num_rows
            yield from rows.append_column(_POSITION, numbers).to_batches()

    load(connection, table, columns.append(_POSITION), batches())
    return position


def piece_rows(folder: Folder, pieces: Sequence[Receipt], columns: pa.Schema) -> Iterator[pa.Table]:
    """Rows of each piece; in ``piece``, if ``columns`` has it, the path of the file that holds them."""
    stored = [name for name in columns.names if name != "piece"]

    def read(piece: Receipt) -> pa.Table:
        try:
            data = checked_bytes(folder, piece.scores)
        except DataError as exc:
            raise StorageError(
                f"a staged piece went while the night was written: {exc}; the next run does without it"
            ) from None
        rows = scores_rows(data, stored)
        if rows.num_rows != piece.scores.rows:
            raise StorageError(
                f"{folder.full(piece.scores.path)} has {rows.num_rows} rows, its receipt says "
                f"{piece.scores.rows}"
            )
        if "piece" in columns.names:
            rows = rows.append_column("piece", pa.repeat(pa.scalar(piece.scores.path), rows.num_rows))
        return rows.select(columns.names).cast(columns)

    return side_by_side(read, pieces)


def check_changed_keys(connection: duckdb.DuckDBPyConnection, run: str, num_changed: int) -> None:
    """Raise ``StorageError`` unless table ``changed`` has as many rows as planned, with distinct keys."""
    distinct = "(SELECT count(*) FROM (SELECT DISTINCT illust_id, page FROM changed))"
    rows, keys = one_row(connection, f"SELECT count(*), {distinct} FROM changed")
    if not rows == keys == num_changed:
        raise StorageError(
            f"run {run}: {rows} staged rows with {keys} keys, planned {num_changed}: not published"
        )


def sorted_changes(
    connection: duckdb.DuckDBPyConnection,
    folder: Folder,
    layout: Layout,
    pieces: Sequence[Receipt],
    scratch: Path,
    batch_rows: int,
) -> Iterator[pa.Table]:
    """Whole rows of table ``changed``, in key order, ``batch_rows`` at a time.

    ``pieces`` as they were counted for its positions. The table is dropped.
    """
    order = query(connection, "SELECT position FROM changed ORDER BY illust_id, page", pa.schema([_POSITION]))
    ranks, num_ranked = ranks_of(
        (table.column(0).to_numpy() for table in order), sum(piece.scores.rows for piece in pieces)
    )
    connection.execute("DROP TABLE changed")

    def tables() -> Iterator[tuple[pa.Table, Ranks]]:
        start = 0
        for rows in piece_rows(folder, pieces, layout.scores):
            yield rows, ranks[start : start + rows.num_rows]
            start += rows.num_rows

    return in_order(tables(), num_ranked, scratch, batch_rows)
