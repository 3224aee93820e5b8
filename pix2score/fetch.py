"""The Ray Data source that prepare and score share: Parquet parts -> rows -> bytes -> pixels, or a named failure, per row.

A bad image never raises: it leaves its stage as a row whose ``error_code`` is set.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from pix2score import busy
from pix2score.cluster import Offer
from pix2score.counters import count_images
from pix2score.dataset import PreparedDataset, decode_shard
from pix2score.decoder import Decoder
from pix2score.errors import ImageFailure
from pix2score.heads import HeadSpec
from pix2score.image_rows import Content, ImageRows, size_of
from pix2score.images import Preprocess
from pix2score.part_source import BLOCK_ROWS, ParquetParts, TaskRows
from pix2score.plain_jpeg import Encoded, as_plain_jpeg
from pix2score.plan import Part, total_rows
from pix2score.repeats import CONTENT_ID, content_id
from pix2score.row_groups import row_group_runs, task_sizes, warn_of_large
from pix2score.storage import Folder

logger = logging.getLogger(__name__)

ENCODED = "encoded"
"""Column of JPEGs that the predictor decodes."""
MAX_TASK_ROWS = BLOCK_ROWS  # 256 x 224 x 224 x 3 bytes = 38 MB per block, and some seconds of one core
MAX_ENCODED_ROWS = 64  # originals of 1 MB fill a block
MAX_ACTOR_ROWS = 64  # some seconds of a core even with a large network: what a killed worker costs, and how often progress is told
EMBEDDED_TASK_ROWS = 1024  # a task reads whole row groups of the catalog: fewer tasks, fewer repeated reads
MAX_EMBEDDED_TASK_ROWS = (
    2048  # of one row group; what a task makes may come out at its end, and a piece is to close within a minute
)
DECODE_MEMORY_BYTES = 2**30
BLOCK_BYTES = 64 * 2**20  # of pixels, or of what an image is kept as; a decode task holds them twice, once as a list
SHARD_ROW_BYTES = 40_000  # an encoded image of 256 px; like the next, only a hint to Ray's scheduler
MANY_SHARDS = 64  # enough tasks for the cores of some GPUs; fewer shards are cut, though a row group may then be read twice
SHARD_TASK_ROWS = 512
TASK_ROWS_STEP = 16  # whole batches of a forward pass on a CPU
MAX_TASKS = 8192  # of a run: beyond that many a task makes several blocks, as the driver keeps an account of each task


_idle_decoders: dict[tuple[int, Preprocess | int], list[Decoder]] = {}
"""By process, as a child must not be shared across a fork, and task."""


@contextlib.contextmanager
def decoder_for(task: Preprocess | int) -> Iterator[Decoder]:
    """A decoder for one thread at a time; its child process is kept for the next."""
    idle = _idle_decoders.setdefault((os.getpid(), task), [])
    try:
        decoder = idle.pop()
    except IndexError:
        decoder = Decoder(task)
    try:
        yield decoder
    except BaseException:
        decoder.close()  # its answer may still be under way, and would be taken for the next image's
        raise
    idle.append(decoder)


def fetch_and_decode(rows: pa.Table, *, images: ImageRows, task: Preprocess | int, keeps_jpegs: bool = False) -> pa.Table:
    """Ray Data stage: plan rows in, the same rows out with ``data``, ``error_code``, ``error_detail``, ``repeats.CONTENT_ID`` and what
    ``busy`` measures.

    ``data`` is null where ``error_code`` is set; else RGB pixels (fixed-size binary, S*S*3 bytes) if ``task`` is a ``Preprocess``, or image
    bytes for a training shard if it is a short side in px. ``keeps_jpegs``: plain JPEGs stand in column ``encoded`` as they are instead,
    for ``device_rows``, and ``data`` is binary, so that a null takes no room.
    """
    return pa.concat_tables(decoded_blocks(rows, images=images, task=task, keeps_jpegs=keeps_jpegs))


def decoded_blocks(rows: pa.Table, *, images: ImageRows, task: Preprocess | int, keeps_jpegs: bool = False) -> Iterator[pa.Table]:
    """``fetch_and_decode`` in tables of at most ``BLOCK_BYTES``, or of one image. Of pixels, whose size is known, all rows in one."""
    contents = images.contents(rows)
    if keeps_jpegs:
        contents = (content if isinstance(content, ImageFailure) else as_plain_jpeg(content) or content for content in contents)
    is_fixed = not (isinstance(task, int) or keeps_jpegs)
    block = _Block(pixel_type(task) if isinstance(task, Preprocess) and is_fixed else pa.binary(), keeps_jpegs)
    start = 0
    with decoder_for(task) as decoder:
        for decoded in _decoded(decoder, contents):
            if block.data and block.num_bytes + size_of(decoded[1]) > BLOCK_BYTES and not is_fixed:
                yield block.beside(rows.slice(start, len(block.data)))
                start, block = start + len(block.data), _Block(block.data_type, keeps_jpegs)
            block.add(*decoded)
    yield block.beside(rows.slice(start))


@dataclass(slots=True)
class _Block:
    """Columns of the rows that are decoded by now."""

    data_type: pa.DataType
    keeps_jpegs: bool
    num_bytes: int = 0
    encoded: list[bytes | None] = field(default_factory=list)
    data: list[bytes | None] = field(default_factory=list)
    failures: list[ImageFailure | None] = field(default_factory=list)
    content_ids: list[int | None] = field(default_factory=list)
    measured: tuple[list[float], list[float], list[float]] = field(default_factory=lambda: ([], [], []))
    """As ``busy.FIELDS`` has them: bytes fetched, seconds waited, seconds worked."""

    def add(self, content: Content, result: Content, wait_s: float, work_s: float) -> None:
        """One more row."""
        self.encoded.append(result if isinstance(result, Encoded) else None)
        self.data.append(None if isinstance(result, ImageFailure | Encoded) else result)
        self.failures.append(result if isinstance(result, ImageFailure) else None)
        self.content_ids.append(None if isinstance(content, ImageFailure) else content_id(content))
        self.num_bytes += size_of(result)
        for values, value in zip(self.measured, (size_of(content), wait_s, work_s), strict=True):
            values.append(value)

    def beside(self, rows: pa.Table) -> pa.Table:
        """``rows`` with these columns."""
        count_images("ok" if failure is None else failure.code for failure in self.failures)
        columns = {
            "data": pa.array(self.data, self.data_type),
            "error_code": pa.array([f and f.code for f in self.failures], pa.string()),
            "error_detail": pa.array([f and f.detail for f in self.failures], pa.string()),
            CONTENT_ID.name: pa.array(self.content_ids, CONTENT_ID.type),
            **{f.name: pa.array(values, f.type) for values, f in zip(self.measured, busy.FIELDS, strict=False)},
        }
        if self.keeps_jpegs:
            columns[ENCODED] = pa.array(self.encoded, pa.binary())
        for name, column in columns.items():
            rows = rows.append_column(name, column)
        return rows


def _decoded(decoder: Decoder, contents: Iterator[Content]) -> Iterator[tuple[Content, Content, float, float]]:
    """Content, what it decodes to, and the seconds waited for each; the decoder has the next one before it is done with this."""
    before: tuple[Content, float] | None = None
    now = time.monotonic()
    for content in contents:
        fetched = time.monotonic()
        if not isinstance(content, ImageFailure | Encoded):
            decoder.begin(content)
        if before:
            yield _finished(decoder, *before)
        before = content, fetched - now
        now = time.monotonic()
    if before:
        yield _finished(decoder, *before)


def _finished(decoder: Decoder, content: Content, wait_s: float) -> tuple[Content, Content, float, float]:
    start = time.monotonic()
    try:
        result = content if isinstance(content, ImageFailure | Encoded) else decoder.finish(content)
    except ImageFailure as failure:
        result = failure
    return content, result, wait_s, time.monotonic() - start


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
    folder: Folder,
    parts: Sequence[Part],
    images: ImageRows,
    task: Preprocess | int,
    offer: Offer,
    placement: Mapping[str, Any] | None = None,
    *,
    keeps_jpegs: bool = False,
) -> ray.data.Dataset:
    """The head of a pipeline: plan parts, cut to equal slices that CPU tasks read, fetch and decode.

    ``placement``: options of these tasks, instead of ``offer``'s. Equal to those of an actor stage that follows, its actors do this too,
    and the slices are smaller, as the model's work is part of the task.
    """
    most = MAX_TASK_ROWS if placement is None else MAX_ACTOR_ROWS
    most = min(most, MAX_ENCODED_ROWS) if keeps_jpegs else most
    rows_of = task_rows(total_rows(parts), offer, most, is_embedded=images.image_column is not None)
    source = ParquetParts(
        folder,
        parts,
        task_rows=rows_of,
        sizes=None if images.image_column is None else _embedded_sizes(folder, parts, images, offer, rows_of(0)),
        block_rows=min(most, block_rows(task)) if isinstance(task, Preprocess) else most,
        row_bytes=task.size**2 * 3 if isinstance(task, Preprocess) else SHARD_ROW_BYTES,
        stage=functools.partial(decoded_blocks, images=images, task=task, keeps_jpegs=keeps_jpegs),
        name=fetch_and_decode.__name__,
    )
    options = {"memory": DECODE_MEMORY_BYTES, **offer.decode_placement()} if placement is None else placement
    return ray.data.read_datasource(source, override_num_blocks=source.num_tasks, **options)


def _embedded_sizes(folder: Folder, parts: Sequence[Part], images: ImageRows, offer: Offer, few: int) -> list[list[int]]:
    """Rows of each task of each part, along the row groups of the catalog where they are not too large; ``few``: those of an even task."""
    most = max(few, min(MAX_EMBEDDED_TASK_ROWS, total_rows(parts) // (2 * offer.num_cores)))
    runs = row_group_runs(images.folder, folder, parts)
    warn_of_large(runs, MAX_EMBEDDED_TASK_ROWS)
    return [list(task_sizes(run, few, most)) for run in runs]


def task_rows(num_rows: int, offer: Offer, most: int, *, is_embedded: bool) -> TaskRows:
    """Rows of the next decode task by how many are left: a block, and less and less at the end, so that every core is busy to it; several
    blocks in a huge job. Of embedded images a fixed number, or where row groups end (``row_groups``)."""
    least = max(TASK_ROWS_STEP, -(-num_rows // MAX_TASKS))
    if is_embedded:
        even = max(least, min(EMBEDDED_TASK_ROWS, num_rows // (4 * offer.num_cores)))
        return lambda left: even

    def rows(left: int) -> int:
        share = left // (8 * offer.num_cores) // TASK_ROWS_STEP * TASK_ROWS_STEP
        return max(least, min(most, share))

    return rows


def block_rows(preprocess: Preprocess) -> int:
    """Images whose pixels fill a block of ``BLOCK_BYTES``."""
    return max(1, BLOCK_BYTES // (preprocess.size**2 * 3))


def shard_rows(
    dataset: PreparedDataset, split: str, heads: Sequence[HeadSpec], preprocess: Preprocess, offer: Offer, *, pad_rows: int = 0
) -> ray.data.Dataset:
    """A prepared split as pixels and labels (``dataset.decode_shard``), read and decoded by CPU tasks; ``pad_rows`` empty rows at its end.

    What is a task and what a block depends on the dataset alone, so that the order of rows does.
    """
    parts = dataset.parts(split)
    source = ParquetParts(
        dataset.folder,
        parts,
        row_bytes=preprocess.size**2 * 3,
        pad_rows=pad_rows,
        task_rows=None if len(parts) >= MANY_SHARDS else lambda left: SHARD_TASK_ROWS,
        block_rows=min(MAX_TASK_ROWS, block_rows(preprocess)),
        stage=functools.partial(decode_shard, heads=tuple(heads), preprocess=preprocess),
    )
    return ray.data.read_datasource(source, override_num_blocks=source.num_tasks, **offer.decode_placement())
