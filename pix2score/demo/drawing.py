"""Simple illustrations: visible traits in, an RGB picture that shows them out.

Owns the traits, what they earn and how they are painted. File formats, labels and the catalog:
``demo.catalog``.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Floats = npt.NDArray[np.float64]

PINK: Colour = (248, 180, 182)
DEEP_PINK: Colour = (238, 148, 160)
# Hue along the warm trait: blue, teal, green, gold, orange. Greens are passed quickly, or they would fill
# half of all
# pictures.
_WARM_STOPS = (0.0, 0.38, 0.50, 0.62, 1.0)
_HUE_STOPS = (0.64, 0.50, 0.36, 0.16, 0.04)
# Shapes are drawn this many times larger and averaged down, for smooth edges; the few large pictures need
# none.
SUPERSAMPLE = 2
SUPERSAMPLE_MAX_PX = 700


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What the eye sees in a picture, each in [0, 1].

    Labels are computed from these, so each is made to survive a squash to 64x64 pixels.
    """

    warm: float  # hue of the palette: blue 0, green 0.5, orange 1
    vivid: float  # its saturation; 0 is grey
    subject: float  # size of the centred subject
    busy: float  # number of floating elements, and contrast of the background
    skin: float  # share of the picture covered by pink

    def in_grey(self) -> Traits:
        """The traits that are left when the colours are lost."""
        return replace(self, vivid=0.0, skin=0.0)


def _standard(values: Sequence[float] | Floats) -> Floats:
    """The values shifted and scaled to mean 0 and standard deviation 1."""
    array = np.asarray(values, dtype=np.float64)
    standard: Floats = (array - array.mean()) / max(float(array.std()), 1e-9)
    return standard


def trait_scores(traits: Sequence[Traits]) -> dict[str, Floats]:
    """What the traits say about ``bookmarks`` and ``views``: float64 [works], standardised over the given
    works.

    Warm vivid colours and a large subject earn bookmarks; bookmarks and a busy picture earn views.
    """
    colour = _standard([each.vivid * (0.1 + 0.9 * each.warm) for each in traits])
    bookmarks = _standard(0.8 * colour + 0.6 * _standard([each.subject for each in traits]))
    return {
        "bookmarks": bookmarks,
        "views": _standard(0.6 * bookmarks + 0.8 * _standard([t.busy for t in traits])),
    }


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one picture, all derived from its traits."""

    top: Colour
    bottom: Colour
    accent: Colour
    body: Colour
    line: Colour


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    """The colour as three bytes; hue wraps around."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _palette(traits: Traits) -> Palette:
    """Colours of the traits: warm is the hue, vivid the saturation, busy darkens the top."""
    hue = float(np.interp(traits.warm, _WARM_STOPS, _HUE_STOPS))
    return Palette(
        top=_rgb(hue + 0.02, 0.95 * traits.vivid, 0.80 - 0.58 * traits.busy),
        bottom=_rgb(hue - 0.03, 0.75 * traits.vivid, 0.84),
        accent=_rgb(hue - 0.05, 0.45 * traits.vivid, 1.0),
        body=_rgb(hue - 0.02, 0.18 * traits.vivid, 1.0),
        line=_rgb(hue + 0.04, 0.60 * traits.vivid, 0.24),
    )


class _Brush:
    """Draws in units of ``unit`` pixels around ``origin``, so that a shape is described once for every
    picture size."""

    def __init__(self, image: Image.Image, palette: Palette, origin: Point, unit: float) -> None:
        self.draw = ImageDraw.Draw(image)
        self.palette = palette
        self.origin = origin
        self.unit = unit
        self.line_px = max(1, round(min(image.size) / 110))

    def _at(self, points: Sequence[Point]) -> list[Point]:
        return [(self.origin[0] + x * self.unit, self.origin[1] + y * self.unit) for x, y in points]

    def shape(self, points: Sequence[Point], fill: Colour, *, line: bool = True) -> None:
        """A filled polygon, with a dark outline unless told otherwise."""
        corners = self._at(points)
        self.draw.polygon(corners, fill=fill)
        if line:
            self.draw.line([*corners, corners[0]], fill=self.palette.line, width=self.line_px, joint="curve")

    def disc(
        self, x: float, y: float, radius: float, fill: Colour, *, squeeze: float = 1, line: bool = True
    ) -> None:
        """A circle, or an ellipse ``squeeze`` times as high as wide, outlined likewise."""
        high = radius * squeeze
        corners = self._at([(x - radius, y - high), (x + radius, y + high)])
        self.draw.ellipse(corners, fill, self.palette.line if line else None, self.line_px if line else 0)

    def stroke(self, points: Sequence[Point], fill: Colour | None = None) -> None:
        """An open line."""
        self.draw.line(self._at(points), fill=fill or self.palette.line, width=self.line_px, joint="curve")

    def face(self, y: float) -> None:
        """Two eyes, rosy cheeks and a smile."""
        for side in (-1, 1):
            self.disc(side * 0.33, y, 0.09, self.palette.line, squeeze=1.4, line=False)
            self.disc(side * 0.55, y + 0.24, 0.12, DEEP_PINK, squeeze=0.6, line=False)
        self.stroke([(x / 10, y + 0.30 - 0.10 * (x / 2) ** 2) for x in range(-2, 3)])


def _ring(count: int, radius: float, inner: float) -> list[Point]:
    """The corners of a star with ``count`` rays, first ray up."""
    angles = [math.pi * (step / count - 0.5) for step in range(2 * count)]
    radii = [radius if step % 2 == 0 else inner for step in range(2 * count)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _cat(brush: _Brush) -> None:
    for side in (-1, 1):
        brush.shape([(side * 0.92, -0.30), (side * 0.80, -1.18), (side * 0.22, -0.85)], brush.palette.body)
    brush.disc(0, 0, 1.0, brush.palette.body, squeeze=0.92)
    for side in (-1, 1):
        for y in (0.20, 0.36):
            brush.stroke([(side * 0.72, y), (side * 1.22, y * 1.5 - 0.10)])
    brush.face(0.02)


def _flower(brush: _Brush) -> None:
    brush.stroke([(0, 0.5), (0.06, 1.2), (0, 1.8)])
    for x, y in _ring(8, 0.70, 0.70)[::2]:
        brush.disc(x, y, 0.38, brush.palette.body)
    brush.disc(0, 0, 0.68, brush.palette.body)
    brush.face(-0.05)


def _star(brush: _Brush) -> None:
    brush.shape(_ring(5, 1.25, 0.72), brush.palette.body)
    brush.face(-0.02)


def _mushroom(brush: _Brush) -> None:
    brush.shape([(-0.45, 0.1), (-0.55, 1.05), (0.55, 1.05), (0.45, 0.1)], brush.palette.accent)
    cap = [(1.15 * math.cos(a), 0.25 - 1.2 * math.sin(a)) for a in np.linspace(0, math.pi, 24)]
    brush.shape(cap, brush.palette.body)
    for x, y, radius in ((-0.55, -0.35, 0.16), (0.05, -0.62, 0.20), (0.60, -0.28, 0.14)):
        brush.disc(x, y, radius, brush.palette.accent)


def _ghost(brush: _Brush) -> None:
    crown = [(0.95 * math.cos(a), -0.15 - 0.95 * math.sin(a)) for a in np.linspace(0, math.pi, 24)]
    hem = [(-0.95 + 1.9 * step / 8, 1.05 if step % 2 == 0 else 0.82) for step in range(9)]
    brush.shape(crown + hem, brush.palette.body)
    brush.face(-0.10)


_SUBJECTS: tuple[Callable[[_Brush], None], ...] = (_cat, _flower, _star, _mushroom, _ghost)


def _background(palette: Palette, size: tuple[int, int], tilt: float) -> Image.Image:
    """A slightly tilted gradient from the top colour to the bottom colour."""
    width, height = size
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None] + tilt * np.linspace(
        -0.5, 0.5, width, dtype=np.float32
    )
    share = np.clip(down, 0, 1)[:, :, None]
    colours = np.array([palette.top, palette.bottom], dtype=np.float32)
    return Image.fromarray(np.rint(colours[0] + (colours[1] - colours[0]) * share).astype(np.uint8), "RGB")


def _hills(brush: _Brush, skin: float, shape: Point, rng: np.random.Generator) -> None:
    """Pink hills over the lower ``0.6 * skin`` of the picture, whose width and height in units is
    ``shape``."""
    width, height = shape
    along = np.linspace(-0.02, 1.02, 40)
    for layer, colour in ((1.0, PINK), (0.55, DEEP_PINK)):
        wave = 0.12 * skin * np.sin(2 * math.pi * (along * rng.uniform(0.7, 1.5) + rng.uniform()))
        down = 1 - 0.6 * skin * layer * (1 + wave)
        ridge = np.stack([along * width, down * height], axis=1).tolist()
        brush.shape([*ridge, (1.1 * width, 1.1 * height), (-0.1 * width, 1.1 * height)], colour)


def _float_around(brush: _Brush, busy: float, shape: Point, rng: np.random.Generator) -> None:
    """Up to 45 stars, bubbles or streaks, one kind per picture."""
    kind = rng.integers(3)
    for _ in range(2 + round(43 * busy)):
        x, y = rng.uniform(0, 1, 2) * shape
        radius = float(rng.uniform(0.018, 0.042))
        if kind == 0:
            rays = _ring(4, 1.6 * radius, 0.6 * radius)
            brush.shape([(x + a, y + b) for a, b in rays], brush.palette.accent, line=False)
        elif kind == 1:
            brush.disc(x, y, radius, brush.palette.accent)
        else:
            brush.stroke([(x - radius, y + 2 * radius), (x + radius, y - 2 * radius)], brush.palette.accent)


def paint(traits: Traits, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """An RGB picture of ``size`` (width, height) that shows the traits; ``rng`` decides everything else."""
    scale = SUPERSAMPLE if max(size) <= SUPERSAMPLE_MAX_PX else 1
    width, height = size[0] * scale, size[1] * scale
    palette, short = _palette(traits), min(width, height)
    image = _background(palette, (width, height), float(rng.uniform(-0.3, 0.3)))
    scene = _Brush(image, palette, (0, 0), short)
    shape = (width / short, height / short)
    if traits.skin > 0.02:
        _hills(scene, traits.skin, shape, rng)
    _float_around(scene, traits.busy, shape, rng)
    centre = (width * rng.uniform(0.46, 0.54), height * rng.uniform(0.47, 0.55))
    subject = _SUBJECTS[rng.integers(len(_SUBJECTS))]
    subject(_Brush(image, palette, centre, short * (0.06 + 0.30 * traits.subject)))
    return image.reduce(scale) if scale > 1 else image
