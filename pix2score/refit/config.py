"""Settings of ``jobs.refit``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pix2score.catalog.catalog import Columns
from pix2score.dataset.plan import SplitRule
from pix2score.errors import ConfigError
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import HeadSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitConfig:
    """Settings of ``jobs.refit``."""

    scores: str
    """Scores folder whose stored embeddings are learnt from: a local folder or s3://bucket/prefix."""
    catalog: str
    """Today's catalog, with the labels: a Parquet file, or a folder of them."""
    model: str
    """Model whose trunk made the embeddings. Its heads are learnt anew, or those of [[heads]]."""
    out: str
    """Where the new model goes: the same trunk, other heads. score then answers from stored embeddings."""
    val_fraction: float = 0.05
    """Share of groups that choose how much a head may learn, and calibrate it."""
    test_fraction: float = 0.05
    """Share of groups that nothing is learnt from: old and new heads are measured on them."""
    max_pages: int = 4
    """Pages per work that are learnt from."""
    hidden: int = 0
    """Width of a layer between the embedding and the heads, learnt in steps; 0: none, each head is solved."""
    epochs: int = 20
    """Passes over the rows, with a hidden layer; the best one on the validation rows counts."""
    sample_rows: int = 50_000
    """Rows that choose how much each head may learn, at 13 strengths of a penalty; the chosen one is then
    solved over all rows."""
    columns: Columns = field(default_factory=Columns)
    heads: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise ConfigError(f"{name} {getattr(self, name)}: expected above 0 and below 0.5")
        for name, least in (("max_pages", 1), ("sample_rows", 1000), ("hidden", 0), ("epochs", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} {getattr(self, name)}: at least {least}")
        self.given_heads()

    @property
    def rule(self) -> SplitRule:
        """How rows are split."""
        return SplitRule(
            val_fraction=self.val_fraction, test_fraction=self.test_fraction, max_pages=self.max_pages
        )

    def given_heads(self) -> tuple[HeadSpec, ...]:
        """The heads of the file; none for those of the model. Raises ``ConfigError``."""
        heads = tuple(head_from_dict(plain) for plain in self.heads)
        compared = [head.name for head in heads if head.COMPARES]
        if compared:
            raise ConfigError(
                f"[[heads]]: {compared[0]} learns from comparisons, which a catalog has not: jobs.train does"
            )
        return heads
