"""Images that lie in the catalog itself: a reader of one file's image column, and a pool of such readers."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pix2score.catalog.opening import open_file
from pix2score.catalog.read import batch_rows, image_values, own_path
from pix2score.catalog.view import TableVersion
from pix2score.errors import DataError
from pix2score.images.fetch import NUM_CONCURRENT
from pix2score.storage.folder import Entry, Folder

COLUMN_BYTES = 16 * 2**20  # of embedded images read in one go
MAX_IDLE_COLUMNS = 8  # each holds a batch of images
_lock = threading.Lock()

_idle_columns: list[tuple[tuple[str, Entry, str, int], ImageColumn]] = []
"""Readers that no thread uses, with what they read and the process; the last used ones last."""


class DamagedColumn(Exception):
    """A part of a catalog file cannot be read."""


class ImageColumn:
    """Image bytes of one catalog file by row, for rows asked in ascending order: holds one batch, never a row
    group.

    Raises ``DataError`` if the file is not the one that was planned: its rows may be others by now.
    """

    def __init__(self, folder: Folder, entry: Entry, column: str, table: TableVersion | None = None) -> None:
        if folder.entry(entry.path) != entry:
            raise DataError(f"{folder.full(entry.path)} changed while it was scored; run again")
        self._folder, self._entry, self._column, self._table = folder, entry, column, table
        with open_file(folder, entry, table) as file:
            own = own_path(file, column)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            self._batch_rows = [
                batch_rows(file.metadata.row_group(i), own, COLUMN_BYTES, NUM_CONCURRENT)
                for i in range(file.metadata.num_row_groups)
            ]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._group, self._first, self._batch = -1, 0, pa.nulls(0, pa.binary())
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def position_before(self, row: int) -> int:
        """The row that it is at, -1 if that is beyond ``row``: it would begin its row group again."""
        return self._first if self._group >= 0 and self._first <= row else -1

    def value(self, row: int) -> bytes | None:
        """Content of ``row``. Raises ``DamagedColumn`` if its row group cannot be read."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group or row < self._first:
            self._group, self._first = group, int(self._starts[group])
            self._batch, self._batches = pa.nulls(0, pa.binary()), self._open(group)
        try:
            while row >= self._first + len(self._batch):
                self._first += len(self._batch)
                self._batch = pa.nulls(0, pa.binary())  # not held beside the next
                self._batch = image_values(next(self._batches).column(0))
        except (DataError, StopIteration) as exc:
            self._group = -1
            raise DamagedColumn(f"row group {group} of {self._entry.path} is damaged") from exc
        value: bytes | None = self._batch[row - self._first].as_py()
        return value

    def _open(self, group: int) -> Iterator[pa.RecordBatch]:
        with open_file(self._folder, self._entry, self._table) as file:
            yield from file.iter_batches(
                batch_size=self._batch_rows[group], row_groups=[group], columns=[self._column]
            )


@contextlib.contextmanager
def image_column(
    folder: str, entry: Entry, column: str, row: int, table: TableVersion | None = None
) -> Iterator[ImageColumn]:
    """A reader for this thread alone, best one that is a little before ``row``; it is kept for the
    next."""
    key = (folder, entry, column, os.getpid())
    with _lock:
        fitting = [i for i, (other, _) in enumerate(_idle_columns) if other == key]
        best = max(fitting, key=lambda i: _idle_columns[i][1].position_before(row), default=None)
        reader = None if best is None else _idle_columns.pop(best)[1]
    reader = reader or ImageColumn(Folder(folder), entry, column, table)
    yield reader
    with _lock:
        _idle_columns.append((key, reader))
        del _idle_columns[:-MAX_IDLE_COLUMNS]
