"""An embedded DuckDB that works out of core: what planning, rewriting and verifying sort and join with.

DuckDB never opens a place itself (its own S3 reader is a download): it reads Arrow batches that ``storage``
brings and gives batches back.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from pix2score.errors import DataError, StorageError
from pix2score.host.scratch import room, scratch_folder
from pix2score.storage.parquet import BATCH_ROWS

T = TypeVar("T")
R = TypeVar("R")

MEMORY_BYTES = 2 * 2**30
NUM_TRANSFERS = 4  # objects read or written at the same time: waiting for storage, more than cores

_FULL_DISK = ("max_temp_directory_size", "No space left on device", "Disk quota exceeded")
_UNFIT = (duckdb.InvalidInputException, duckdb.NotImplementedException, duckdb.ConversionException)


@contextlib.contextmanager
def engine(
    memory_bytes: int = MEMORY_BYTES,
    *,
    disk_bytes: int = 0,
    what: str = "this",
    threads: int = 0,
    in_memory: bool = False,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of bounded memory that spills to a temporary folder, removed afterwards.

    ``threads``: as many work for it; 0 for one per core. ``in_memory``: tables that fit are not compressed,
    and loaded in a fifth of the time.

    Raises:
        ConfigError: the disk of temporary files has less than ``disk_bytes`` free, which ``what`` needs.
        StorageError: it filled up in the middle of the work.
    """
    with _named_full_disk(what), scratch_folder(disk_bytes, what) as folder:
        connection = duckdb.connect(":memory:" if in_memory else f"{folder}/rows.duckdb")
        try:
            connection.execute(f"SET memory_limit='{memory_bytes // 2**20}MiB'")
            connection.execute(f"SET temp_directory='{folder}'")
            if threads:
                connection.execute(f"SET threads={threads}")
            connection.execute("SET preserve_insertion_order=false")
            connection.execute("SET TimeZone='UTC'")
            connection.execute("SET enable_progress_bar=false")
            connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # the file goes with its folder
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def _named_full_disk(what: str) -> Iterator[None]:
    """A disk of temporary files that fills up is one line. What storage raises has another type: that disk is
    not meant."""
    try:
        yield
    except (duckdb.Error, OSError) as exc:
        if not _is_full_disk(exc):
            raise
        raise StorageError(
            f"{what} filled the disk of temporary files: {room(tempfile.gettempdir())}"
        ) from exc


def _is_full_disk(exc: BaseException) -> bool:
    return getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
        text in str(exc) for text in _FULL_DISK
    )


def load(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    sql: str = "SELECT * FROM incoming",
) -> None:
    """``table`` holds the rows of ``batches``, or what ``sql`` makes of them, streamed. An error raised while
    batches are made comes out unchanged."""
    with incoming(connection, schema, batches):
        connection.execute(f"CREATE TABLE {table} AS {sql}")


@contextlib.contextmanager
def incoming(
    connection: duckdb.DuckDBPyConnection, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> Iterator[None]:
    """``batches`` are the table ``incoming`` of one query in the body, streamed.

    An error raised while they are made comes out unchanged."""
    failure: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as exc:  # DuckDB would turn it into its own kind with a text
            failure.append(exc)
            raise

    connection.register("incoming", pa.RecordBatchReader.from_batches(schema, guarded()))
    try:
        yield
    except duckdb.Error as exc:
        if failure:
            raise failure[0] from None
        if isinstance(exc, _UNFIT):
            raise DataError(f"rows cannot be read: {exc}") from None
        raise
    finally:
        connection.unregister("incoming")


def query(
    connection: duckdb.DuckDBPyConnection, sql: str, schema: pa.Schema, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.Table]:
    """The result of ``sql`` as tables of ``schema`` with exactly ``batch_rows`` rows each, but for the
    last."""
    pending: list[pa.RecordBatch] = []
    num_pending = 0
    for batch in connection.sql(sql).to_arrow_reader(min(batch_rows, BATCH_ROWS)):
        rest = batch
        while num_pending + rest.num_rows >= batch_rows:
            cut = batch_rows - num_pending
            yield pa.Table.from_batches([*pending, rest.slice(0, cut)]).select(schema.names).cast(schema)
            pending, num_pending, rest = [], 0, rest.slice(cut)
        if rest.num_rows:
            pending.append(rest)
            num_pending += rest.num_rows
    if num_pending:
        yield pa.Table.from_batches(pending).select(schema.names).cast(schema)


def in_memory(sql: str, *values: Any, **tables: pa.Table | pa.RecordBatchReader) -> pa.Table:
    """The result of ``sql`` over tables that are in memory, by one thread: for one task of many side by
    side. Times are in UTC. ``values`` stand for $1, $2 …. A reader, which is read once, needs none of Arrow's
    threads."""
    with _database(os.getpid()).cursor() as connection:  # names and time zone are a cursor's own
        connection.execute("SET TimeZone='UTC'")
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql, params=list(values) or None).to_arrow_table()


@functools.cache
def _database(process: int) -> duckdb.DuckDBPyConnection:  # noqa: ARG001 - a forked one makes its own
    """An empty database of one thread, for ``process`` alone: to make one costs 20 ms, a cursor of it 0.3."""
    connection = duckdb.connect()
    connection.execute("SET threads=1")
    return connection


def numbered(rows: pa.Table, *names: str) -> pa.Table:
    """Some columns of ``rows``, and each row's ``position``."""
    return rows.select(list(names)).append_column("position", pa.array(range(rows.num_rows), pa.int64()))


def one_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The single row that ``sql`` gives."""
    (row,) = connection.execute(sql).fetchall()
    return tuple(row)


def side_by_side(
    function: Callable[[T], R], items: Iterable[T], num_threads: int = NUM_TRANSFERS
) -> Iterator[R]:
    """``function`` of every item, in order, ``num_threads`` at a time; items are drawn, and results held,
    only a few ahead."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
