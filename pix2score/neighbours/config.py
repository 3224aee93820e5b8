"""Settings of ``jobs.index``, ``jobs.similar`` and ``jobs.duplicates``."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """Settings of ``jobs.index``."""

    scores: str
    """Scores folder: a local path or s3://bucket/prefix. The index is of its live snapshot, and in it."""
    rebuild_share: float = 0.2
    """Build all anew, rather than take up the last index, if more than this share of its rows came or went
    since all was built; 0 always builds all, also where the snapshot has an index."""

    def __post_init__(self) -> None:
        if not 0 <= self.rebuild_share <= 1:
            raise ConfigError(f"rebuild_share {self.rebuild_share}: expected 0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarConfig:
    """Settings of ``jobs.similar``."""

    scores: str
    """Scores folder: a local path or s3://bucket/prefix; its live snapshot is searched."""
    id: tuple[str, ...] = ()
    """illust_id of an illustration in it; id/page names another page than 0; may be repeated."""
    image: tuple[str, ...] = ()
    """Image file, local or s3://bucket/key, that need not be in the table; may be repeated."""
    model: str | None = None
    """Of image: the model folder by which the snapshot was scored, or another one with its trunk."""
    num: int = 10
    """Neighbours of each."""
    json: bool = False
    """One line of JSON per question instead of a table."""

    def __post_init__(self) -> None:
        if not self.id and not self.image:
            raise ConfigError("nothing to look for: give --id or --image")
        if bool(self.image) != (self.model is not None):
            raise ConfigError("--image and --model go together: the model makes the picture's embedding")
        if self.num < 1:
            raise ConfigError(f"num {self.num}: at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicatesConfig:
    """Settings of ``jobs.duplicates``."""

    scores: str
    """Scores folder: a local path or s3://bucket/prefix; its live snapshot is searched."""
    out: str
    """Parquet file to write, local or s3://bucket/key: columns group, illust_id, page, similarity, and those
    that score --carry took from the catalog."""
    threshold: float = 0.98
    """Cosine of two embeddings from which their pictures count as near-identical; groups are chains of such
    pairs."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.threshold <= 1:
            raise ConfigError(f"threshold {self.threshold}: expected 0.5 to 1")
