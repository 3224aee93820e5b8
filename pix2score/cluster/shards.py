"""A prepared split as decoded rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import ray

from pix2score.cluster.offer import Offer
from pix2score.cluster.source import ParquetParts
from pix2score.cluster.task_sizes import MAX_TASK_ROWS, block_rows
from pix2score.dataset.card import PreparedDataset
from pix2score.dataset.rows import decode_shard
from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess

# enough tasks for the cores of some GPUs; fewer shards are cut, though a row group may then be read twice
MANY_SHARDS = 64
SHARD_TASK_ROWS = 512


def shard_rows(
    dataset: PreparedDataset,
    split: str,
    heads: Sequence[HeadSpec],
    preprocess: Preprocess,
    offer: Offer,
    *,
    pad_rows: int = 0,
) -> ray.data.Dataset:
    """A prepared split as pixels and labels, read and decoded by CPU tasks.

    As ``dataset.rows.decode_shard`` gives them; ``pad_rows`` empty rows at the end. What is a task and what a
    block depends on the dataset alone, so that the order of rows does.
    """
    parts, images_per_row = dataset.parts(split), math.ceil(dataset.images_per_row(split))
    source = ParquetParts(
        dataset.folder,
        parts,
        row_bytes=preprocess.size**2 * 3 * images_per_row,
        pad_rows=pad_rows,
        task_rows=None if len(parts) >= MANY_SHARDS else lambda left: SHARD_TASK_ROWS,
        block_rows=max(1, min(MAX_TASK_ROWS, block_rows(preprocess)) // images_per_row),
        stage=functools.partial(decode_shard, heads=tuple(heads), preprocess=preprocess),
    )
    return ray.data.read_datasource(source, override_num_blocks=source.num_tasks, **offer.decode_placement())
