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
from typing import Any, TypeAlias

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
from pix2score.image_rows import ImageRows
from pix2score.images import Preprocess
from pix2score.part_source import BLOCK_ROWS, ParquetParts, TaskRows
from pix2score.plain_jpeg import Encoded, as_plain_jpeg
from pix2score.plan import Part, total_rows
from pix2score.storage import Folder

logger = logging.getLogger(__name__)
Content: TypeAlias = bytes | ImageFailure

ENCODED = "encoded"
"""Column of JPEGs that the predictor decodes."""
MAX_TASK_ROWS = BLOCK_ROWS  # 256 x 224 x 224 x 3 bytes = 38 MB per block, and some seconds of one core
MAX_ENCODED_ROWS = 64  # originals of 1 MB fill a block
MAX_ACTOR_ROWS = 64  # some seconds of a core even with a large network: what a killed worker costs, and how often progress is told
EMBEDDED_TASK_ROWS = 1024  # a task reads whole row groups of the catalog: fewer tasks, fewer repeated reads
DECODE_MEMORY_BYTES = 2**30
BLOCK_BYTES = 64 * 2**20  # of pixels; a decode task holds them twice, once as a list
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
    """Ray Data stage: plan rows in, the same rows out with ``data``, ``error_code``, ``error_detail`` and what ``busy`` measures.

    ``data`` is null where ``error_code`` is set; else RGB pixels (fixed-size binary, S*S*3 bytes) if ``task`` is a ``Preprocess``, or image
    bytes for a training shard if it is a short side in px. ``keeps_jpegs``: plain JPEGs stand in column ``encoded`` as they are instead,
    for ``device_rows``, and ``data`` is binary, so that a null takes no room.
    """
    contents = images.contents(rows)
    if keeps_jpegs:
        contents = (content if isinstance(content, ImageFailure) else as_plain_jpeg(content) or content for content in contents)
    encoded: list[bytes | None] = []
    data: list[bytes | None] = []
    failures: list[ImageFailure | None] = []
    sizes, waited, worked = [], [], []
    with decoder_for(task) as decoder:
        for content, result, wait_s, work_s in _decoded(decoder, contents):
            encoded.append(result if isinstance(result, Encoded) else None)
            data.append(None if isinstance(result, ImageFailure | Encoded) else result)
            failures.append(result if isinstance(result, ImageFailure) else None)
            sizes.append(0 if isinstance(content, ImageFailure) else len(content))
            waited.append(wait_s)
            worked.append(work_s)
    count_images("ok" if failure is None else failure.code for failure in failures)
    columns = [
        pa.array(data, pa.binary() if isinstance(task, int) or keeps_jpegs else pixel_type(task)),
        pa.array([f and f.code for f in failures], pa.string()),
        pa.array([f and f.detail for f in failures], pa.string()),
        *(pa.array(values, field.type) for values, field in zip((sizes, waited, worked), busy.FIELDS, strict=False)),
    ]
    names = ["data", "error_code", "error_detail", *(field.name for field in busy.FIELDS[:3])]
    for name, column in zip(names, columns, strict=True):
        rows = rows.append_column(name, column)
    return rows.append_column(ENCODED, pa.array(encoded, pa.binary())) if keeps_jpegs else rows


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
    source = ParquetParts(
        folder,
        parts,
        task_rows=task_rows(total_rows(parts), offer, most, is_embedded=images.image_column is not None),
        block_rows=min(most, block_rows(task)) if isinstance(task, Preprocess) else most,
        row_bytes=task.size**2 * 3 if isinstance(task, Preprocess) else SHARD_ROW_BYTES,
        stage=functools.partial(fetch_and_decode, images=images, task=task, keeps_jpegs=keeps_jpegs),
    )
    options = {"memory": DECODE_MEMORY_BYTES, **offer.decode_placement()} if placement is None else placement
    return ray.data.read_datasource(source, override_num_blocks=source.num_tasks, **options)


def task_rows(num_rows: int, offer: Offer, most: int, *, is_embedded: bool) -> TaskRows:
    """Rows of the next decode task by how many are left: a block, and less and less at the end, so that every core is busy to it; several
    blocks in a huge job. Of embedded images a fixed number, as a task reads a row group up to its own rows."""
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
