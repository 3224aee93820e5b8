"""Pixels that a file lacks and its decoder made up without a word.

libjpeg fills what is missing before an end mark with grey, Pillow leaves what no row of a PNG came for as it
was. Whether a picture ends so is seen in its last pixel; only then the file is asked, which costs more than
decoding it.
"""

from __future__ import annotations

from PIL import Image

from pix2score.errors import ImageFailure
from pix2score.images.formats import jpeg, png

_GREYS = {127, 128}
"""Of blocks without any bits: 128, of inks 127."""
_RARE = {"1": 1, "L": 1, "P": 255, "LA": (1, 254), "RGB": (1, 254, 3), "RGBA": (1, 254, 3, 253), "I;16": 510}
"""By mode: a pixel that hardly any picture ends with."""


def mark(image: Image.Image) -> None:
    """Let each pixel of a PNG that is not decoded yet be a rare one, for ``check``."""
    if image.format == "PNG" and image.mode in _RARE:
        image.im = Image.core.fill(image.mode, image.size, _RARE[image.mode])  # type: ignore[attr-defined]


def check(image: Image.Image, data: bytes) -> None:
    """Raise ``ImageFailure`` TRUNCATED if the decoded ``image`` has pixels that ``data``, all of the file,
    does not hold."""
    if image.format in ("JPEG", "MPO"):
        if "progressive" in image.info and not jpeg.has_all_scans(data):
            raise ImageFailure("TRUNCATED", "JPEG: its last scans are missing")
        found = image.getpixel((image.width - 1, image.height - 1))
        if _GREYS.issuperset(found if isinstance(found, tuple) else (found,)) and jpeg.lacks_pixels(data):
            raise ImageFailure("TRUNCATED", "JPEG: its end mark comes before its last pixels")
    elif image.format == "PNG" and _is_rare(image) and (lacking := png.num_missing(data)):
        raise ImageFailure("TRUNCATED", f"PNG: {lacking} bytes of unpacked pixels are missing")


def _is_rare(image: Image.Image) -> bool:
    """Whether the pixel that comes last in a PNG is as ``mark`` left it: of an interlaced one that of the
    last row with an odd number, of a single row that of the last odd column."""
    column, row = image.width - 1, image.height - 1
    if image.info.get("interlace") and row:
        row -= 1 - row % 2
    elif image.info.get("interlace") and column:
        column -= 1 - column % 2
    return image.getpixel((column, row)) == _RARE.get(image.mode)
