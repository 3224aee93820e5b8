"""What the tasks of a plan by ranges have in common: where they work, on what, and with how much memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.rows import PLAN_DISK_BYTES
from pix2score.nightly.bounds import Bounds
from pix2score.nightly.request import ScoringRequest
from pix2score.nightly.work_order import Ordered, write_ordered
from pix2score.storage.folder import Folder
from pix2score.storage.slices import Slices, read_slice
from pix2score.storage.sql import engine, load

_BASE_BYTES, _ROW_BYTES = 768 * 2**20, 450
"""Of a task, as measured: its process with Arrow and DuckDB, and a row of the catalog or live snapshot."""
MOST_BYTES = 3 * 2**30
KEYS_ROWS = 65_536
"""Of a part of keys alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """What the tasks of one plan share."""

    folder: Folder
    prefix: str
    temporary: str
    """Prefix of what is removed once the plan is made."""
    catalog: Catalog
    """Without its files."""
    request: ScoringRequest
    """Its live snapshot without files."""
    bounds: Bounds

    @property
    def id_type(self) -> pa.DataType:
        """Of the keys."""
        return self.catalog.id_type


def memory_of(num_rows: int) -> int:
    """Bytes that a task needs for a range of so many rows of the catalog and the live snapshot together."""
    return min(MOST_BYTES, _BASE_BYTES + _ROW_BYTES * num_rows)


@contextlib.contextmanager
def range_engine(num_rows: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with what a task of ``memory_of(num_rows)`` can give it: one core, half of its memory."""
    what = f"planning a range of about {num_rows} rows"
    with engine(
        memory_of(num_rows) // 2,
        disk_bytes=num_rows * PLAN_DISK_BYTES,
        what=what,
        threads=1,
        in_memory=True,
    ) as connection:
        yield connection


def load_dealt(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    schema: pa.Schema,
    space: Space,
    dealt: Sequence[Slices],
    number: int,
) -> None:
    """Load what was ``dealt`` to range ``number`` as ``table``, columns as ``schema`` says."""
    tables = read_slice(space.folder, dealt, number)
    load(connection, table, schema, (batch for rows in tables for batch in rows.to_batches()))


def write_of_range(
    connection: duckdb.DuckDBPyConnection, space: Space, number: int, name: str, sql: str, num_rows: int
) -> Ordered | None:
    """``write_ordered`` of range ``number``, in files that begin with ``name``; None if there is no row."""
    prefix = f"{space.temporary}/{name}-{number:05}"
    return write_ordered(connection, sql, space.folder, prefix, num_rows, space.bounds.number)
