"""Settings of ``jobs.verify``, ``jobs.vacuum``, ``jobs.publish`` and ``jobs.history``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pix2score.errors import ConfigError
from pix2score.snapshots.identity import is_version

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
    """Snapshots that stay, the newest ones with different scores: one that vacuum compacted or jobs.publish
    made live again is not counted beside the one whose scores it has. ``read_changes`` can go back to the
    oldest of them."""
    keep_since: str | None = None
    """Snapshots published within this time stay too, however many they are: 30d, 12h."""
    keep_staged: str = "7d"
    """What runs staged that published nothing stays this long, for a later run to take up, and so do rows of
    keys that left the catalog, as they may come back: 7d, 12h, 30m. While a run is at work, its files and all
    of these stay whatever their age."""
    keep_model: tuple[str, ...] = ()
    """model_version whose staged pieces stay whatever their age, as a model that is rolled out over many
    nights needs them; may be repeated."""
    dry_run: bool = False
    """Say what would be removed; remove and rewrite nothing."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"keep {self.keep}: at least 1")
        seconds(self.keep_staged)
        if self.keep_since is not None:
            seconds(self.keep_since, "keep_since")
        for version in self.keep_model:
            if not is_version(version):
                raise ConfigError(
                    f"keep_model {version!r}: expected a model_version, 12 hex digits, as model.json and "
                    "jobs.history have it, with what is behind a + there"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """Settings of ``jobs.publish``."""

    scores: str
    """Scores folder: a local path or s3://bucket/prefix."""
    snapshot: int
    """Number of the older snapshot whose files are made live again, under a new number."""
    note: str | None = None
    """Why, in your own words: the manifest keeps it and jobs.history shows it."""

    def __post_init__(self) -> None:
        if self.snapshot < 1:
            raise ConfigError(
                f"snapshot {self.snapshot}: at least 1; jobs.history lists those that there are"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryConfig:
    """Settings of ``jobs.history``."""

    scores: str
    """Scores folder: a local path or s3://bucket/prefix."""
    limit: int | None = None
    """Only this many snapshots, the newest (default: all)."""
    json: bool = False
    """No table, only the line of JSON."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit {self.limit}: at least 1")


def seconds(age: str, name: str = "keep_staged") -> float:
    """``7d``, ``12h``, ``30m`` or ``90s`` as seconds. Raises ``ConfigError`` about the setting ``name``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([dhms])", age.strip())
    if not found:
        raise ConfigError(f"{name} {age!r}: expected a number with a unit, such as 7d, 12h, 30m or 90s")
    return float(found[1]) * _UNITS[found[2]]
