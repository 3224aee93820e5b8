"""Settings of ``jobs.ascend``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pix2score.cli.flags import Device
from pix2score.errors import ConfigError

STEP = 1 / 255
"""Between two of the 256 values of a pixel, where the whole range is 1."""
NO_BOUND = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class AscendConfig:
    """Settings of ``jobs.ascend``."""

    model: str
    """Model folder that jobs.train made."""
    image: tuple[str, ...] = ()
    """Image file, local or s3://bucket/key; may be given several times."""
    head: str
    """Head whose answer is moved."""
    towards: str | None = None
    """Where to: a class, a tag, yes or no, a number, or a bin's range; by default the head's answer goes up
    (of classes and tags, the most probable one becomes more so)."""
    bound: str = "8/255"
    """Largest change of any pixel, as a share of its range: 8/255, 0.03, or none."""
    robust: bool = False
    """Follow the mean gradient over a few random changes of the picture, as in training with the preset
    robust (mirrored, shifted, scaled, recoloured, blurred, JPEG), so that what is gained outlives them."""
    steps: int = 40
    """Steps of the ascent."""
    out: str = "ascended"
    """Folder for the pictures before and after, 16 times their difference, and summary.json."""
    device: Literal[Device, "cuda"] = "cpu"
    """auto (GPU if there is one), cpu or gpu; cuda means gpu."""
    seed: int = 0
    """Of the random changes of --robust."""

    def __post_init__(self) -> None:
        if not self.image:
            raise ConfigError("no image given; name at least one with --image")
        if self.steps < 1:
            raise ConfigError(f"--steps {self.steps}: at least 1")
        _ = self.bound_share

    @property
    def bound_share(self) -> float:
        """``bound`` as a number: 1 for none."""
        return share_of(self.bound)


def share_of(bound: str) -> float:
    """The share of a pixel's range that ``8/255``, ``0.03`` or ``none`` means.

    Raises ``ConfigError`` for what is no such share, or is lost when pixels are rounded to 8 bits.
    """
    if bound == NO_BOUND:
        return 1.0
    number, _, divisor = bound.partition("/")
    try:
        share = float(number) / float(divisor or 1)
    except (ValueError, ZeroDivisionError):
        share = math.nan
    if 1 < share <= 255:
        raise ConfigError(f"--bound {bound}: is a share of a pixel's range, at most 1; {number}/255?")
    if not 0 < share <= 1:
        raise ConfigError(f"--bound {bound}: expected a share such as 8/255, above 0 and at most 1, or none")
    if share < STEP:
        raise ConfigError(f"--bound {bound}: less than 1/255 is lost when pixels are rounded to 8 bits")
    return share
