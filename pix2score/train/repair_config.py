"""Settings of ``jobs.repair``."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairConfig:
    """Settings of ``jobs.repair``."""

    model: str
    """Model folder to repair; it stays as it is."""
    data: str
    """Prepared dataset, best the one that the model learnt from."""
    out: str
    """Where the repaired model goes."""
    num_images: int = 4096
    """Training pictures from which the statistics are made."""

    def __post_init__(self) -> None:
        if self.num_images < 2:
            raise ConfigError(f"num_images {self.num_images}: a variance needs at least 2")
