"""The only path from image bytes to pixels, in training, scoring and single prediction.

``to_rgb`` decodes in the calling process. Bytes from strangers go through ``decoder`` instead, which runs
this same function in a child process. Imports numpy and Pillow only: it is what every decode worker loads.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image, UnidentifiedImageError

from pix2score.errors import ImageFailure
from pix2score.images import resample
from pix2score.images.encode import encode
from pix2score.images.formats import heif, jpeg, jxl, mending, missing, png, refusals
from pix2score.images.formats.colours import opaque_rgb
from pix2score.images.formats.refusals import code_of, unidentified
from pix2score.images.preprocess import Preprocess, RGBPixels

SPARE = 2
"""A large JPEG is decoded at the smallest of its sizes (whole, half, quarter, eighth) that is at least so
many times the one wanted."""
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 100_000_000
MAX_JPEG_SIDE = 65_500  # of libjpeg
FORMATS = refusals.FORMATS
"""Those that this build decodes, by Pillow's names; what failed as UNSUPPORTED is worth another try with a
build that has more."""

Image.MAX_IMAGE_PIXELS = None  # checked below, as a row's code rather than a warning
AvifImagePlugin.DEFAULT_MAX_THREADS = (
    1  # a decode process per core does the work; the codec would start as many threads in each
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(data: bytes, preprocess: Preprocess) -> RGBPixels:
    """Pixels of one encoded image, uint8 (S, S, 3), RGB.

    EXIF orientation, or the turn that a HEIC, AVIF or JPEG XL says, applied once; first frame (of a HEIC its
    primary picture); alpha over white; 10, 12 and 16 bits scaled to 8; CMYK converted by the decoder; ICC
    profile ignored; a JPEG decoded at a smaller scale where that leaves ``SPARE`` times the size; then
    resized with an antialiased bilinear filter.

    Raises:
        ImageFailure: EMPTY, UNSUPPORTED (not an image, or a format outside ``FORMATS``), CORRUPT, TRUNCATED,
            or TOO_LARGE (over 64 MiB or 100 megapixels, known before decoding).
    """

    def shrink_while_decoding(image: Image.Image) -> None:
        _decode_smaller(
            image, max(image.size) if preprocess.resize == "pad" else min(image.size), preprocess.size
        )

    return _fitted(_decoded(data, shrink_while_decoding), preprocess)


def picture_to_rgb(image: Image.Image, preprocess: Preprocess) -> RGBPixels:
    """As ``to_rgb``, of a picture that Pillow has opened already: its current frame. Raises
    ``ImageFailure``."""
    _check_pixels(image)
    return _fitted(_upright(image, b""), preprocess)


def _fitted(image: Image.Image, preprocess: Preprocess) -> RGBPixels:
    return np.asarray(resample.fitted(image, preprocess.size, preprocess.resize), dtype=np.uint8)


def open_upright(data: bytes) -> Image.Image:
    """The first frame, whole size, upright, mode RGB. Raises ``ImageFailure`` as ``to_rgb``."""
    return _decoded(data, lambda image: None)


def _decoded(data: bytes, prepare: Callable[[Image.Image], None]) -> Image.Image:
    """The first frame upright, mode RGB; ``prepare`` sees the opened image before it is decoded. Raises
    ``ImageFailure``."""
    image, data = _opened(data)
    try:
        upright = _upright(_prepared(image, data, prepare), data)
    except ImageFailure as failure:
        if failure.code == "CORRUPT" and data.startswith(jpeg.START) and (reason := jpeg.refusal(data)):
            raise ImageFailure("UNSUPPORTED", reason) from failure
        whole = mending.completed(data) if failure.code in ("CORRUPT", "TRUNCATED") else None
        if whole is None:
            raise
        return _upright(_prepared(_open(whole), whole, prepare), whole)
    missing.check(image, data)
    return upright


def _prepared(image: Image.Image, data: bytes, prepare: Callable[[Image.Image], None]) -> Image.Image:
    """The opened image, ready to be decoded as ``prepare`` wants it."""
    if image.format != "JPEG":
        missing.mark(image)
        prepare(image)
        return image
    header = data[: image.fp.tell()]  # type: ignore[attr-defined]
    frame = jpeg.unusual_frame(header)
    if frame == "arithmetic":
        raise ImageFailure("UNSUPPORTED", jpeg.refusal(header))
    if not frame:
        prepare(image)
    return image


def _opened(data: bytes) -> tuple[Image.Image, bytes]:
    """The image and the bytes it was opened from: without what may be left out, if there is something wrong
    with it."""
    if data.startswith(png.SIGNATURE) and len(data) <= MAX_BYTES:
        data = png.essential(data)
    elif data.startswith(b"BM"):
        mending.check_bmp(data)
    elif data.startswith(b"GIF8"):
        data = mending.sound_gif(data)
    else:
        _check_size(*mending.webp_canvas(data))
    try:
        return _open(data), data
    except ImageFailure as failure:
        bare = mending.without_extras(data) if failure.code in ("CORRUPT", "TRUNCATED") else None
        if bare is None:
            raise
    return _open(bare), bare


def _decode_smaller(image: Image.Image, side: int, wanted: int) -> None:
    """Let libjpeg leave out the finest frequencies of a JPEG whose ``side`` px will be ``wanted``; other
    formats decode whole."""
    factor = next((factor for factor in (8, 4, 2) if side >= wanted * SPARE * factor), 1)
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))


def _upright(image: Image.Image, data: bytes) -> Image.Image:
    try:
        rgb = opaque_rgb(image, data)
        _check_pixels(rgb)  # a HEIC may be larger than it says
        turn = _TURNS.get(orientation(image))
        upright = rgb if turn is None else rgb.transpose(turn)
        upright.info = {}  # what it says of itself would be written again: a comment, and fail if too long
    except ImageFailure:
        raise
    except MemoryError:
        raise ImageFailure(
            "TOO_LARGE", f"{image.width}x{image.height} px need more memory than allowed"
        ) from None
    except OSError as exc:
        raise ImageFailure(code_of(exc, data), f"{image.format}: {exc}") from exc
    # decoders raise anything on hostile bytes: SyntaxError, struct.error, ValueError, IndexError ...
    except Exception as exc:
        raise ImageFailure(code_of(exc, data), f"{image.format}: {type(exc).__name__}: {exc}") from exc
    return upright


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageFailure("EMPTY", "0 bytes")
    if len(data) > MAX_BYTES:
        raise ImageFailure("TOO_LARGE", f"{len(data)} bytes, over {MAX_BYTES}")
    try:
        image = heif.opened(data) or jxl.opened(data, MAX_PIXELS)
        image = image or Image.open(io.BytesIO(data), formats=refusals.PLAIN)
    except ImageFailure:
        raise
    except UnidentifiedImageError:
        raise unidentified(data) from None
    except MemoryError:
        raise ImageFailure("TOO_LARGE", "its header needs more memory than allowed") from None
    except Exception as exc:
        raise ImageFailure(code_of(exc, data), f"header: {type(exc).__name__}: {exc}") from exc
    _check_pixels(image)
    return image


def _check_pixels(image: Image.Image) -> None:
    _check_size(*image.size)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageFailure("TOO_LARGE", f"{width}x{height} px, over {MAX_PIXELS} pixels")


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; an unreadable EXIF block counts as none, as in viewers, and so does that of a
    format whose decoder has turned the picture."""
    if image.format == "HEIF" or jxl.is_turned(image):
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def shrink(data: bytes, short_side: int) -> bytes:
    """Bytes to train from: as they are if the short side is at most ``short_side`` px, else an antialiased
    shrink as JPEG 95, 4:4:4.

    Decodes in either case, so that what comes back is known to decode. Raises ``ImageFailure`` as ``to_rgb``.
    """
    sizes = []

    def shrink_while_decoding(image: Image.Image) -> None:
        sizes.append(min(image.size))
        _decode_smaller(image, min(image.size), short_side)

    image = _decoded(data, shrink_while_decoding)
    if sizes[0] <= short_side:
        return data
    scale = min(short_side / min(image.size), MAX_JPEG_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return encode(image.resize(size, Image.Resampling.BILINEAR), quality=95, subsampling="4:4:4")
