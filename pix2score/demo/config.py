"""Settings of ``jobs.demo``."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.errors import ConfigError
from pix2score.storage.places import is_remote


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Settings of ``jobs.demo``."""

    out: str = "pix2score-demo"
    """Local folder for everything the demo makes; must not hold an earlier demo."""
    num_pictures: int = 480
    """Pictures to draw."""
    epochs: int = 8
    """Passes over the train split."""
    seed: int = 7
    """Of pictures, weights and order."""

    def __post_init__(self) -> None:
        if is_remote(self.out):
            raise ConfigError(f"--out {self.out}: the demo draws its pictures into a local folder")
        if self.num_pictures < 100:
            raise ConfigError(f"num_pictures {self.num_pictures}: at least 100, or there is nothing to split")
