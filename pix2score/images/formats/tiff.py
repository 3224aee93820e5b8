"""TIFF: what its tags say of the pixels that Pillow takes for others or cannot read."""

from __future__ import annotations

import struct

from PIL import Image, TiffImagePlugin

from pix2score.errors import ImageFailure

_WIDTH, _HEIGHT = 256, 257
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES, _COLOURS, _FORMAT = 258, 259, 262, 277, 284, 320, 339
_SIGNED, _FLOAT = 2, 3
_FORMATS = {1: "unsigned", _SIGNED: "signed", _FLOAT: "floating-point", 5: "complex", 6: "complex"}
_PHOTOMETRICS = {
    0: "grey",
    1: "grey",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "Lab",
    9: "Lab",
    32803: "camera raw",
}
_SIZES = {1: 1, 3: 2, 4: 4}
TiffImagePlugin.OPEN_INFO.setdefault((b"II", 0, (1,), 1, (32,), ()), ("I", "I;32N"))
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
for _order, _white in ((b"II", 0), (b"MM", 0), (b"MM", 1)):
    TiffImagePlugin.OPEN_INFO.setdefault((_order, _white, (1,), 1, (12,), ()), ("I;16", "I;12"))
"""Deep grey that Pillow opens with one byte order, or with zero as black, and not with the other."""


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """The first value of a tag."""
    found = image.tag_v2.get(tag, default) if isinstance(image, TiffImagePlugin.TiffImageFile) else default
    return int(found[0]) if isinstance(found, tuple) else int(found)


def check(image: Image.Image) -> None:
    """Raise ``ImageFailure`` UNSUPPORTED for pixels that Pillow would read as others."""
    if _tag(image, _FORMAT, 1) == _SIGNED:
        raise ImageFailure("UNSUPPORTED", "a TIFF of signed pixels, which have no agreed range")
    if not _is_covered(image):
        raise ImageFailure(
            "TRUNCATED", f"a TIFF of {image.width}x{image.height} px that lacks strips or tiles"
        )
    is_simple = image.mode in ("RGB", "RGBA", "CMYK") and (
        _tag(image, _BITS, 8) == 8 or _tag(image, _COMPRESSION, 1) != 1
    )
    if is_planar(image) and not is_simple:
        raise ImageFailure(
            "UNSUPPORTED", f"a TIFF of separate planes, {_tag(image, _BITS, 8)} bits, mode {image.mode}"
        )


def _is_covered(image: Image.Image) -> bool:
    """Whether strips or tiles reach the last pixel; those that are not there Pillow would show as zeros."""
    tiles = image.tile if isinstance(image, TiffImagePlugin.TiffImageFile) else []
    ends = [tile.extents[2:] for tile in tiles if tile.extents]
    return not ends or (_tag(image, _WIDTH, 0), _tag(image, _HEIGHT, 0)) in ends


def is_planar(image: Image.Image) -> bool:
    """Whether a TIFF keeps each channel apart."""
    return _tag(image, _PLANES, 1) == 2 and _tag(image, _SAMPLES, 1) > 1


def grey_scale(image: Image.Image) -> tuple[int, bool]:
    """Greatest value of a grey image of more than 8 bits, and whether that is black."""
    bits = _tag(image, _BITS, 16)
    return (2**bits - 1 if bits in (12, 32) else 65535), _tag(image, _PHOTOMETRIC, 1) == 0


def mend_palette(image: Image.Image) -> None:
    """Take a palette whose values are all below 256 for one of 8 bits, as libtiff does; Pillow shows
    black."""
    if image.mode != "P" or not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    colours = image.tag_v2.get(_COLOURS, ())
    if colours and max(colours) < 256:
        number = len(colours) // 3
        image.putpalette([colours[channel * number + i] for i in range(number) for channel in range(3)])


def refusal(data: bytes) -> str:
    """What a TIFF that did not open holds, as ``a TIFF of 12-bit unsigned grey``; empty if its first
    directory cannot be read."""
    tags = _first_directory(data)
    if not {_WIDTH, _HEIGHT, _PHOTOMETRIC} <= set(tags) or not (tags[_WIDTH] and tags[_HEIGHT]):
        return ""
    colours = _PHOTOMETRICS.get(tags[_PHOTOMETRIC], f"photometric {tags[_PHOTOMETRIC]}")
    planes = " in separate planes" if tags.get(_PLANES) == 2 else ""
    kind = f"{tags.get(_BITS, 1)}-bit {_FORMATS.get(tags.get(_FORMAT, 1), 'undefined')} {colours}"
    return f"a TIFF of {kind}, samples per pixel {tags.get(_SAMPLES, 1)}{planes}"


def _first_directory(data: bytes) -> dict[int, int]:
    """First value of each numeric tag; what cannot be read is left out."""
    order = "<" if data[:2] == b"II" else ">"
    tags = {}
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (number,) = struct.unpack_from(order + "H", data, start)
        for at in range(start + 2, start + 2 + 12 * min(number, 200), 12):
            tag, kind, count = struct.unpack_from(order + "HHI", data, at)
            size = _SIZES.get(kind)
            if size is None:
                continue
            place = at + 8 if size * count <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
            (tags[tag],) = struct.unpack_from(order + {1: "B", 2: "H", 4: "I"}[size], data, place)
    except struct.error:  # cut
        pass
    return tags
