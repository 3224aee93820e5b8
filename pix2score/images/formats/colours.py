"""From whatever a decoder gives - depth, palette, transparency, inks - to 8-bit RGB, by the arithmetic of
each format's standard.

Pillow keeps only the upper byte of 16-bit colours, compares keys of transparency with scaled pixels, and
takes some TIFF values for others; what it gets wrong is done here from the same file.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from pix2score.errors import ImageFailure
from pix2score.images.formats import tiff

_BLOCK_PIXELS = (
    2**20
)  # at a time: numbers of several bytes for each pixel and channel would not fit beside the picture
_OTHER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
"""The byte order in which Pillow takes the lower byte of a 16-bit value for the upper one."""
_DEEP = ("RGB", "RGBX", "RGBA", "RGBa", "CMYK", "LA")
_KEY_SCALE = {"L;2": 85, "L;4": 17}
Values = npt.NDArray[Any]


def opaque_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """The opened image decoded, mode RGB, transparency laid over white. ``data``: what it was opened from;
    empty if that is not at hand.

    Exact to a rounding of 8 bits; without ``data``, colours of 16 bits are their upper byte, at most 1 of 255
    from the rounded value. Raises ``ImageFailure`` UNSUPPORTED for values without an agreed range, and
    whatever Pillow raises.
    """
    raw, covered = _raw_mode(image), _covered(image)
    if image.format == "TIFF":
        tiff.check(image)
    kind, _, order = raw.partition(";16")
    if data and kind in _DEEP and order in _OTHER and not tiff.is_planar(image):
        return _deep(image, data, kind, order)
    image.load()
    if image.mode.startswith("I"):
        return _grey(image)
    if image.mode == "F":
        raise ImageFailure("UNSUPPORTED", "floating-point pixels have no agreed range")
    if image.mode == "La":
        image = image.convert("LA")
    _mend_key(image, raw)
    tiff.mend_palette(image)
    if image.has_transparency_data:
        return _over_white(image)
    rgb = image.convert("RGB")
    return rgb if covered is None else _on_white(rgb, covered)


def _covered(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The part of a GIF's canvas that its first frame covers, if not all: the rest is transparent, which
    Pillow takes for colour 0."""
    if image.format != "GIF" or not isinstance(image, ImageFile.ImageFile) or not image.tile or image.tell():
        return None
    covered = image.tile[0].extents
    return covered if covered and covered != (0, 0, *image.size) else None


def _on_white(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image.crop(box), box)
    return white


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its pixels, in Pillow's words; empty if it is decoded already."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    args = tiles[0].args if tiles else ""
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def _set_raw_mode(image: ImageFile.ImageFile, raw: str) -> None:
    image.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:]))
        for tile in image.tile
    ]


def _mend_key(image: Image.Image, raw: str) -> None:
    """Bring the transparent colour of a PNG to the scale of its pixels; only as many of its bits count as a
    pixel has."""
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("L", "RGB") or key is None:
        return
    if raw in _KEY_SCALE:
        image.info["transparency"] = key % (255 // _KEY_SCALE[raw] + 1) * _KEY_SCALE[raw]
    elif not raw.endswith(";16B"):
        image.info["transparency"] = key & 255 if isinstance(key, int) else tuple(part & 255 for part in key)


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as RGB: v * 255 / greatest, rounded; a transparent value becomes white."""
    greatest, is_inverted = tiff.grey_scale(image)
    key = image.info.get("transparency")

    def eight_bit(block: Image.Image) -> Values:
        values = np.asarray(block).astype(np.int64)
        values = values % 2**32 if greatest > 65535 else values.clip(0, greatest)
        grey = _scaled(greatest - values if is_inverted else values, greatest)
        return (
            np.where(values == key, np.uint8(255), grey)
            if image.format == "PNG" and isinstance(key, int)
            else grey
        )

    return _by_blocks(image.size, lambda box: Image.fromarray(eight_bit(image.crop(box)), "L").convert("RGB"))


def _deep(image: Image.Image, data: bytes, kind: str, order: str) -> Image.Image:
    """Colours of 16 bits, from two readings of the file: one of the upper bytes, one of the lower."""
    assert isinstance(image, ImageFile.ImageFile)
    lower = Image.open(io.BytesIO(data), formats=(str(image.format),))
    assert isinstance(lower, ImageFile.ImageFile)
    stored = {"RGBa": "RGBA"}.get(kind, kind)  # Pillow would divide by the alpha
    _set_raw_mode(image, "RGBA" if kind == "LA" else f"{stored};16{order}")
    _set_raw_mode(lower, f"{stored};16{_OTHER[order]}")
    image.load()
    if kind != "LA":
        lower.load()

    def values(box: tuple[int, int, int, int]) -> Values:
        upper: Values = np.asarray(image.crop(box)).astype(np.int64)
        if kind == "LA":  # four bytes a pixel, read as they are
            joined: Values = (upper[..., 0::2] << 8 | upper[..., 1::2])[..., [0, 0, 0, 1]]
        else:
            joined = upper << 8 | np.asarray(lower.crop(box))
        return joined

    key = image.info.get("transparency") if image.format == "PNG" and kind == "RGB" else None
    return _by_blocks(image.size, lambda box: _eight_bit_rgb(values(box), kind, key))


def _eight_bit_rgb(values: Values, kind: str, key: tuple[int, ...] | None) -> Image.Image:
    """16-bit channels as an RGB image; ``kind`` says what the fourth is."""
    if kind == "CMYK":
        return Image.fromarray(_scaled(values, 65535), "CMYK").convert("RGB")
    colours = values[..., :3]
    if kind in ("RGBA", "LA", "RGBa"):
        alpha = values[..., 3:]
        over = (
            colours + 65535 - alpha
            if kind == "RGBa"
            else (colours * alpha + 65535 * (65535 - alpha) + 32767) // 65535
        )
        colours = over.clip(0, 65535)
    if key is not None:
        colours = np.where((values == np.array(key)).all(-1, keepdims=True), 65535, colours)
    return Image.fromarray(_scaled(colours, 65535))


def _scaled(values: Values, greatest: int) -> npt.NDArray[np.uint8]:
    return ((values * 255 + greatest // 2) // greatest).astype(np.uint8)


def _by_blocks(
    size: tuple[int, int], block: Callable[[tuple[int, int, int, int]], Image.Image]
) -> Image.Image:
    """An RGB image put together from what ``block`` makes of each box."""
    whole, across = Image.new("RGB", size), min(size[0], _BLOCK_PIXELS)
    down = max(1, _BLOCK_PIXELS // across)
    for top in range(0, size[1], down):
        for left in range(0, size[0], across):
            whole.paste(
                block((left, top, min(left + across, size[0]), min(top + down, size[1]))), (left, top)
            )
    return whole
