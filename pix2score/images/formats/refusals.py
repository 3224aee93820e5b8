"""Code and words for bytes that no decoder takes, and the formats that this build decodes."""

from __future__ import annotations

from PIL import AvifImagePlugin

from pix2score.errors import ImageErrorCode, ImageFailure
from pix2score.images.formats import heif, jpeg, jxl, png, tiff
from pix2score.images.formats.signatures import inside, is_avif, is_cut, is_heif, is_webp, name_of

PLAIN: tuple[str, ...] = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    *(("AVIF",) if AvifImagePlugin.SUPPORTED else ()),
)
"""Formats that Pillow itself opens here."""
FORMATS: tuple[str, ...] = (*PLAIN, *heif.FORMATS, *jxl.FORMATS)
DECODED = "decoded are "
"""In the detail of bytes of no decoded format: the formats that were decoded come behind it."""
_SIGNATURES = (jpeg.START, png.SIGNATURE, b"GIF8", b"BM", b"II*\x00", b"MM\x00*")


def unidentified(data: bytes) -> ImageFailure:
    """The failure of bytes that Pillow knows none of ``FORMATS`` in."""
    decoded = DECODED + ", ".join(FORMATS)
    if data.startswith(_SIGNATURES) or is_webp(data) or (is_avif(data) and "AVIF" in FORMATS):
        reason = _refusal(data)
        if reason:
            return ImageFailure("UNSUPPORTED", reason)
        return ImageFailure(
            "TRUNCATED" if len(data) < 64 or is_cut(data) else "CORRUPT",
            f"header unreadable in {len(data)} bytes",
        )
    if name := name_of(data):
        return ImageFailure("UNSUPPORTED", f"{name}; {decoded}")
    if late := inside(data):
        return ImageFailure(
            "CORRUPT",
            f"a {late[0]} with {late[1]} byte{'s' * (late[1] > 1)} before its start, which no viewer shows: "
            f"{data[:8]!r}",
        )
    return ImageFailure("UNSUPPORTED", f"of no known format, begins with {data[:8]!r}; {decoded}")


def _refusal(data: bytes) -> str:
    """Why an image of a decoded format is of a kind that is not decoded; empty if it is not known to be."""
    if data.startswith(jpeg.START):
        return jpeg.refusal(data)
    return tiff.refusal(data) if data[:4] in (b"II*\0", b"MM\0*") else ""


def code_of(exc: Exception, data: bytes) -> ImageErrorCode:
    """The code for what a decoder said."""
    if is_heif(data):
        return heif.code_of(exc, data)
    text = str(exc).lower()
    if isinstance(exc, OSError) and (
        "truncated" in text or "unexpected end" in text or "premature" in text or "eof" in text
    ):
        return "TRUNCATED"
    if text.startswith(("unsupported bmp", "unknown raw mode")):
        return "UNSUPPORTED"
    return "TRUNCATED" if is_cut(data) else "CORRUPT"
