"""Drawn pictures that decode as real ones do: photographs, sparse and dense line art.

JPEG is of quality 90, 4:2:0. A few are drawn and repeated: a decoder does not know that it saw a picture
before. Bits per pixel at 1,200 px as drawn here: photographs 0.7, sparse line art 0.7, dense line art 4.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pix2score.images.encode import encode

NUM_DISTINCT = 24
OCTAVES = range(2, 10)


def photograph(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise whose power falls with frequency as in nature, some grain, and hard edges of discs."""
    scene = np.zeros((height, width, 3), dtype=np.float32)
    for octave in OCTAVES:
        cells = 2**octave
        rows, columns = (max(2, side * cells // max(width, height)) for side in (height, width))
        noise = rng.normal(size=(rows, columns, 3)).astype(np.float32)
        for channel in range(3):
            scene[..., channel] += (
                np.asarray(Image.fromarray(noise[..., channel]).resize((width, height))) / cells**0.9
            )
    scene += rng.normal(size=scene.shape).astype(np.float32) * 0.004
    light = (scene - scene.mean()) / scene.std() * 48 + 118
    image = Image.fromarray(light.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = rng.integers(0, width), rng.integers(0, height), rng.integers(width // 40, width // 6)
        draw.ellipse(
            (int(x - r), int(y - r), int(x + r), int(y + r)), fill=tuple(rng.integers(0, 256, 3).tolist())
        )
    return image


def _line_art(
    rng: np.random.Generator, width: int, height: int, num_lines: int, thickness: int
) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(num_lines):
        points = rng.normal(size=(6, 2)).cumsum(axis=0) * width / 12 + rng.uniform(0, [width, height])
        draw.line(
            [(float(x), float(y)) for x, y in points],
            fill=(20, 20, 20),
            width=max(1, thickness),
            joint="curve",
        )
    return image


def sparse_line_art(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A sketch."""
    return _line_art(rng, width, height, 25, width // 300)


def dense_line_art(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A page full of hatching."""
    return _line_art(rng, width, height, 300, width // 600)


SETS: dict[str, Callable[[np.random.Generator, int, int], Image.Image]] = {
    "photographs": photograph,
    "sparse line art": sparse_line_art,
    "dense line art": dense_line_art,
}


def encoded(image: Image.Image, form: str = "JPEG") -> bytes:
    """The picture as a file."""
    return encode(image, form, **({"quality": 90} if form in ("JPEG", "WEBP") else {}))


def write_photographs(folder: Path, num_images: int, width: int, height: int, seed: int = 0) -> None:
    """Write ``num_images`` files into a new folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    contents = [encoded(photograph(rng, width, height)) for _ in range(min(num_images, NUM_DISTINCT))]
    for i in range(num_images):
        (folder / f"{i:06}.jpg").write_bytes(contents[i % len(contents)])
