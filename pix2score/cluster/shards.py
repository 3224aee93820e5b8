"""A prepared split as decoded rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import pyarrow as pa
import ray

from pix2score.catalog.keys import KEY
from pix2score.catalog.rows import WEIGHT
from pix2score.cluster.offer import Offer
from pix2score.cluster.source import Interleaved, ParquetParts, Stage
from pix2score.cluster.task_sizes import MAX_TASK_ROWS, block_rows
from pix2score.dataset.card import PreparedDataset
from pix2score.dataset.rows import decode_shard, decode_unlabelled
from pix2score.heads.compared import OTHERS
from pix2score.heads.spec import HeadSpec
from pix2score.images.columns import pixel_type
from pix2score.images.preprocess import Preprocess
from pix2score.storage.parquet import open_parquet

# enough tasks for the cores of some GPUs; fewer shards are cut, though a row group may then be read twice
MANY_SHARDS = 64
SHARD_TASK_ROWS = 512
MIXED_TASK_ROWS = 128  # of rows that others come between: what a worker shuffles holds many tasks


def shard_rows(
    dataset: PreparedDataset,
    split: str,
    heads: Sequence[HeadSpec],
    preprocess: Preprocess,
    offer: Offer,
    *,
    pad_rows: int = 0,
    keeps_key: bool = False,
    mixed_in: PreparedDataset | None = None,
) -> ray.data.Dataset:
    """A prepared split as pixels and labels, read and decoded by CPU tasks.

    As ``dataset.rows.decode_shard`` gives them, which knows ``keeps_key``; ``pad_rows`` empty rows at the
    end. ``mixed_in``: a dataset whose rows of the split come between them, without labels. What is a task and
    what a block depends on the datasets alone, so that the order of rows does.
    """
    decode = functools.partial(decode_shard, heads=tuple(heads), preprocess=preprocess, keeps_key=keeps_key)
    source: ParquetParts | Interleaved
    if mixed_in is None:
        source = _parts(dataset, split, preprocess, decode, pad_rows)
    else:
        columns = _label_columns(dataset, split, heads, preprocess, keeps_key=keeps_key)
        without = functools.partial(decode_unlabelled, preprocess=preprocess, columns=columns)
        source = Interleaved(
            [
                _parts(dataset, split, preprocess, decode, pad_rows, MIXED_TASK_ROWS),
                _parts(mixed_in, split, preprocess, without, 0, MIXED_TASK_ROWS),
            ]
        )
    return ray.data.read_datasource(source, override_num_blocks=source.num_tasks, **offer.decode_placement())


def _parts(
    dataset: PreparedDataset,
    split: str,
    preprocess: Preprocess,
    stage: Stage,
    pad_rows: int,
    most_rows: int | None = None,
) -> ParquetParts:
    """``most_rows`` of a task, where more would do."""
    parts, images_per_row = dataset.parts(split), math.ceil(dataset.images_per_row(split))
    task_rows = most_rows or (None if len(parts) >= MANY_SHARDS else SHARD_TASK_ROWS)
    return ParquetParts(
        dataset.folder,
        parts,
        row_bytes=preprocess.size**2 * 3 * images_per_row,
        pad_rows=pad_rows,
        task_rows=(lambda left: task_rows) if task_rows else None,
        block_rows=max(1, min(MAX_TASK_ROWS, block_rows(preprocess)) // images_per_row),
        stage=stage,
    )


def _label_columns(
    dataset: PreparedDataset,
    split: str,
    heads: Sequence[HeadSpec],
    preprocess: Preprocess,
    *,
    keeps_key: bool,
) -> pa.Schema:
    """Columns that ``decode_shard`` puts beside the pixels, in its order."""
    with open_parquet(dataset.folder, dataset.parts(split)[0].path) as file:
        stored = file.schema_arrow
    names = [name for head in heads for name in (head.target_field().name, f"{head.name}_label")]
    fields = [pa.field(name, stored.field(name).type) for name in names]
    if WEIGHT in stored.names:
        fields.append(stored.field(WEIGHT))
    if any(head.COMPARES for head in heads):
        fields.append(pa.field(OTHERS, pa.list_(pixel_type(preprocess))))
    fields += [pa.field(name, stored.field(name).type) for name in (KEY if keeps_key else ())]
    return pa.schema(fields)
