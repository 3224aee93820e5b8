"""JPEGs that need nothing but decoding, told by their header: a GPU's decoder may take them. All else is for
``images.to_rgb``."""

from __future__ import annotations

import io

from PIL import Image

from pix2score.images.decode import orientation
from pix2score.images.formats.jpeg import unusual_frame

MAX_PLAIN_PIXELS, MAX_PLAIN_BYTES = 25_000_000, 8 * 2**20
"""Larger ones are decoded at a fraction of their size on a CPU, and would fill a GPU's memory and the way to
it."""
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_TAIL = 64  # bytes after the last marker that cameras and editors leave


class Encoded(bytes):
    """Bytes of a plain JPEG, to be decoded later."""


def as_plain_jpeg(data: bytes) -> Encoded | None:
    """``data`` if it is a JPEG of 8-bit grey or YCbCr, upright, whole to its end marker and within limits;
    None if not. Never raises."""
    if not data.startswith(_START) or _END not in data[-_TAIL:] or len(data) > MAX_PLAIN_BYTES:
        return None
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
    except Exception:  # headers of strangers; the decoder says what is wrong
        return None
    is_coded_rgb = image.info.get("adobe_transform") == 0
    if (
        image.format != "JPEG"
        or image.mode not in ("L", "RGB")
        or is_coded_rgb
        or image.width * image.height > MAX_PLAIN_PIXELS
    ):
        return None
    if unusual_frame(data[: image.fp.tell()]):  # type: ignore[union-attr]
        return None
    return Encoded(data) if orientation(image) == 1 else None
