"""Settings of ``jobs.verify`` and ``jobs.vacuum``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pix2score.errors import ConfigError

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """Settings of ``jobs.verify``."""

    scores: str
    """Scores folder: a local path or s3://bucket/prefix."""
    catalog: str | None = None
    """Catalog whose keys the snapshot must hold, exactly; its columns are mapped as when it was scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VacuumConfig:
    """Settings of ``jobs.vacuum``."""

    scores: str
    """Scores folder: a local path or s3://bucket/prefix."""
    keep: int = 14
    """Snapshots that stay, the newest ones; ``read_changes`` can go back to the oldest of them."""
    keep_staged: str = "7d"
    """What runs staged that published nothing stays this long, for a later run to take up, and so do rows of
    keys that left the catalog, as they may come back: 7d, 12h, 30m. While a run is at work, its files and all
    of these stay whatever their age."""
    dry_run: bool = False
    """Say what would be removed; remove and rewrite nothing."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"keep {self.keep}: at least 1")
        seconds(self.keep_staged)


def seconds(age: str, name: str = "keep_staged") -> float:
    """``7d``, ``12h``, ``30m`` or ``90s`` as seconds. Raises ``ConfigError`` about the setting ``name``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([dhms])", age.strip())
    if not found:
        raise ConfigError(f"{name} {age!r}: expected a number with a unit, such as 7d, 12h, 30m or 90s")
    return float(found[1]) * _UNITS[found[2]]
