"""Flags of the random changes of training pictures."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal

from pix2score.cli.settings import WHOLE
from pix2score.train.step.recipe import ROBUST, Augment


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Random changes of training pictures; a strength that is not given is the preset's."""

    preset: Literal["auto", "recipe", "robust", "none"] = field(default="auto", metadata={WHOLE: "none"})
    """recipe (the preset's: flip, slight shift, scale and colour, for large data blur and JPEG), auto (after
    an eighth of the epochs without it that of recipe which the data set bears; of less than 8 epochs,
    recipe), robust (recipe, with blurs up to 3 px and JPEG at quality 30 to 100, each on half of the
    pictures) or none."""
    flip: float | None = None
    """Chance of a left-right mirror image."""
    flip_vertical: float | None = None
    """Chance of an upside-down mirror image."""
    shift: float | None = None
    """Largest shift, share of the side."""
    scale: float | None = None
    """Largest change of size; 0.1 is 10 %."""
    rotate: float | None = None
    """Largest turn, degrees."""
    hue: float | None = None
    """Largest turn of the colour circle, share of it: at most 0.5."""
    colour: float | None = None
    """Largest relative change of contrast; brightness half, saturation one and a half times of it."""
    blur: float | None = None
    """Chance of a blur."""
    blur_sigma: float | None = None
    """Largest standard deviation of a blur, px; 0: always the same slight one."""
    jpeg: float | None = None
    """Chance of JPEG's quantisation."""
    jpeg_worst: float | None = None
    """Least quality of it, 1 to 100."""
    jpeg_best: float | None = None
    """Greatest quality of it."""

    @property
    def given(self) -> dict[str, float]:
        """Strengths that were given."""
        names = [f.name for f in fields(self) if f.name != "preset"]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def over(self, of_recipe: Augment) -> Augment:
        """The strengths, from those of a recipe. Raises ``ConfigError``."""
        base = Augment() if self.preset == "none" else of_recipe
        return replace(base, **{**(ROBUST if self.preset == "robust" else {}), **self.given})
