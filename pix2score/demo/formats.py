"""The file formats of the demo's pictures, with what is odd about those of real catalogs: soft transparent
corners, 16-bit grey, CMYK, pixels that EXIF turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageDraw

from pix2score.images.encode import encode


def _rounded(picture: Image.Image) -> Image.Image:
    """The picture with soft transparent corners; nothing but black is left under them, so alpha must be
    honoured."""
    width, height = picture.size
    mask = Image.new("L", (2 * width, 2 * height), 0)
    box = (0, 0, 2 * width - 1, 2 * height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=min(width, height) // 3, fill=255)
    alpha = mask.reduce(2)
    cut = Image.composite(
        picture, Image.new("RGB", picture.size), alpha.point(lambda value: 255 if value else 0)
    )
    cut.putalpha(alpha)
    return cut


def _grey16(picture: Image.Image) -> Image.Image:
    """16 bits per pixel, the full range in use: a reader that keeps the low byte sees noise."""
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)


def _exif(orientation: int) -> bytes:
    """An EXIF block that tells viewers how to turn the stored pixels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How Pillow writes one kind of file: ``convert`` takes the RGB picture to the mode and turn that is
    stored."""

    extension: str
    convert: Callable[[Image.Image], Image.Image] = Image.Image.copy
    options: Mapping[str, Any] = field(default_factory=dict)
    grey: bool = False


FORMATS: Mapping[str, FileFormat] = {
    "png_rgb": FileFormat("png"),
    "png_alpha": FileFormat("png", _rounded),
    "png_palette": FileFormat("png", lambda picture: picture.quantize(64)),
    "png_grey": FileFormat("png", lambda picture: picture.convert("L"), grey=True),
    "png_grey16": FileFormat("png", _grey16, grey=True),
    "jpeg": FileFormat("jpg", options={"quality": 90}),
    "jpeg_progressive": FileFormat("jpg", options={"quality": 90, "progressive": True}),
    "jpeg_cmyk": FileFormat("jpg", lambda picture: picture.convert("CMYK"), {"quality": 92}),
    "jpeg_orientation_6": FileFormat(
        "jpg", lambda picture: picture.rotate(90, expand=True), {"exif": _exif(6)}
    ),
    "jpeg_orientation_8": FileFormat(
        "jpg", lambda picture: picture.rotate(-90, expand=True), {"exif": _exif(8)}
    ),
    "webp": FileFormat("webp", options={"quality": 88}),
    "gif_animated": FileFormat("gif", lambda picture: picture.quantize(128), {"duration": 250, "loop": 0}),
}


def encode_as(picture: Image.Image, name: str) -> bytes:
    """The bytes of an RGB picture as the named one of ``FORMATS``; the same bytes each time on the same
    Pillow."""
    kind = FORMATS[name]
    options = dict(kind.options)
    if kind.extension == "gif":  # the subject nods; the first frame is the picture
        options |= {
            "save_all": True,
            "append_images": [kind.convert(picture.rotate(turn)) for turn in (4, 0, -4)],
        }
    return encode(kind.convert(picture), Image.registered_extensions()["." + kind.extension], **options)
