"""The Ray Data source that prepare and score share: Parquet parts -> rows -> bytes -> pixels, or a named failure, per row.

A bad image never raises: it leaves its stage as a row whose ``error_code`` is set.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from pix2score import busy
from pix2score.catalog import Catalog
from pix2score.cluster import Offer
from pix2score.counters import count_images
from pix2score.dataset import PreparedDataset, decode_shard
from pix2score.decoder import Decoder
from pix2score.engine import open_parquet
from pix2score.errors import DataError, ImageFailure
from pix2score.heads import HeadSpec
from pix2score.image_source import NUM_CONCURRENT, ImageSource
from pix2score.images import Preprocess
from pix2score.part_source import BLOCK_ROWS, ParquetParts
from pix2score.plan import Part
from pix2score.storage import Entry, Folder

logger = logging.getLogger(__name__)

MAX_TASK_ROWS = BLOCK_ROWS  # 256 x 224 x 224 x 3 bytes = 38 MB per block, and some seconds of one core
EMBEDDED_TASK_ROWS = 1024  # a task reads whole row groups of the catalog: fewer tasks, fewer repeated reads
DECODE_MEMORY_BYTES = 2**30
BLOCK_BYTES = 64 * 2**20  # of pixels; a decode task holds them twice, once as a list
SHARD_ROW_BYTES = 40_000  # an encoded image of 256 px; like the next, only a hint to Ray's scheduler
TASK_ROWS_STEP = 16  # whole batches of a forward pass on a CPU
MAX_TASKS = 8192  # of a run: beyond that many a task makes several blocks, as the driver keeps an account of each task


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
            value = _image_column(self.folder.uri, self.pinned[file], str(self.image_column)).value(row)
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


@functools.lru_cache(maxsize=1)
def _image_column(folder: str, entry: Entry, column: str) -> _ImageColumn:
    return _ImageColumn(Folder(folder), entry, column)


@functools.lru_cache(maxsize=2)
def _decoder(task: Preprocess | int, _pid: int) -> Decoder:  # a child process must not be shared across a fork
    return Decoder(task)


def fetch_and_decode(rows: pa.Table, *, images: ImageRows, task: Preprocess | int) -> pa.Table:
    """Ray Data stage: plan rows in, the same rows out with ``data``, ``error_code``, ``error_detail`` and what ``busy`` measures.

    ``data`` is null where ``error_code`` is set; else RGB pixels (fixed-size binary, S*S*3 bytes) if ``task`` is a ``Preprocess``, or image
    bytes for a training shard if it is a short side in px.
    """
    decode = _decoder(task, os.getpid())
    data: list[bytes | None] = []
    failures: list[ImageFailure | None] = []
    sizes, waited, worked = [], [], []
    contents, now = images.contents(rows), time.monotonic()
    for content in contents:
        fetched = time.monotonic()
        result = content if isinstance(content, ImageFailure) else _decoded(decode, content)
        data.append(None if isinstance(result, ImageFailure) else result)
        failures.append(result if isinstance(result, ImageFailure) else None)
        sizes.append(0 if isinstance(content, ImageFailure) else len(content))
        waited.append(fetched - now)
        now = time.monotonic()
        worked.append(now - fetched)
    count_images("ok" if failure is None else failure.code for failure in failures)
    columns = [
        pa.array(data, pa.binary() if isinstance(task, int) else pixel_type(task)),
        pa.array([f and f.code for f in failures], pa.string()),
        pa.array([f and f.detail for f in failures], pa.string()),
        *(pa.array(values, field.type) for values, field in zip((sizes, waited, worked), busy.FIELDS, strict=False)),
    ]
    names = ["data", "error_code", "error_detail", *(field.name for field in busy.FIELDS[:3])]
    for name, column in zip(names, columns, strict=True):
        rows = rows.append_column(name, column)
    return rows


def _decoded(decode: Decoder, content: bytes) -> bytes | ImageFailure:
    try:
        return decode(content)
    except ImageFailure as failure:
        return failure


def pixel_type(preprocess: Preprocess) -> pa.DataType:
    """Arrow type of one image's pixels."""
    return pa.binary(preprocess.size * preprocess.size * 3)


def pixels_of(column: pa.ChunkedArray, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Pixels [N, S, S, 3] of a column without nulls, as a read-only view where its rows lie together."""
    size = preprocess.size
    if not len(column):
        return np.zeros((0, size, size, 3), dtype=np.uint8)
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    flat = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    return flat.reshape(-1, size, size, 3)[array.offset : array.offset + len(array)]


def decoded_rows(
    folder: Folder, parts: Sequence[Part], images: ImageRows, task: Preprocess | int, offer: Offer
) -> ray.data.Dataset:
    """The head of a pipeline: plan parts, cut to equal slices that CPU tasks read, fetch and decode."""
    source = ParquetParts(
        folder,
        parts,
        task_rows=task_rows(total_rows(parts), offer, is_embedded=images.image_column is not None),
        block_rows=min(MAX_TASK_ROWS, block_rows(task)) if isinstance(task, Preprocess) else MAX_TASK_ROWS,
        row_bytes=task.size**2 * 3 if isinstance(task, Preprocess) else SHARD_ROW_BYTES,
        stage=functools.partial(fetch_and_decode, images=images, task=task),
    )
    return ray.data.read_datasource(
        source, override_num_blocks=source.num_tasks, memory=DECODE_MEMORY_BYTES, **offer.decode_placement()
    )


def task_rows(num_rows: int, offer: Offer, *, is_embedded: bool) -> int:
    """Rows per decode task: a block, but few enough that a small job keeps every core busy to its end; several blocks in a huge job."""
    most, tasks_per_core = (EMBEDDED_TASK_ROWS, 4) if is_embedded else (MAX_TASK_ROWS, 16)
    even = num_rows // (tasks_per_core * offer.num_cores) // TASK_ROWS_STEP * TASK_ROWS_STEP
    return max(TASK_ROWS_STEP, min(most, even), -(-num_rows // MAX_TASKS))


def block_rows(preprocess: Preprocess) -> int:
    """Images whose pixels fill a block of ``BLOCK_BYTES``."""
    return max(1, BLOCK_BYTES // (preprocess.size**2 * 3))


def total_rows(parts: Iterable[Part]) -> int:
    """Rows of all parts."""
    return sum(part.rows for part in parts)


def log_failures(failed: Counter[str], catalog: Catalog) -> None:
    """A warning per error code, and what to do about images outside the catalog's folder."""
    for code, number in failed.most_common():
        logger.warning("%d images failed as %s", number, code)
    if failed["FORBIDDEN"]:
        logger.warning("uris outside %s are not read; --image-root PLACE allows another place", catalog.folder.uri)


def shard_rows(
    dataset: PreparedDataset, split: str, heads: Sequence[HeadSpec], preprocess: Preprocess, offer: Offer, *, pad_rows: int = 0
) -> ray.data.Dataset:
    """A prepared split as pixels and labels (``dataset.decode_shard``), decoded by CPU tasks; ``pad_rows`` empty rows at its end."""
    source = ParquetParts(dataset.folder, dataset.parts(split), row_bytes=SHARD_ROW_BYTES, pad_rows=pad_rows)
    return ray.data.read_datasource(source).map_batches(
        decode_shard,
        fn_kwargs={"heads": tuple(heads), "preprocess": preprocess},
        batch_format="pyarrow",
        batch_size=min(MAX_TASK_ROWS, block_rows(preprocess)),
        **offer.decode_placement(),
    )
