"""From a picture of any size to the square that a model sees. Owns order and filter, on which golden pixels
depend."""

from __future__ import annotations

from PIL import Image, ImageOps

RESIZES = ("squash", "pad", "crop")


def fitted(image: Image.Image, side: int, resize: str) -> Image.Image:
    """The RGB image at ``side`` x ``side`` px. squash: whole, aspect given up; pad: whole on white; crop:
    centre square."""
    size = (side, side)
    if resize == "pad":
        inner = _stretched(image, _inside(image, side), (0, 0, *image.size))
        return ImageOps.pad(inner, size, Image.Resampling.BILINEAR, color=(255, 255, 255))
    if resize == "crop":
        shorter = min(image.size)
        left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
        return _stretched(image, size, (left, top, left + shorter, top + shorter))
    return _stretched(image, size, (0, 0, *image.size))


def _inside(image: Image.Image, side: int) -> tuple[int, int]:
    """The image's size when its longer side is ``side``."""
    longer = max(image.size)
    return max(1, round(image.width / longer * side)), max(1, round(image.height / longer * side))


def _stretched(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    """``box`` of the image at ``size``: every row first, then every column.

    Pillow itself takes either order, by version and shape, and each pass rounds to 8 bits: 1 of 255 apart in
    a fifth of the pixels of a tall image (seen between the two orders in 13.0).
    """
    left, top, right, bottom = box
    across = image.resize((size[0], image.height), Image.Resampling.BILINEAR, (left, 0, right, image.height))
    return across.resize(size, Image.Resampling.BILINEAR, (0, top, size[0], bottom))
