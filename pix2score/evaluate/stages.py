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
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pix2score.catalog.keys import Key
from pix2score.dataset.rows import decode_shard, other_pixels
from pix2score.errors import DataError, ImageFailure
from pix2score.heads.compared import OTHERS, by_row, num_others
from pix2score.heads.spec import HeadSpec
from pix2score.images.columns import pixel_type, pixels_of
from pix2score.images.decode import open_upright, picture_to_rgb, to_rgb
from pix2score.images.encode import encode
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.ridge import SIDE, Floats, answers, features
from pix2score.model.predictor import Predictor, load_predictor
from pix2score.storage.arrow import fixed_lists, lists_of

if TYPE_CHECKING:
    from pix2score.evaluate.adversarial import Adversary

logger = logging.getLogger(__name__)

THUMBNAIL_PX = 160
GAP_PX = 4
"""Between the images of a set."""
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

    Columns out: key, ``group`` (int64), targets, labels, ``pixels_<i>`` per preprocess and ``ridge_<head>``;
    with a head that compares ``others_<i>``, the pixels of the other images of rows that hold a set.

    And, null outside the sample, ``thumbnail`` (JPEG) and ``altered_<name>`` (pixels by the first
    preprocess).
    """
    first, *others = [decode_shard(rows, heads=heads, preprocess=preprocess) for preprocess in preprocesses]
    keys = _keys(rows)
    groups = zip(rows.column("group").to_pylist(), keys, strict=True)
    columns = {name: rows.column(name) for name in ("illust_id", "page")}
    columns["group"] = pa.array([group_number(group, key) for group, key in groups], pa.int64())
    columns |= {name: first.column(name) for name in first.column_names if name not in ("pixels", OTHERS)}
    columns |= {f"pixels_{i}": table.column("pixels") for i, table in enumerate((first, *others))}
    if OTHERS in first.column_names:
        columns |= {f"others_{i}": table.column(OTHERS) for i, table in enumerate((first, *others))}
    columns |= _ridge_answers(rows, heads, ridges)
    images = rows.column("image").to_pylist()
    others_of = rows.column(OTHERS).to_pylist() if OTHERS in first.column_names else [None] * len(images)
    return pa.table(columns | _extras(images, others_of, keys, preprocesses[0], sample))


def _keys(rows: pa.Table) -> list[Key]:
    return list(zip(rows.column("illust_id").to_pylist(), rows.column("page").to_pylist(), strict=True))


def _ridge_answers(
    rows: pa.Table, heads: Sequence[HeadSpec], ridges: Mapping[str, Floats]
) -> dict[str, pa.Array]:
    if not ridges:
        return {}
    pixels = decode_shard(rows, heads=(), preprocess=RIDGE_PREPROCESS).column("pixels")
    small = features(pixels_of(pixels, RIDGE_PREPROCESS))
    found = {name: answers(weights, small) for name, weights in ridges.items()}
    for head in heads:
        if head.COMPARES and head.name in ridges:
            others, counts = _other_features(rows)
            of_others = answers(ridges[head.name], others)[:, 0]
            found[head.name] = by_row(found[head.name][:, 0], of_others, counts)
    return {f"ridge_{name}": fixed_lists(guess.astype(np.float32)) for name, guess in found.items()}


def _other_features(rows: pa.Table) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Simple features of the images of a shard's rows beyond the first, and how many each row has."""
    flat = pa.chunked_array([other_pixels(rows, RIDGE_PREPROCESS).flatten()])
    return features(pixels_of(flat, RIDGE_PREPROCESS)), num_others(rows.column(OTHERS))


def _extras(
    images: Sequence[bytes],
    others: Sequence[Sequence[bytes] | None],
    keys: Sequence[Key],
    preprocess: Preprocess,
    sample: Sample,
) -> dict[str, pa.Array]:
    drawn = [draw_of(key) for key in keys]
    thumbnails = [
        thumbnail(image, *(more or ())) if u < sample.shown else None
        for image, more, u in zip(images, others, drawn, strict=True)
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


def thumbnail(*images: bytes, side: int = THUMBNAIL_PX) -> bytes:
    """A JPEG of some kilobytes, images side by side, their longer sides at most ``side`` px.

    Raises ``ImageFailure``.
    """
    pictures = [open_upright(image) for image in images]
    for picture in pictures:
        picture.thumbnail((side, side))
    if len(pictures) == 1:
        return encode(pictures[0], quality=80)
    size = (sum(p.width + GAP_PX for p in pictures) - GAP_PX, max(p.height for p in pictures))
    strip = Image.new("RGB", size, "white")
    for place, picture in enumerate(pictures):
        strip.paste(picture, (sum(p.width + GAP_PX for p in pictures[:place]), 0))
    return encode(strip, quality=80)


def ridge_rows(rows: pa.Table, *, heads: Sequence[HeadSpec]) -> pa.Table:
    """Ray Data stage: shard rows in; ``features`` (fixed list float32) and targets out.

    With a head that compares ``others``: lists of the features of the other images of a row.
    """
    decoded = decode_shard(rows, heads=heads, preprocess=RIDGE_PREPROCESS)
    small = features(pixels_of(decoded.column("pixels"), RIDGE_PREPROCESS)).astype(np.float32)
    columns: dict[str, Any] = {n: decoded.column(n) for n in (head.target_field().name for head in heads)}
    if OTHERS in decoded.column_names:
        others, counts = _other_features(rows)
        columns[OTHERS] = lists_of(others.astype(np.float32), counts)
    return pa.table({"features": fixed_lists(small), **columns})


def _said_of_sets(
    predictor: Predictor, head: HeadSpec, said_N1: npt.NDArray[np.float32], others: pa.ChunkedArray
) -> npt.NDArray[np.float32]:
    """What a head says of the images of each row side by side, [N, MAX_IMAGES]; NaN where there is none."""
    flat = pa.chunked_array([others.combine_chunks().flatten()])
    prediction = predictor.predict(pixels_of(flat, predictor.card.preprocess))
    of_others = head.measured(prediction.heads[head.name])[:, 0]
    return by_row(said_N1[:, 0], of_others, num_others(others)).astype(np.float32)


class AnswerRows:
    """Ray Data stage: rows of ``decode_for_evaluation`` in, the models' answers out.

    Instead of the pixels, rows have ``<h>_outputs_<i>`` of each model, calibrated (``HeadSpec.measured``); of
    a head that compares those of all images of the row, MAX_IMAGES of them.

    Where ``altered_<name>`` is not null, ``<h>_altered_<name>`` has the first model's of that copy. For a
    share ``explained`` of the rows, ``<h>_saliency`` is a JPEG that shows where the first model looks; of a
    share ``adversarial``, ``<h>_adversarial`` is whether it can be led to another answer.
    """

    def __init__(
        self,
        models: Sequence[str],
        pixels: Sequence[int],
        *,
        explained: float = 0.0,
        adversarial: float = 0.0,
        graphs: Sequence[bytes | None] = (),
        **settings: Any,
    ) -> None:
        self._explained, self._attacked = explained, adversarial
        self._kept: Adversary | None = None
        of_models = zip(models, graphs or [None] * len(models), strict=True)
        self._predictors = [load_predictor(model, graph=graph, **settings) for model, graph in of_models]
        self._pixels = pixels

    def __call__(self, rows: pa.Table) -> pa.Table:
        columns = {
            name: rows.column(name)
            for name in rows.column_names
            if not name.startswith(("pixels_", "altered_", "others_"))
        }
        for i, (predictor, pixels) in enumerate(zip(self._predictors, self._pixels, strict=True)):
            prediction = predictor.predict(
                pixels_of(rows.column(f"pixels_{pixels}"), predictor.card.preprocess)
            )
            for head in predictor.card.heads:  # the metrics then see exactly what scoring answers
                said = head.measured(prediction.heads[head.name])
                if head.COMPARES and f"others_{pixels}" in rows.column_names:
                    said = _said_of_sets(predictor, head, said, rows.column(f"others_{pixels}"))
                columns[f"{head.name}_outputs_{i}"] = fixed_lists(said)
        for name in (*ALTERATIONS, ORIGINAL):
            columns |= self._altered(name, rows.column(f"altered_{name}"))
        return pa.table(columns | self._saliency(rows) | self._led(rows))

    def _led(self, rows: pa.Table) -> dict[str, pa.Array]:
        if not self._attacked:
            return {}
        names = [head.name for head in self._predictors[0].card.heads]
        columns: dict[str, list[bool | None]] = {name: [None] * rows.num_rows for name in names}
        chosen = [i for i, key in enumerate(_keys(rows)) if draw_of(key) < self._attacked]
        if chosen:
            of_pixels = rows.column(f"pixels_{self._pixels[0]}").take(chosen)
            pixels = pixels_of(of_pixels, self._predictors[0].card.preprocess)
            for name, changed in self._adversary().changed(pixels).items():
                for i, is_changed in zip(chosen, changed.tolist(), strict=False):  # fewer where time was over
                    columns[name][i] = is_changed
        return {f"{name}_adversarial": pa.array(found, pa.bool_()) for name, found in columns.items()}

    def _adversary(self) -> Adversary:
        if self._kept is None:
            from pix2score.evaluate.adversarial import Adversary  # imports torch

            self._kept = Adversary(self._predictors[0])
        return self._kept

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
