"""Rows of a plan that hold sets of images, fetched and decoded: each is whole, or one failed row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.contents import ImageRows
from pix2score.cluster.decode import decoded_blocks
from pix2score.cluster.task_sizes import MAX_ENCODED_ROWS
from pix2score.heads.compared import OTHERS, num_others
from pix2score.host.budget import bounded_runs
from pix2score.images.preprocess import Preprocess
from pix2score.images.repeats import CONTENT_ID

PLACES = ("uri", "file", "row")
"""Columns that say where an image lies."""


def decoded_sets(
    rows: pa.Table, *, images: ImageRows, task: Preprocess | int, gpu_decode: bool = False
) -> Iterator[pa.Table]:
    """``cluster.decode.decoded_blocks`` of rows some of which have ``others``: those become binaries.

    A set of which one image fails has that image's ``error_code``. Its images do not count as repeats of
    others: they are meant to stand in many rows.
    """
    are_sets = pc.is_valid(rows.column(OTHERS))
    for block in decoded_blocks(
        rows.filter(pc.invert(are_sets)).drop_columns([OTHERS]),
        images=images,
        task=task,
        gpu_decode=gpu_decode,
    ):
        yield _with_others(block, pa.nulls(block.num_rows, pa.list_(pa.binary())))
    sets = rows.filter(are_sets)
    for start, stop in bounded_runs(num_others(sets.column(OTHERS)) + 1, MAX_ENCODED_ROWS):
        some = sets.slice(start, stop - start).combine_chunks()
        flat = _flat(some)
        decoded = pa.concat_tables(decoded_blocks(flat, images=images, task=task, gpu_decode=gpu_decode))
        yield _grouped(some, decoded)


def _flat(sets: pa.Table) -> pa.Table:
    """Where every image of the sets lies, set by set, the first image of each first."""
    first = sets.select(PLACES).to_pylist()
    others = sets.column(OTHERS).to_pylist()
    places = [place for i, image in enumerate(first) for place in (image, *others[i])]
    return pa.table(
        {name: pa.array([p[name] for p in places], sets.schema.field(name).type) for name in PLACES}
    )


def _grouped(sets: pa.Table, decoded: pa.Table) -> pa.Table:
    """The rows of ``sets`` with their images, from ``_flat`` decoded."""
    sizes = num_others(sets.column(OTHERS)) + 1
    starts = np.concatenate([[0], sizes.cumsum()])
    codes = decoded.column("error_code").to_pylist()
    data = decoded.column("data").to_pylist()
    taken, others = [], []
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        failed = next((i for i in range(start, stop) if codes[i] is not None), None)
        taken.append(start if failed is None else failed)
        others.append(data[start + 1 : stop] if failed is None else None)
    added: dict[str, Any] = {
        name: decoded.column(name).take(pa.array(taken))
        for name in decoded.column_names
        if name not in PLACES
    }
    added[CONTENT_ID.name] = pa.nulls(len(taken), CONTENT_ID.type)
    block = sets.drop_columns([OTHERS])
    for name, column in added.items():
        block = block.append_column(name, column)
    return _with_others(block, pa.array(others, pa.list_(pa.binary())))


def _with_others(block: pa.Table, others: pa.Array) -> pa.Table:
    return block.append_column(OTHERS, others)
