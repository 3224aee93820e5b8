"""HEIC and other HEIF pictures, by the plugin pillow-heif (extra ``heic``).

libheif itself turns, mirrors and crops a picture as its boxes say; the EXIF orientation beside them is a note
of the camera (ISO/IEC 23008-12, 6.5.10 and A.2.3) and not applied again. The primary picture is the one that
counts; its depths of 10 and 12 bits become 8. No thumbnail ever stands for it.
"""

from __future__ import annotations

import io

from PIL import Image

from pix2score.errors import ImageErrorCode, ImageFailure
from pix2score.images.formats.signatures import is_cut, is_heif

try:
    import pillow_heif
    from pillow_heif.as_plugin import HeifImageFile

    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    FORMATS: tuple[str, ...] = ("HEIF",)
except ImportError:
    FORMATS = ()
"""Pillow's name of the format, if it is read here."""
_MEMORY = ("memory allocation error", "security limit")
_NO_CODEC = "not been built in"
_CUT = "unexpected end of file"


def opened(data: bytes) -> Image.Image | None:
    """The picture, its header read; None if the bytes are no HEIF or none is read here.

    Raises ``ImageFailure`` for a header that libheif refuses: Pillow would not tell why.
    """
    if not FORMATS or not is_heif(data):
        return None
    try:
        image: Image.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    except SyntaxError as exc:
        raise ImageFailure(code_of(exc, data), f"HEIF: {exc}") from None
    return image


def code_of(exc: Exception, data: bytes) -> ImageErrorCode:
    """The code for what libheif said."""
    text = str(exc).lower()
    if any(words in text for words in _MEMORY):
        return "TOO_LARGE"
    if text.startswith("unsupported") or _NO_CODEC in text:
        return "UNSUPPORTED"
    return "TRUNCATED" if _CUT in text or is_cut(data) else "CORRUPT"
