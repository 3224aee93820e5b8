"""What a sample of the rows carries: a thumbnail, and copies of the image as the world alters it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import pyarrow as pa
from PIL import Image

from pix2score.catalog.keys import Key
from pix2score.errors import ImageFailure
from pix2score.evaluate.sample import Sample, draw_of
from pix2score.images.columns import pixel_type
from pix2score.images.decode import open_upright, picture_to_rgb, to_rgb
from pix2score.images.encode import encode
from pix2score.images.preprocess import Preprocess

THUMBNAIL_PX = 160
GAP_PX = 4
"""Between the images of a set."""
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


def sample_columns(
    images: Sequence[bytes],
    others: Sequence[Sequence[bytes] | None],
    keys: Sequence[Key],
    preprocess: Preprocess,
    sample: Sample,
) -> dict[str, pa.Array]:
    """``thumbnail`` (JPEG) and ``altered_<name>`` (pixels) of rows of a shard; null outside the sample.

    ``others``: the other images of a row that holds a set.
    """
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
