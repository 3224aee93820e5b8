"""Where the rows of a plan find their bytes: at the uris they name, or in the catalog's own image column."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pix2score.catalog import Catalog
from pix2score.engine import open_parquet
from pix2score.errors import DataError, ImageFailure
from pix2score.image_source import NUM_CONCURRENT, ImageSource
from pix2score.storage import Entry, Folder

logger = logging.getLogger(__name__)
MAX_IDLE_COLUMNS = 8  # each holds a batch of images
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Where the rows of a plan find their bytes: a source of uris, or the catalog's own image column."""

    source: ImageSource
    folder: Folder
    image_column: str | None
    pinned: dict[str, Entry]
    """Catalog files by path, as they were planned."""

    @classmethod
    def of(cls, catalog: Catalog, source: ImageSource) -> ImageRows:
        """For the rows of a plan made from ``catalog``."""
        pinned = {entry.path: entry for entry in catalog.files} if catalog.embedded else {}
        return cls(source, catalog.folder, catalog.columns.image if catalog.embedded else None, pinned)

    def contents(self, rows: pa.Table) -> Iterator[bytes | ImageFailure]:
        """Content of each row in order; the next few are fetched while the caller works on these."""
        chunks = [rows.slice(i, NUM_CONCURRENT) for i in range(0, rows.num_rows, NUM_CONCURRENT)]
        read = self._read_uris if self.image_column is None else self._read_embedded
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(read, chunks[0]) if chunks else None
            for following in [*chunks[1:], None]:
                contents = ahead.result() if ahead else []
                ahead = pool.submit(read, following) if following is not None else None
                yield from contents

    def _read_uris(self, rows: pa.Table) -> list[bytes | ImageFailure]:
        uris = rows.column("uri").to_pylist()
        present = [uri for uri in uris if uri is not None]
        found = iter(self.source.read_many(present))
        return [ImageFailure("NOT_FOUND", "the catalog row has no uri") if uri is None else next(found) for uri in uris]

    def _read_embedded(self, rows: pa.Table) -> list[bytes | ImageFailure]:
        places = zip(rows.column("file").to_pylist(), rows.column("row").to_pylist(), strict=True)
        return [self._embedded_image(file, row) for file, row in places]

    def _embedded_image(self, file: str, row: int) -> bytes | ImageFailure:
        try:
            with _image_column(self.folder.uri, self.pinned[file], str(self.image_column), row) as reader:
                value = reader.value(row)
        except DamagedColumn as exc:
            return ImageFailure("CORRUPT", str(exc))
        if value is None:
            return ImageFailure("NOT_FOUND", "the catalog row has no image")
        return value or ImageFailure("EMPTY", "0 bytes")


class DamagedColumn(Exception):
    """A part of a catalog file cannot be read."""


class _ImageColumn:
    """Image bytes of one catalog file by row, for rows asked in ascending order: holds one batch, never a row group.

    Raises ``DataError`` if the file is not the one that was planned: its rows may be others by now.
    """

    def __init__(self, folder: Folder, entry: Entry, column: str) -> None:
        if folder.entry(entry.path) != entry:
            raise DataError(f"{folder.full(entry.path)} changed while it was scored; run again")
        self._folder, self._path, self._column = folder, entry.path, column
        with open_parquet(folder, entry.path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._group, self._first, self._batch = -1, 0, pa.nulls(0, pa.binary())
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def position_before(self, row: int) -> int:
        """The row that it stands at, -1 if that is beyond ``row``: it would begin its row group again."""
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
                self._batch = next(self._batches).column(0)
        except (DataError, StopIteration) as exc:
            self._group = -1
            raise DamagedColumn(f"row group {group} of {self._path} is damaged") from exc
        value: bytes | None = self._batch[row - self._first].as_py()
        return value

    def _open(self, group: int) -> Iterator[pa.RecordBatch]:
        with open_parquet(self._folder, self._path) as file:
            yield from file.iter_batches(batch_size=NUM_CONCURRENT, row_groups=[group], columns=[self._column])


_idle_columns: list[tuple[tuple[str, Entry, str, int], _ImageColumn]] = []
"""Readers that no thread uses, with what they read and the process; the last used ones last."""


@contextlib.contextmanager
def _image_column(folder: str, entry: Entry, column: str, row: int) -> Iterator[_ImageColumn]:
    """A reader for this thread alone, best one that stands a little before ``row``; it is kept for the next."""
    key = (folder, entry, column, os.getpid())
    with _lock:
        fitting = [i for i, (other, _) in enumerate(_idle_columns) if other == key]
        best = max(fitting, key=lambda i: _idle_columns[i][1].position_before(row), default=None)
        reader = None if best is None else _idle_columns.pop(best)[1]
    reader = reader or _ImageColumn(Folder(folder), entry, column)
    yield reader
    with _lock:
        _idle_columns.append((key, reader))
        del _idle_columns[:-MAX_IDLE_COLUMNS]


def log_failures(failed: Counter[str], catalog: Catalog) -> None:
    """A warning per error code, and what to do about images outside the catalog's folder."""
    for code, number in failed.most_common():
        logger.warning("%d images failed as %s", number, code)
    if failed["FORBIDDEN"]:
        logger.warning("uris outside %s are not read; --image-root PLACE allows another place", catalog.folder.uri)
