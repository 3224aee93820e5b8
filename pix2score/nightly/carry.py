"""Catalog columns that the scores table has as they are tonight, so that its readers need no join.

They are written in key order and laid beside each range when it is merged: pieces, and rows that may come
back, know nothing of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.keys import KEY, Key, key_fields
from pix2score.errors import ConfigError, StorageError
from pix2score.nightly.bounds import within
from pix2score.snapshots.snapshot import CarriedColumns
from pix2score.snapshots.tables import Layout
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.quoting import identifier
from pix2score.storage.sql import one_row, query

PART_ROWS, ROW_GROUP_ROWS = 250_000, 65_536


@dataclass(frozen=True, slots=True)
class SortedPart:
    """Rows of one Parquet file, in key order, of which ``first`` is the smallest."""

    path: str
    rows: int
    first: Key


def check_carry(names: Sequence[str], layout: Layout) -> None:
    """Raise ``ConfigError`` for a column that is named twice, or that the scores table has already."""
    for name in names:
        if name in layout.scores.names:
            raise ConfigError(f"carry {name}: the scores table has a column of that name")
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ConfigError(f"carry {twice[0]}: it is given twice")


def columns_of(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, names: Sequence[str]
) -> CarriedColumns | None:
    """The columns and a hash of all their values; None without any. Of view ``keyed``."""
    return carried_columns(catalog, names, hash_of(connection, catalog, names)) if names else None


def hash_of(connection: duckdb.DuckDBPyConnection, catalog: Catalog, names: Sequence[str]) -> int:
    """Of all values of the columns in view ``keyed``; that of several ranges is the XOR of theirs."""
    hashed = ", ".join([*KEY, *(f"label_{catalog.labels.index(name)}" for name in names)])
    return int(one_row(connection, f"SELECT coalesce(bit_xor(hash({hashed})), 0) FROM keyed")[0])


def carried_columns(catalog: Catalog, names: Sequence[str], found: int) -> CarriedColumns:
    """The columns, and the hash that was ``found`` of their values.

    Raises ``ConfigError`` for spans of time, which DuckDB does not give back as they were.
    """
    types = {name: str(_field(catalog, name).type) for name in names}
    return {"columns": types, "hash": f"{found:016x}"}


def write_carried(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, names: Sequence[str], folder: Folder, prefix: str
) -> tuple[SortedPart, ...]:
    """The columns of every key, in key order, as parts below ``prefix``."""
    schema = pa.schema([*key_fields(catalog.id_type), *(_field(catalog, name) for name in names)])
    named = ", ".join(f"label_{catalog.labels.index(name)} AS {identifier(name)}" for name in names)
    sql = f"SELECT illust_id, page, {named} FROM keyed ORDER BY illust_id, page"
    parts = []
    for number, rows in enumerate(query(connection, sql, schema, PART_ROWS)):
        path = f"{prefix}-{number:05}.parquet"
        folder.publish(path, parquet_bytes(rows, row_group_rows=ROW_GROUP_ROWS), replace=True)
        first = (rows.column("illust_id")[0].as_py(), rows.column("page")[0].as_py())
        parts.append(SortedPart(path, rows.num_rows, first))
    return tuple(parts)


def _field(catalog: Catalog, name: str) -> pa.Field:
    kind = catalog.rows_schema().field(f"label_{catalog.labels.index(name)}").type
    if "duration[" in str(kind):  # DuckDB has intervals of months and days in its place
        raise ConfigError(f"carry {name}: a column of {kind} cannot be carried; a number can")
    return pa.field(name, kind)


def beside(
    rows: pa.Table, folder: Folder, parts: Sequence[SortedPart], low: Key | None, high: Key | None
) -> pa.Table:
    """``rows`` of a range, in key order, with their carried columns behind; ``low`` and ``high`` as it has.

    Raises ``StorageError`` if the keys are not those of the catalog.
    """
    tables = []
    for number, part in enumerate(parts):
        next_first = parts[number + 1].first if number + 1 < len(parts) else None
        is_before = low is not None and next_first is not None and next_first <= low  # type: ignore[operator]
        is_behind = high is not None and part.first >= high  # type: ignore[operator]
        if not (is_before or is_behind):
            tables.append(within(pq.read_table(pa.BufferReader(folder.read(part.path))), low, high))
    carried = pa.concat_tables(tables)
    if any(not carried.column(name).equals(rows.column(name)) for name in KEY):
        raise StorageError(
            f"{carried.num_rows} rows of the catalog stand beside {rows.num_rows} of the scores table with "
            "other keys: not published"
        )
    for name in carried.column_names[len(KEY) :]:
        rows = rows.append_column(carried.schema.field(name), carried.column(name))
    return rows
