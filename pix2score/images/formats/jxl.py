"""JPEG XL, by the plugin pillow-jxl-plugin (extra ``jxl``).

The plugin decodes all pixels as it opens a picture, so that its size is read here before. Of an animation it
gives the last frame, where the first one counts: these are refused. libjxl turns the
picture as the codestream says (ISO/IEC 18181-1, D.3.2); an EXIF block beside it says nothing of that. A JPEG
that was packed without loss comes back as that JPEG, and its own EXIF block counts.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from pix2score.errors import ImageErrorCode, ImageFailure
from pix2score.images.formats.signatures import is_cut, is_jxl

try:
    from pillow_jxl import JpegXLImagePlugin

    JpegXLImagePlugin.DECODE_THREADS = 0
    FORMATS: tuple[str, ...] = ("JXL",)
except ImportError:
    FORMATS = ()
"""Pillow's name of the format, if it is read here."""
_CODESTREAM = b"\xff\x0a"
BOXED = b"\0\0\0\x0cJXL "
_PIXELS = (b"JXL ", b"ftyp", b"jxll", b"jxlc", b"jxlp")
_HEADER_BYTES = 48
"""Hold all that is read here: less than 300 bits."""
_BITS, _PREVIEW_BITS = (9, 13, 18, 30), (6, 8, 10, 12)
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def opened(data: bytes, max_pixels: int) -> Image.Image | None:
    """The picture, decoded; None if the bytes are no JPEG XL or none is read here.

    Raises ``ImageFailure``: TOO_LARGE, known before decoding; UNSUPPORTED, TRUNCATED or CORRUPT.
    """
    if not FORMATS or not is_jxl(data):
        return None
    header = header_of(data)
    if header is None:
        raise ImageFailure("TRUNCATED" if len(data) < 64 or is_cut(data) else "CORRUPT", "JXL: no header")
    size = f"{header.width}x{header.height} px"
    if header.width * header.height > max_pixels:
        raise ImageFailure("TOO_LARGE", f"{size}, over {max_pixels} pixels")
    if header.is_animated:
        raise ImageFailure("UNSUPPORTED", "an animated JPEG XL: only still ones are decoded")
    try:
        image: Image.Image = JpegXLImagePlugin.JXLImageFile(io.BytesIO(data))
    except MemoryError:
        raise
    except Exception as exc:  # libjxl tells no more than that
        code: ImageErrorCode = "TRUNCATED" if is_cut(data) else "CORRUPT"
        raise ImageFailure(code, f"JXL: {size} that libjxl cannot decode") from exc
    return image


def is_turned(image: Image.Image) -> bool:
    """Whether the pixels of an opened picture are upright already."""
    return image.format == "JXL" and not getattr(image, "jpeg", False)


@dataclass(frozen=True, slots=True)
class Header:
    """What a codestream begins with."""

    width: int
    """In px as coded, before any turn, as is the height."""
    height: int
    is_animated: bool


def header_of(data: bytes) -> Header | None:
    """The beginning of a JPEG XL (ISO/IEC 18181-1, annex D); None if there is none."""
    start = b""
    for part in _codestream(data):
        start += part[: _HEADER_BYTES - len(start)]
        if len(start) == _HEADER_BYTES:
            break
    if not start.startswith(_CODESTREAM) or len(start) < 4:
        return None
    bits = _Bits(start[2:])
    width, height = _size(bits)
    return Header(width, height, _is_animated(bits))


def _size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.take(1)

    def side() -> int:
        return 8 * (1 + bits.take(5)) if is_small else 1 + bits.take(_BITS[bits.take(2)])

    height, ratio = side(), bits.take(3)
    return (side() if not ratio else _across(height, ratio)), height


def _across(height: int, ratio: int) -> int:
    across, down = _RATIOS[ratio - 1]
    return height * across // down


def _is_animated(bits: _Bits) -> bool:
    is_default, has_more = bits.take(1), False
    if not is_default:
        has_more = bool(bits.take(1))
    if not has_more:
        return False
    bits.take(3)  # the turn
    if bits.take(1):  # a size to be shown at
        _size(bits)
    if bits.take(1):
        _skip_preview(bits)
    return bool(bits.take(1))


def _skip_preview(bits: _Bits) -> None:
    is_in_eights = bits.take(1)

    def side() -> None:
        selector = bits.take(2)
        if is_in_eights:
            bits.take((0, 0, 5, 9)[selector])
        else:
            bits.take(_PREVIEW_BITS[selector])

    side()
    if not bits.take(3):
        side()


class _Bits:
    """Bits of a codestream, the lowest of each byte first; zeros behind its end."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, number: int) -> int:
        value = self._left & ((1 << number) - 1)
        self._left >>= number
        return value


def bare(data: bytes) -> bytes:
    """The JPEG XL without boxes that its pixels do not need: of metadata, packed or not, of the JPEG that it
    was made from, and of anybody."""
    return b"".join(data[start:end] for kind, start, _, end in _boxes(data) if kind in _PIXELS)


def _codestream(data: bytes) -> Iterator[bytes]:
    """The first bytes of each part of the codestream: the file itself, or boxes ``jxlc`` and ``jxlp``."""
    if data.startswith(_CODESTREAM):
        yield data[:_HEADER_BYTES]
        return
    for kind, _, body, end in _boxes(data):
        if kind in (b"jxlc", b"jxlp"):
            start = body + 4 * (kind == b"jxlp")
            yield data[start : min(end, start + _HEADER_BYTES)]


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Kind, and where the box, its content and what follows begin."""
    at = 0
    while at + 8 <= len(data):
        size, kind, body = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, body = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + size if size else len(data)
        if end < body:
            return
        yield kind, at, body, end
        at = end
