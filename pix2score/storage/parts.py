"""A list of rows as Parquet parts: what plans are written as and tasks read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.sql import query, side_by_side

PART_ROWS = 16_384
ROW_GROUP_ROWS = 1024  # a task that works on some rows of a part reads no more than these


MAX_PARTS = 8192
"""Of a run: what works on them does so a part at a time at most, and its driver keeps an account of each."""


def part_rows(num_rows: int) -> int:
    """Rows of each part of a plan of ``num_rows``: so many that there are at most ``MAX_PARTS``."""
    return max(PART_ROWS, -(-num_rows // MAX_PARTS // ROW_GROUP_ROWS) * ROW_GROUP_ROWS)


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a plan: its path in the output folder and its number of rows."""

    path: str
    rows: int


def total_rows(parts: Iterable[Part]) -> int:
    """Rows of all parts."""
    return sum(part.rows for part in parts)


def write_parts(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    schema: pa.Schema,
    folder: Folder,
    prefix: str,
    part_rows: int = PART_ROWS,
) -> list[Part]:
    """The rows of ``sql`` as Parquet parts ``<prefix>-00000.parquet`` … of ``part_rows`` rows."""

    def publish(numbered: tuple[int, pa.Table]) -> Part:
        number, table = numbered
        path = f"{prefix}-{number:05}.parquet"
        folder.publish(path, parquet_bytes(table, row_group_rows=ROW_GROUP_ROWS), replace=True)
        return Part(path, table.num_rows)

    return list(side_by_side(publish, enumerate(query(connection, sql, schema, part_rows))))
