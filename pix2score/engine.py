"""An embedded DuckDB that works out of core: what planning, rewriting and verifying sort and join with.

DuckDB never opens a place itself (its own S3 reader is a download): it reads Arrow batches that ``storage`` brings and gives batches back.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.errors import DataError, StorageError
from pix2score.scratch import room, scratch_folder
from pix2score.storage import Folder

T = TypeVar("T")
R = TypeVar("R")

MEMORY_BYTES = 2 * 2**30
BATCH_ROWS = 65_536
NUM_TRANSFERS = 4  # objects read or written at the same time: waiting for storage, more than cores
_REPEATING = {"status", "error_code", "error_detail", "run", "group", "split", "file"}
READ_BUFFER_BYTES = 4 * 2**20  # per column; without it a whole row group is held, with pre_buffer a whole file (measured: 1.1 GiB)


_FULL_DISK = ("max_temp_directory_size", "No space left on device", "Disk quota exceeded")
_UNFIT = (duckdb.InvalidInputException, duckdb.NotImplementedException, duckdb.ConversionException)


@contextlib.contextmanager
def engine(memory_bytes: int = MEMORY_BYTES, *, disk_bytes: int = 0, what: str = "this") -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of bounded memory that spills to a temporary folder, gone afterwards.

    Raises:
        ConfigError: the disk of temporary files has less than ``disk_bytes`` free, which ``what`` needs.
        StorageError: it filled up in the middle of the work.
    """
    with _named_full_disk(what), scratch_folder(disk_bytes, what) as folder:
        connection = duckdb.connect(f"{folder}/rows.duckdb")
        try:
            connection.execute(f"SET memory_limit='{memory_bytes // 2**20}MiB'")
            connection.execute(f"SET temp_directory='{folder}'")
            connection.execute("SET preserve_insertion_order=false")
            connection.execute("SET TimeZone='UTC'")
            connection.execute("SET enable_progress_bar=false")
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def _named_full_disk(what: str) -> Iterator[None]:
    """A disk of temporary files that fills up is one line. What storage raises has another type: that disk is not meant."""
    try:
        yield
    except (duckdb.Error, OSError) as exc:
        if not _is_full_disk(exc):
            raise
        raise StorageError(f"{what} filled the disk of temporary files: {room(tempfile.gettempdir())}") from exc


def _is_full_disk(exc: BaseException) -> bool:
    return getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(text in str(exc) for text in _FULL_DISK)


def load(connection: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """``table`` holds the rows of ``batches``, streamed. An error raised while batches are made comes out unchanged."""
    failure: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as exc:  # DuckDB would turn it into its own kind with a text
            failure.append(exc)
            raise

    connection.register("incoming", pa.RecordBatchReader.from_batches(schema, guarded()))
    try:
        connection.execute(f"CREATE TABLE {table} AS SELECT * FROM incoming")
    except duckdb.Error as exc:
        if failure:
            raise failure[0] from None
        if isinstance(exc, _UNFIT):
            raise DataError(f"rows cannot be read: {exc}") from None
        raise
    finally:
        connection.unregister("incoming")


def query(connection: duckdb.DuckDBPyConnection, sql: str, schema: pa.Schema, batch_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """The result of ``sql`` as tables of ``schema`` with exactly ``batch_rows`` rows each, but for the last."""
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


def in_memory(sql: str, **tables: pa.Table) -> pa.Table:
    """The result of ``sql`` over tables that are in memory, by one thread: for one task of many side by side."""
    with duckdb.connect() as connection:
        connection.execute("SET threads=1")
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql).to_arrow_table()


def numbered(rows: pa.Table, *names: str) -> pa.Table:
    """Some columns of ``rows``, and each row's ``position``."""
    return rows.select(list(names)).append_column("position", pa.array(range(rows.num_rows), pa.int64()))


def one_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The single row that ``sql`` gives."""
    (row,) = connection.execute(sql).fetchall()
    return tuple(row)


def side_by_side(function: Callable[[T], R], items: Iterable[T], num_threads: int = NUM_TRANSFERS) -> Iterator[R]:
    """``function`` of every item, in order, ``num_threads`` at a time; items are drawn, and results held, only a few ahead."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def parquet_batches(
    folder: Folder, paths: Sequence[str], columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Rows of Parquet files, one file after the other. Raises ``DataError`` naming a file that is not Parquet."""
    for path in paths:
        with open_parquet(folder, path) as file:
            yield from file.iter_batches(batch_size=batch_rows, columns=columns)


@contextlib.contextmanager
def open_parquet(folder: Folder, path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of a folder. Raises ``DataError`` if it is something else or damaged, ``FileNotFoundError`` if it is gone."""
    with folder.open(path) as stream, parquet_file(stream, folder.full(path)) as file:
        yield file


@contextlib.contextmanager
def parquet_file(stream: Any, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file that is open already, or held in a buffer. Raises ``DataError`` by ``name``, as ``open_parquet`` does."""
    with _named_damage(f"{name} is not a Parquet file"):
        # int96, as old Spark and Hive write timestamps: in ns, which Arrow takes by default, the year 9999 wraps around to 1816.
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=READ_BUFFER_BYTES, coerce_int96_timestamp_unit="us")
    with file, _named_damage(f"{name} is damaged"):
        yield file


@contextlib.contextmanager
def _named_damage(what: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as exc:
        if isinstance(exc, OSError) and (type(exc) is not OSError or exc.errno is not None):
            raise  # storage's own; what Arrow raises for bad content is a bare OSError
        raise DataError(f"{what}: {exc}") from None


def repeating(schema: pa.Schema) -> list[str]:
    """Columns whose values repeat, so that a dictionary pays."""
    return [name for name in schema.names if name in _REPEATING]


def parquet_bytes(table: pa.Table, *, row_group_rows: int | None = None, compression: str = "zstd") -> bytes:
    """The table as one Parquet file.

    Dictionaries only where values repeat: trying them on numbers and ids made SCORES files three times slower to write and a quarter larger
    (100,000 rows of the ``pixiv`` heads: 0.27 s and 19.9 MB against 0.09 s and 15.2 MB of one core).
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=row_group_rows, compression=compression, use_dictionary=repeating(table.schema))
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
