"""JPEGs that need nothing but decoding, known by their header: a GPU's decoder may take them. All else is for
``images.decode.to_rgb``."""

from __future__ import annotations

import io

from PIL import Image

from pix2score.images.decode import orientation
from pix2score.images.formats.jpeg import SCAN, segments, unusual_frame

MAX_PLAIN_PIXELS, MAX_PLAIN_BYTES = 25_000_000, 8 * 2**20
"""Larger ones are decoded at a fraction of their size on a CPU, and would fill a GPU's memory and the way to
it."""
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_TAIL = 64  # bytes after the last marker that cameras and editors leave


class Encoded(bytes):
    """Bytes of a plain JPEG, to be decoded later."""


def as_plain_jpeg(data: bytes, least_side: int = 1) -> Encoded | None:
    """``data`` if it is a whole, upright JPEG of 8-bit grey or YCbCr within limits, else None. Never raises.

    ``least_side``: that of the model's input. A picture with a smaller one is enlarged, which shows that
    nvJPEG repeats colours where other decoders interpolate them: 2.3 of 255 apart at 100 px, 3.9 at 20 px.
    """
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
    if unusual_frame(data[: image.fp.tell()]) or not _may_hold(data, image.size):  # type: ignore[union-attr]
        return None
    if min(image.size) < least_side:
        return None
    return Encoded(data) if orientation(image) == 1 else None


def _may_hold(data: bytes, size: tuple[int, int]) -> bool:
    """Whether a scan begins and has a bit for each block of 8 x 8 pixels, which is the least.

    nvJPEG crashes where no scan begins, and gives grey where it is empty.
    """
    scan = next((segment.end for segment in segments(data) if segment.marker == SCAN), len(data))
    columns, rows = (-(-side // 8) for side in size)
    return 8 * (len(data) - scan) >= columns * rows
