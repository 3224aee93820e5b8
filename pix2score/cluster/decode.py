"""The Ray Data source that prepare and score share: Parquet parts -> rows -> bytes -> pixels or a failure.

A bad image never raises: it leaves its stage as a row whose ``error_code`` is set.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray

from pix2score.catalog.contents import Content, ImageRows, size_of
from pix2score.cluster import stage_times
from pix2score.cluster.counters import count_images
from pix2score.cluster.offer import Offer
from pix2score.cluster.source import ParquetParts
from pix2score.cluster.task_sizes import (
    BLOCK_BYTES,
    MAX_ACTOR_ROWS,
    MAX_ENCODED_ROWS,
    MAX_TASK_ROWS,
    SHARD_ROW_BYTES,
    block_rows,
    embedded_sizes,
    task_rows,
)
from pix2score.errors import ImageFailure
from pix2score.images.columns import ENCODED, pixel_type
from pix2score.images.decoder import Decoder
from pix2score.images.decoder_pool import decoder_for
from pix2score.images.formats.plain_jpeg import Encoded, as_plain_jpeg
from pix2score.images.preprocess import Preprocess
from pix2score.images.repeats import CONTENT_ID, content_id
from pix2score.images.slots import NUM_SLOTS
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part, total_rows

logger = logging.getLogger(__name__)
DECODE_MEMORY_BYTES = 2**30


def fetch_and_decode(
    rows: pa.Table, *, images: ImageRows, task: Preprocess | int, gpu_decode: bool = False
) -> pa.Table:
    """Ray Data stage: plan rows in, the same rows out with their images or failures.

    Columns ``data``, ``error_code``, ``error_detail``, ``repeats.CONTENT_ID`` and ``stage_times.OF_DECODE``
    are added. ``data`` is null where ``error_code`` is set; else RGB pixels (fixed-size binary, S*S*3 bytes)
    if ``task`` is a ``Preprocess``, or image bytes for a training shard if it is a short side in px.

    ``gpu_decode``: plain JPEGs are in column ``encoded`` as they came instead, for ``score.device_rows``, and
    ``data`` is binary, so that a null takes no room.
    """
    return pa.concat_tables(decoded_blocks(rows, images=images, task=task, gpu_decode=gpu_decode))


def decoded_blocks(
    rows: pa.Table, *, images: ImageRows, task: Preprocess | int, gpu_decode: bool = False
) -> Iterator[pa.Table]:
    """``fetch_and_decode`` in tables of at most ``BLOCK_BYTES``, or of one image.

    Of pixels, whose size is known, all rows in one.
    """
    contents = images.contents(rows)
    if gpu_decode:
        least = task.size if isinstance(task, Preprocess) else task
        contents = (c if isinstance(c, ImageFailure) else as_plain_jpeg(c, least) or c for c in contents)
    is_fixed = not (isinstance(task, int) or gpu_decode)
    block = _Block(pixel_type(task) if isinstance(task, Preprocess) and is_fixed else pa.binary(), gpu_decode)
    start = 0
    with decoder_for(task) as decoder:
        for decoded in _decoded(decoder, contents):
            if block.data and block.num_bytes + size_of(decoded[1]) > BLOCK_BYTES and not is_fixed:
                yield block.beside(rows.slice(start, len(block.data)))
                start, block = start + len(block.data), _Block(block.data_type, gpu_decode)
            block.add(*decoded)
    yield block.beside(rows.slice(start))


@dataclass(slots=True)
class _Block:
    """Columns of the rows that are decoded by now."""

    data_type: pa.DataType
    gpu_decode: bool
    num_bytes: int = 0
    encoded: list[bytes | None] = field(default_factory=list)
    data: list[bytes | None] = field(default_factory=list)
    failures: list[ImageFailure | None] = field(default_factory=list)
    content_ids: list[int | None] = field(default_factory=list)
    measured: dict[str, list[float]] = field(
        default_factory=lambda: {column.name: [] for column in stage_times.OF_DECODE}
    )

    def add(self, content: Content, result: Content, wait_s: float, work_s: float) -> None:
        """One more row."""
        self.encoded.append(result if isinstance(result, Encoded) else None)
        self.data.append(None if isinstance(result, ImageFailure | Encoded) else result)
        self.failures.append(result if isinstance(result, ImageFailure) else None)
        self.content_ids.append(None if isinstance(content, ImageFailure) else content_id(content))
        self.num_bytes += size_of(result)
        self.measured[stage_times.NUM_BYTES.name].append(size_of(content))
        self.measured[stage_times.FETCH_S.name].append(wait_s)
        self.measured[stage_times.DECODE_S.name].append(work_s)

    def beside(self, rows: pa.Table) -> pa.Table:
        """``rows`` with these columns."""
        count_images("ok" if failure is None else failure.code for failure in self.failures)
        columns = {
            "data": pa.array(self.data, self.data_type),
            "error_code": pa.array([f and f.code for f in self.failures], pa.string()),
            "error_detail": pa.array([f and f.detail for f in self.failures], pa.string()),
            CONTENT_ID.name: pa.array(self.content_ids, CONTENT_ID.type),
            **{f.name: pa.array(self.measured[f.name], f.type) for f in stage_times.OF_DECODE},
        }
        if self.gpu_decode:
            columns[ENCODED] = pa.array(self.encoded, pa.binary())
        for name, column in columns.items():
            rows = rows.append_column(name, column)
        return rows


def _decoded(
    decoder: Decoder, contents: Iterator[Content]
) -> Iterator[tuple[Content, Content, float, float]]:
    """Content, what it decodes to, and the seconds waited for each.

    The decoder has as many of the next contents as it takes before it is done with this one.
    """
    waiting: deque[tuple[Content, float]] = deque()
    now = time.monotonic()
    for content in contents:
        fetched = time.monotonic()
        while not _begun(decoder, content, len(waiting)) and waiting:
            yield _finished(decoder, *waiting.popleft())
        waiting.append((content, fetched - now))
        now = time.monotonic()
    for content, wait_s in waiting:
        yield _finished(decoder, content, wait_s)


def _begun(decoder: Decoder, content: Content, num_waiting: int) -> bool:
    """Whether the content may wait with others for its turn; given to the decoder if it needs that."""
    if isinstance(content, ImageFailure | Encoded):
        return num_waiting < NUM_SLOTS
    return decoder.begin(content)


def _finished(decoder: Decoder, content: Content, wait_s: float) -> tuple[Content, Content, float, float]:
    start = time.monotonic()
    try:
        result = content if isinstance(content, ImageFailure | Encoded) else decoder.finish(content)
    except ImageFailure as failure:
        result = failure
    return content, result, wait_s, time.monotonic() - start


def decoded_rows(
    folder: Folder,
    parts: Sequence[Part],
    images: ImageRows,
    task: Preprocess | int,
    offer: Offer,
    placement: Mapping[str, Any] | None = None,
    *,
    gpu_decode: bool = False,
    blocks: Callable[..., Iterator[pa.Table]] = decoded_blocks,
) -> ray.data.Dataset:
    """The head of a pipeline: plan parts, cut to equal slices that CPU tasks read, fetch and decode.

    ``placement``: options of these tasks, instead of ``offer``'s. Equal to those of an actor stage that
    follows, its actors do this too, and the slices are smaller, as the model's work is part of the task.
    ``blocks``: how a slice is decoded.
    """
    most = MAX_TASK_ROWS if placement is None else MAX_ACTOR_ROWS
    most = min(most, MAX_ENCODED_ROWS) if gpu_decode else most
    rows_of = task_rows(total_rows(parts), offer, most, is_embedded=images.image_column is not None)
    source = ParquetParts(
        folder,
        parts,
        task_rows=rows_of,
        sizes=None
        if images.image_column is None or images.members
        else embedded_sizes(folder, parts, images, offer, rows_of(0)),
        block_rows=min(most, block_rows(task)) if isinstance(task, Preprocess) else most,
        row_bytes=task.size**2 * 3 if isinstance(task, Preprocess) else SHARD_ROW_BYTES,
        stage=functools.partial(blocks, images=images, task=task, gpu_decode=gpu_decode),
        name=fetch_and_decode.__name__,
    )
    options = {"memory": DECODE_MEMORY_BYTES, **offer.decode_placement()} if placement is None else placement
    return ray.data.read_datasource(source, override_num_blocks=source.num_tasks, **options)
