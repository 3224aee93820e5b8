"""Settings of ``jobs.prepare``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pix2score.catalog.catalog import Columns
from pix2score.cli.flags import as_plain
from pix2score.dataset.near_identical import Rule
from pix2score.dataset.sources import SourceRules
from pix2score.errors import ConfigError
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.presets import preset
from pix2score.heads.spec import HeadSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """Settings of ``jobs.prepare``."""

    catalog: str | tuple[str, ...]
    """Parquet file, or folder of them: a local path or s3://bucket/prefix. Given several times, all of them
    become one dataset; of a key that two have the first one's row counts."""
    out: str
    """Where the dataset goes: a local folder or s3://bucket/prefix."""
    image_size: int = 256
    """Images with a longer short side are shrunk to this many px (and re-encoded as JPEG 95); never
    enlarged."""
    val_fraction: float = 0.05
    """Share of groups that measure the model while it trains."""
    test_fraction: float = 0.05
    """Share of groups kept for the final evaluation."""
    max_pages: int = 4
    """Pages per work that are kept; every page carries the work's labels."""
    preset: str = "pixiv"
    """Heads with published edges on columns bookmarks, views, sanity; [[heads]] in --config replaces them."""
    comparisons: str | None = None
    """Parquet file of ranked images, for a head of kind preference: columns set, illust_id, page (default 0),
    rank (1 is best, equal ranks are ties), and perhaps weight and rater."""
    duplicates: str | None = None
    """Parquet file that jobs.duplicates wrote: groups of near-identical pictures that span splits are told,
    and counted in dataset.json."""
    duplicates_rule: Rule = "warn"
    """Of duplicates: warn, or drop the rows of such a group in all splits but one: test before val before
    train."""
    image_root: tuple[str, ...] = ()
    """Another place that catalog uris may point into, beside the catalog's folder; may be repeated."""
    max_failed: float = 0.05
    """Make no dataset if more than this share of the images failed, and more than 100 of them."""
    source_column: str | None = None
    """Column that says where a row's labels come from, such as the group of raters (default: the number of
    its catalog, from 0)."""
    weight_column: str | None = None
    """Column of numbers from 0 by which the row's loss is multiplied in training; null is 1."""
    columns: Columns = field(default_factory=Columns)
    heads: tuple[dict[str, Any], ...] = ()
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_catalogs()
        if not 8 <= self.image_size <= 4096:
            raise ConfigError(f"image_size {self.image_size} px: expected 8 to 4096")
        for name, share in (("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)):
            if not 0 <= share < 1:
                raise ConfigError(f"{name} {share}: expected 0 to 1")
        if self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave nothing to "
                "train on"
            )
        if self.max_pages < 1:
            raise ConfigError(f"max_pages {self.max_pages}: at least 1")
        if not 0 <= self.max_failed <= 1:
            raise ConfigError(f"max_failed {self.max_failed}: expected 0 to 1")
        if self.duplicates_rule != "warn" and not self.duplicates:
            raise ConfigError(f"duplicates_rule {self.duplicates_rule}: give --duplicates FILE too")
        self.rules().check(self.head_specs())

    @property
    def catalogs(self) -> tuple[str, ...]:
        """Every catalog, in the order given."""
        return (self.catalog,) if isinstance(self.catalog, str) else self.catalog

    def rules(self) -> SourceRules:
        """What sources and weights mean for rows. Raises ``ConfigError``."""
        return SourceRules.of(
            self.sources,
            has_source=len(self.catalogs) > 1 or self.source_column is not None,
            has_weight=self.weight_column is not None,
        )

    def plain(self) -> dict[str, Any]:
        """Plain values; without those of several sources and of duplicates where there are none, as in
        datasets without them."""
        plain = as_plain(self)
        unused: dict[str, Any] = {"source_column": None, "weight_column": None, "sources": {}}
        if self.duplicates is None:
            unused |= {"duplicates": None, "duplicates_rule": "warn"}
        return {name: value for name, value in plain.items() if unused.get(name, ...) != value}

    def _check_catalogs(self) -> None:
        if not self.catalogs:
            raise ConfigError("catalog: at least one")
        twice = [place for place, number in Counter(self.catalogs).items() if number > 1]
        if twice:
            raise ConfigError(f"catalog {', '.join(twice)} is given more than once")

    def head_specs(self) -> tuple[HeadSpec, ...]:
        """The heads of the file, else of the preset. Raises ``ConfigError``."""
        heads = tuple(head_from_dict(plain) for plain in self.heads) or preset(self.preset)
        names = Counter(head.name for head in heads)
        repeated = [name for name, number in names.items() if number > 1]
        if repeated:
            raise ConfigError(f"[[heads]]: name {', '.join(repeated)} is used more than once")
        self._check_comparisons([head for head in heads if head.COMPARES])
        return heads

    def _check_comparisons(self, heads: Sequence[HeadSpec]) -> None:
        if len(heads) > 1:
            raise ConfigError(
                f"[[heads]]: {' and '.join(head.name for head in heads)} are both of kind {heads[0].kind}; "
                "there is one table of comparisons, for one head"
            )
        if heads and not self.comparisons:
            raise ConfigError(
                f"head {heads[0].name!r} of kind {heads[0].kind} learns from comparisons: give "
                "--comparisons FILE"
            )
        if self.comparisons and not heads:
            raise ConfigError(
                f"--comparisons {self.comparisons}: no head learns from it; add [[heads]] with kind = "
                '"preference"'
            )
