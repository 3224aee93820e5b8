"""Reads the files of a catalog: many small ones are under way at once, large ones and embedded images
in bounded batches."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.catalog.opening import open_file
from pix2score.catalog.text.names import is_text_table
from pix2score.catalog.view import CatalogFile, FileView, TableVersion
from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.parquet import parquet_file
from pix2score.storage.places import is_remote, named_errors

NUM_CONCURRENT = 32
SMALL_BYTES = 8 * 2**20
"""Files up to this size are fetched whole from a store in one request: opening one takes four."""
MAX_AHEAD_BYTES = 64 * 2**20
MAX_AHEAD = 64
_TAIL_BYTES = 64 * 2**10  # holds the footer of most files
BATCH_ROWS = 65_536
IMAGE_BATCH_ROWS = 64
IMAGE_BATCH_BYTES = 8 * 2**20
"""Aim for a batch of embedded images; a row group of uneven ones may pass it several times over."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileRows:
    """One file of a catalog, or some of its row groups."""

    entry: Entry
    groups: tuple[int, ...] | None = None
    """None for all."""
    first_row: int = 0
    """Rows of the file before them."""


def schemas(
    folder: Folder, files: Sequence[Entry], table: TableVersion | None = None
) -> Iterator[tuple[pa.Schema, int]]:
    """Schema and number of rows of each file, in order; of a ``table`` in its columns.

    Raises ``DataError`` naming a file that is not Parquet or is missing.
    """
    return _ahead(files, lambda entry: _footer(folder, entry, table), lambda entry: _TAIL_BYTES)


def opened(
    folder: Folder, files: Sequence[Entry], table: TableVersion | None = None
) -> Iterator[tuple[Entry, contextlib.AbstractContextManager[CatalogFile]]]:
    """Each file in order, to be opened, of a ``table`` in its columns; the next small ones are fetched
    meanwhile.

    Raises ``DataError`` naming a file that is not Parquet, damaged or missing.
    """

    def fetch(entry: Entry) -> bytes | None:
        return _range(folder, entry, 0) if _is_fetched(folder, entry) else None

    contents = _ahead(files, fetch, lambda entry: entry.size if _is_fetched(folder, entry) else 0)
    for entry, content in zip(files, contents, strict=True):
        if content is None:
            yield entry, _opened(folder, entry, table)
        else:
            yield entry, _viewed(folder, entry, content, table)


@contextlib.contextmanager
def _viewed(
    folder: Folder, entry: Entry, content: bytes, table: TableVersion | None
) -> Iterator[CatalogFile]:
    with parquet_file(pa.BufferReader(content), folder.full(entry.path)) as file:
        yield table.view(entry.path, file) if table else file


def image_batches(
    file: CatalogFile, columns: Sequence[str], image: str, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """All rows of a file with an image column, or those of some row groups, in batches of few bytes."""
    for group in range(file.metadata.num_row_groups) if groups is None else groups:
        own = own_path(file, image)
        rows = batch_rows(file.metadata.row_group(group), own, IMAGE_BATCH_BYTES, IMAGE_BATCH_ROWS)
        yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=list(columns))


def own_path(file: CatalogFile, path: str) -> str:
    """How the file itself names a column that a catalog knows by ``path``."""
    return file.physical(path) if isinstance(file, FileView) else path


def batch_rows(group: pq.RowGroupMetaData, column: str, num_bytes: int, most_rows: int) -> int:
    """Rows whose values of ``column`` are about ``num_bytes``, going by the mean of their row group; 1 to
    ``most_rows``."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    size = sum(c.total_uncompressed_size for c in chunks if f"{c.path_in_schema}.".startswith(f"{column}."))
    return int(max(1, min(most_rows, num_bytes * group.num_rows // max(1, size))))


def _is_fetched(folder: Folder, entry: Entry) -> bool:
    return is_remote(folder.uri) and entry.size <= SMALL_BYTES and not is_text_table(entry.path)


def _footer(folder: Folder, entry: Entry, table: TableVersion | None) -> tuple[pa.Schema, int]:
    is_fetched = is_remote(folder.uri) and not is_text_table(entry.path)
    tail = _range(folder, entry, max(0, entry.size - _TAIL_BYTES)) if is_fetched else b""
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] == b"PAR1" and 8 < length <= len(tail):
        with (
            contextlib.suppress(DataError),
            _viewed(folder, entry, b"PAR1" + tail[-length:], table) as file,
        ):
            return file.schema_arrow, file.metadata.num_rows
    with _opened(folder, entry, table) as file:  # says what is wrong with it
        return file.schema_arrow, file.metadata.num_rows


def _range(folder: Folder, entry: Entry, start: int) -> bytes:
    """The content from ``start`` on, in one request: asked for a whole object, s3fs first asks how large it
    is."""
    try:
        with named_errors(folder.uri):
            return (
                bytes(folder.fs.cat_file(folder.full(entry.path), start=start, end=entry.size))
                if entry.size
                else b""
            )
    except FileNotFoundError:
        raise _gone(folder, entry) from None


@contextlib.contextmanager
def _opened(folder: Folder, entry: Entry, table: TableVersion | None) -> Iterator[CatalogFile]:
    try:
        with open_file(folder, entry, table) as file:
            yield file
    except FileNotFoundError:
        raise _gone(folder, entry) from None


def _gone(folder: Folder, entry: Entry) -> DataError:
    return DataError(
        f"{folder.full(entry.path)} is gone since the catalog was opened: it was replaced meanwhile; run "
        "again"
    )


def _ahead(files: Sequence[Entry], work: Callable[[Entry], T], weight: Callable[[Entry], int]) -> Iterator[T]:
    """``work`` of each file in order; those that follow are begun before, as far as their weights leave
    room."""
    if len(files) < 2:
        yield from map(work, files)
        return
    pending: deque[tuple[Future[T], int]] = deque()
    begun = held = 0
    pool = ThreadPoolExecutor(max_workers=min(NUM_CONCURRENT, len(files)))
    try:
        while begun < len(files) or pending:
            while (
                begun < len(files)
                and len(pending) < MAX_AHEAD
                and (not pending or held + weight(files[begun]) <= MAX_AHEAD_BYTES)
            ):
                pending.append((pool.submit(work, files[begun]), weight(files[begun])))
                held, begun = held + weight(files[begun]), begun + 1
            future, size = pending.popleft()
            yield future.result()
            held -= size
    finally:
        pool.shutdown(cancel_futures=True)


def image_values(column: pa.Array) -> pa.Array:
    """The images of a column that was read by ``Catalog.image_path``, as large_binary; null where the row has
    none."""
    while pa.types.is_struct(column.type):
        column = pc.struct_field(column, [0])
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return pc.cast(column, pa.large_binary())


def leaf(batch: pa.RecordBatch, path: str) -> Any:
    """A column of a batch; of a dotted path that is no column itself, the field of a struct."""
    if path in batch.schema.names:
        return batch.column(path)
    name, *rest = path.split(".")
    column = batch.column(name)
    for part in rest:
        column = pc.struct_field(column, part)
    return column
