"""Shard rows as model input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY
from pix2score.catalog.rows import WEIGHT
from pix2score.errors import DataError, ImageFailure
from pix2score.heads.compared import OTHERS
from pix2score.heads.spec import HeadSpec
from pix2score.images.columns import pixel_type
from pix2score.images.decode import to_rgb
from pix2score.images.preprocess import Preprocess


def decode_shard(
    rows: pa.Table, *, heads: Sequence[HeadSpec], preprocess: Preprocess, keeps_key: bool = False
) -> pa.Table:
    """Ray Data stage: shard rows in, pixels and labels out.

    ``pixels`` (fixed-size binary, S*S*3 bytes), and per head its target and ``<h>_label``, as stored; with a
    head that compares ``others``, a list of such pixels, null in rows of one image; ``weight`` where the
    shards have it. A padding row (no image) comes out black with every label missing: it weighs nothing.
    ``keeps_key``: with the columns of the key.

    Raises ``DataError`` if an image does not decode: prepare has decoded each one, so something else is
    wrong, such as a Pillow without a format, and going on would silently train on less.
    """
    pixels, present = zip(
        *(_pixels(image, preprocess) for image in rows.column("image").to_pylist()), strict=True
    )
    columns: dict[str, Any] = {"pixels": pa.array(pixels, pa.binary(preprocess.size**2 * 3))}
    has_image = pa.array(present)
    for head in heads:
        target, label = head.target_field(), rows.column(f"{head.name}_label")
        columns[target.name] = pc.if_else(has_image, rows.column(target.name), pa.scalar(None, target.type))
        columns[f"{head.name}_label"] = pc.if_else(has_image, label, pa.scalar(None, label.type))
    if WEIGHT in rows.column_names:
        columns[WEIGHT] = rows.column(WEIGHT).fill_null(1)
    if any(head.COMPARES for head in heads):
        columns[OTHERS] = other_pixels(rows, preprocess)
    columns |= {name: rows.column(name) for name in KEY} if keeps_key else {}
    return pa.table(columns)


def decode_unlabelled(rows: pa.Table, *, preprocess: Preprocess, columns: pa.Schema) -> pa.Table:
    """The same of rows whose labels are not to be known: ``columns`` beside the pixels, all null."""
    pixels = decode_shard(rows, heads=(), preprocess=preprocess)
    nulls = {field.name: pa.nulls(len(rows), field.type) for field in columns}
    return pa.table({"pixels": pixels.column("pixels"), **nulls})


def other_pixels(rows: pa.Table, preprocess: Preprocess) -> pa.Array:
    """Pixels of the images beyond the first of each row of a shard: lists of binaries, null without any."""
    found = [
        None if images is None else [_pixels(image, preprocess)[0] for image in images]
        for images in rows.column(OTHERS).to_pylist()
    ]
    return pa.array(found, pa.list_(pixel_type(preprocess)))


def _pixels(image: bytes | None, preprocess: Preprocess) -> tuple[bytes, bool]:
    if image is None:
        return bytes(preprocess.size**2 * 3), False
    try:
        return to_rgb(image, preprocess).tobytes(), True
    except ImageFailure as failure:
        raise DataError(
            f"a prepared image does not decode here though it did when prepared: {failure}"
        ) from None
