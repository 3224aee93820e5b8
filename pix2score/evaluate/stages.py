"""The stages of evaluation in workers: shard rows into pixels and altered copies, those into answers.

A sample of the rows, chosen by a hash of the key, carries a thumbnail and copies of the image as the world
alters it.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pix2score.catalog.keys import Key
from pix2score.dataset.rows import decode_shard
from pix2score.errors import DataError, ImageFailure
from pix2score.heads.spec import HeadSpec
from pix2score.images.columns import pixel_type, pixels_of
from pix2score.images.decode import open_upright, picture_to_rgb, to_rgb
from pix2score.images.encode import encode
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.ridge import SIDE, Floats, answers, features
from pix2score.model.predictor import load_predictor
from pix2score.storage.arrow import fixed_lists

logger = logging.getLogger(__name__)

THUMBNAIL_PX = 160
RIDGE_PREPROCESS = Preprocess(size=SIDE)
CROP = 0.05
ORIGINAL = "original"


def _jpeg(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encode(image, quality=75)))


def _crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    box = (
        int(left * image.width),
        int(top * image.height),
        round((1 - right) * image.width),
        round((1 - bottom) * image.height),
    )
    return image.crop(box)


def _smaller(image: Image.Image) -> Image.Image:
    size = (max(1, image.width * 3 // 4), max(1, image.height * 3 // 4))
    return image.resize(size, Image.Resampling.LANCZOS)


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg_75": _jpeg,
    "crop_top_left_5": lambda image: _crop(image, CROP, CROP, 0, 0),
    "crop_bottom_right_5": lambda image: _crop(image, 0, 0, CROP, CROP),
    "resize_75": _smaller,
}
"""What happens to pictures on their way through the web; a model's answer should hardly move."""


def draw_of(key: Key) -> float:
    """A number in [0, 1) that depends on the key alone.

    The sample of a share are the rows whose number is below it.
    """
    return (
        int.from_bytes(hashlib.blake2b(f"{key[0]}/{key[1]}".encode(), digest_size=8).digest(), "big") / 2**64
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Which rows carry more than pixels: thumbnails below ``shown``, altered copies below ``altered``."""

    shown: float = 0.0
    altered: float = 0.0
    originals: Mapping[Key, bytes] = field(default_factory=dict)


def group_number(group: str | None, key: Key) -> int:
    """int64 that tells groups apart."""
    text = f"{key[0]}" if group is None else f"group:{group}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def decode_for_evaluation(
    rows: pa.Table,
    *,
    heads: Sequence[HeadSpec],
    preprocesses: Sequence[Preprocess],
    ridges: Mapping[str, Floats],
    sample: Sample,
) -> pa.Table:
    """Ray Data stage: shard rows in, pixels and altered copies out.

    Columns out: key, ``group`` (int64), targets, labels, ``pixels_<i>`` per preprocess and ``ridge_<head>``.

    And, null outside the sample, ``thumbnail`` (JPEG) and ``altered_<name>`` (pixels by the first
    preprocess).
    """
    first, *others = [decode_shard(rows, heads=heads, preprocess=preprocess) for preprocess in preprocesses]
    keys = _keys(rows)
    groups = zip(rows.column("group").to_pylist(), keys, strict=True)
    columns = {name: rows.column(name) for name in ("illust_id", "page")}
    columns["group"] = pa.array([group_number(group, key) for group, key in groups], pa.int64())
    columns |= {name: first.column(name) for name in first.column_names if name != "pixels"}
    columns |= {f"pixels_{i}": table.column("pixels") for i, table in enumerate((first, *others))}
    columns |= _ridge_answers(rows, ridges)
    return pa.table(columns | _extras(rows.column("image").to_pylist(), keys, preprocesses[0], sample))


def _keys(rows: pa.Table) -> list[Key]:
    return list(zip(rows.column("illust_id").to_pylist(), rows.column("page").to_pylist(), strict=True))


def _ridge_answers(rows: pa.Table, ridges: Mapping[str, Floats]) -> dict[str, pa.Array]:
    if not ridges:
        return {}
    pixels = decode_shard(rows, heads=(), preprocess=RIDGE_PREPROCESS).column("pixels")
    small = features(pixels_of(pixels, RIDGE_PREPROCESS))
    return {
        f"ridge_{name}": fixed_lists(answers(weights, small).astype(np.float32))
        for name, weights in ridges.items()
    }


def _extras(
    images: Sequence[bytes], keys: Sequence[Key], preprocess: Preprocess, sample: Sample
) -> dict[str, pa.Array]:
    drawn = [draw_of(key) for key in keys]
    thumbnails = [
        thumbnail(image) if u < sample.shown else None for image, u in zip(images, drawn, strict=True)
    ]
    found: dict[str, list[bytes | None]] = {name: [None] * len(keys) for name in (*ALTERATIONS, ORIGINAL)}
    for row, (image, key) in enumerate(zip(images, keys, strict=True)):
        if drawn[row] < sample.altered:
            upright = open_upright(image)
            for name, alter in ALTERATIONS.items():
                found[name][row] = picture_to_rgb(alter(upright), preprocess).tobytes()
            found[ORIGINAL][row] = _pixels_or_none(sample.originals.get(key), preprocess)
    altered = {f"altered_{name}": pa.array(values, pixel_type(preprocess)) for name, values in found.items()}
    return {"thumbnail": pa.array(thumbnails, pa.binary()), **altered}


def _pixels_or_none(image: bytes | None, preprocess: Preprocess) -> bytes | None:
    try:
        return None if image is None else to_rgb(image, preprocess).tobytes()
    except ImageFailure:  # today's original need not be what was prepared
        return None


def thumbnail(image: bytes, side: int = THUMBNAIL_PX) -> bytes:
    """A JPEG of some kilobytes, the longer side at most ``side`` px. Raises ``ImageFailure``."""
    picture = open_upright(image)
    picture.thumbnail((side, side))
    return encode(picture, quality=80)


def ridge_rows(rows: pa.Table, *, heads: Sequence[HeadSpec]) -> pa.Table:
    """Ray Data stage: shard rows in; ``features`` (fixed list float32) and targets out."""
    decoded = decode_shard(rows, heads=heads, preprocess=RIDGE_PREPROCESS)
    small = features(pixels_of(decoded.column("pixels"), RIDGE_PREPROCESS)).astype(np.float32)
    columns = {name: decoded.column(name) for name in (head.target_field().name for head in heads)}
    return pa.table({"features": fixed_lists(small), **columns})


class AnswerRows:
    """Ray Data stage: rows of ``decode_for_evaluation`` in, the models' answers out.

    Instead of the pixels, rows have ``<h>_outputs_<i>`` of each model, calibrated (``HeadSpec.measured``).

    Where ``altered_<name>`` is not null, ``<h>_altered_<name>`` has the first model's of that copy. For a
    share ``explained`` of the rows, ``<h>_saliency`` is a JPEG that shows where the first model looks.
    """

    def __init__(
        self,
        models: Sequence[str],
        pixels: Sequence[int],
        *,
        explained: float = 0.0,
        graphs: Sequence[bytes | None] = (),
        **settings: Any,
    ) -> None:
        self._explained = explained
        of_models = zip(models, graphs or [None] * len(models), strict=True)
        self._predictors = [load_predictor(model, graph=graph, **settings) for model, graph in of_models]
        self._pixels = pixels

    def __call__(self, rows: pa.Table) -> pa.Table:
        columns = {
            name: rows.column(name)
            for name in rows.column_names
            if not name.startswith(("pixels_", "altered_"))
        }
        for i, (predictor, pixels) in enumerate(zip(self._predictors, self._pixels, strict=True)):
            prediction = predictor.predict(
                pixels_of(rows.column(f"pixels_{pixels}"), predictor.card.preprocess)
            )
            for head in predictor.card.heads:  # the metrics then see exactly what scoring answers
                answer = prediction.heads[head.name]
                columns[f"{head.name}_outputs_{i}"] = fixed_lists(head.measured(answer))
        for name in (*ALTERATIONS, ORIGINAL):
            columns |= self._altered(name, rows.column(f"altered_{name}"))
        return pa.table(columns | self._saliency(rows))

    def _saliency(self, rows: pa.Table) -> dict[str, pa.Array]:
        chosen = [i for i, key in enumerate(_keys(rows)) if draw_of(key) < self._explained]
        found, predictor = {}, self._predictors[0]
        for head in predictor.card.heads:
            shown: list[bytes | None] = [None] * rows.num_rows
            if chosen:
                from pix2score.evaluate.saliency import overlay, saliency  # imports torch

                pixels = pixels_of(
                    rows.column(f"pixels_{self._pixels[0]}").take(chosen), predictor.card.preprocess
                )
                try:
                    maps = saliency(predictor, head, pixels)
                except DataError as exc:  # the numbers are what was asked for
                    logger.warning("%s", exc)
                    chosen, maps = [], np.zeros((0, 0, 0), np.float32)
                for i, image, map_SS in zip(chosen, pixels[: len(chosen)], maps, strict=True):
                    shown[i] = overlay(image, map_SS)
            found[f"{head.name}_saliency"] = pa.array(shown, pa.binary())
        return found

    def _altered(self, name: str, copies: pa.ChunkedArray) -> dict[str, pa.Array]:
        predictor = self._predictors[0]
        present = np.flatnonzero(pc.is_valid(copies).to_numpy())
        take = np.full(len(copies), -1, dtype=np.int64)
        take[present] = np.arange(len(present))
        prediction = predictor.predict(pixels_of(copies.drop_null(), predictor.card.preprocess))
        indices = pa.array(take, mask=take < 0)
        return {
            f"{head.name}_altered_{name}": fixed_lists(head.measured(prediction.heads[head.name])).take(
                indices
            )
            for head in predictor.card.heads
        }
