"""prepare: a catalog becomes a training set of mixed Parquet shards, with bins learnt from its train split.

Owns the dataset folder:

    dataset.json                       written last: heads with edges, counts, what was dropped and why, the list of shards
    split=train|val|test/part-*.parquet   ``schema.dataset_schema``
    failed/part-*.parquet              key, error_code and error_detail of rows whose image gave nothing
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import tyro

from pix2score.account import recorded
from pix2score.catalog import Catalog, Columns, open_catalog
from pix2score.cluster import Offer, on_cluster, session
from pix2score.command import as_plain
from pix2score.dataset import CARD, FORMAT
from pix2score.errors import ConfigError, ConflictError, DataError, StorageError
from pix2score.fetch import ImageRows, decoded_rows, log_failures, total_rows
from pix2score.heads import HeadSpec, head_from_dict, preset
from pix2score.image_source import image_source
from pix2score.plan import Part, PlanCounts
from pix2score.progress import board
from pix2score.schema import SPLITS, dataset_schema
from pix2score.shards import Shard, ShardSink
from pix2score.storage import Folder
from pix2score.training_plan import SplitRule, label_types, plan_dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """Settings of ``jobs.prepare``."""

    catalog: str
    """Parquet file, or folder of them: a local path or s3://bucket/prefix."""
    out: str
    """Where the dataset goes: a local folder or s3://bucket/prefix."""
    image_size: int = 256
    """Images with a longer short side are shrunk to this many px (and re-encoded as JPEG 95); never enlarged."""
    val_fraction: float = 0.05
    """Share of groups that measure the model while it trains."""
    test_fraction: float = 0.05
    """Share of groups kept for the final evaluation."""
    max_pages: int = 4
    """Pages per work that are kept; every page carries the work's labels."""
    preset: str = "pixiv"
    """Heads with published edges on columns bookmarks, views, sanity; [[heads]] in --config replaces them."""
    image_root: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another place that catalog uris may point into, beside the catalog's folder; may be repeated."""
    columns: Columns = field(default_factory=Columns)
    heads: tyro.conf.Suppress[tuple[dict[str, Any], ...]] = ()

    def __post_init__(self) -> None:
        if not 8 <= self.image_size <= 4096:
            raise ConfigError(f"image_size {self.image_size} px: expected 8 to 4096")
        for name, share in (("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)):
            if not 0 <= share < 1:
                raise ConfigError(f"{name} {share}: expected 0 to 1")
        if self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave nothing to train on")
        if self.max_pages < 1:
            raise ConfigError(f"max_pages {self.max_pages}: at least 1")
        self.head_specs()

    def head_specs(self) -> tuple[HeadSpec, ...]:
        """The heads of the file, else of the preset. Raises ``ConfigError``."""
        heads = tuple(head_from_dict(plain) for plain in self.heads) or preset(self.preset)
        names = Counter(head.name for head in heads)
        repeated = [name for name, number in names.items() if number > 1]
        if repeated:
            raise ConfigError(f"[[heads]]: name {', '.join(repeated)} is used more than once")
        return heads


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """The dataset stands at ``config.out``; its counts come back.

    Raises:
        DataError: no catalog, a column missing, nothing to train on, or ``out`` already holds a dataset.
        ConfigError: the settings contradict each other.
    """
    heads = config.head_specs()
    catalog = open_catalog(config.catalog, config.columns, list(dict.fromkeys(head.column for head in heads)))
    source = image_source(catalog.folder.uri, config.image_root)
    out = Folder(config.out)
    _refuse_catalogs_own_folder(catalog, out)
    if out.is_file(CARD):
        raise DataError(f"{config.out} already holds a dataset; give another --out, or remove it first")
    with session() as offer, recorded(out, "summary.json", {"job": "prepare", "out": out.uri}) as summary:
        _warn_of_leftovers(out)
        staged = f"staged/{uuid.uuid4().hex[:12]}"
        rule = SplitRule(val_fraction=config.val_fraction, test_fraction=config.test_fraction, max_pages=config.max_pages)
        parts, counts, fitted = on_cluster(plan_dataset, catalog, heads, rule, out, f"{staged}/plan")
        _warn(heads, fitted, counts)
        shards = _write_shards(config, catalog, ImageRows.of(catalog, source), parts, fitted, out, offer)
        _check_failures(shards, parts, catalog, out)
        content = _dataset_card(config, catalog, fitted, counts, shards)
        _publish_card(out, content)
        out.delete([part.path for part in parts])
        summary.update(_summary(content))
    return summary


def _refuse_catalogs_own_folder(catalog: Catalog, out: Folder) -> None:
    """A dataset among the files of the catalog would be read as part of it."""
    inside = out.uri == catalog.folder.uri or out.uri.startswith(f"{catalog.folder.uri.rstrip('/')}/")
    nested = any("/" in entry.path for entry in catalog.files)
    if out.uri == catalog.folder.uri or (inside and nested):
        raise ConfigError(
            f"--out {out.uri} lies in the catalog's own folder {catalog.folder.uri}, which is never written; give another"
        )


def _warn_of_leftovers(out: Folder) -> None:
    """Nothing that stands there is removed: it may be another prepare at work, or somebody else's."""
    old = [entry for split in SPLITS for entry in out.entries(f"split={split}", suffix=".parquet")]
    if old:
        logger.warning("%d files of an unfinished attempt stand in %s; dataset.json will not name them", len(old), out.uri)


def _publish_card(out: Folder, content: dict[str, Any]) -> None:
    """The moment at which the dataset exists."""
    try:
        out.publish(CARD, json.dumps(content, indent=1, ensure_ascii=False).encode())
    except FileExistsError:
        raise ConflictError(f"another prepare finished a dataset in {out.uri} first; give another --out") from None


def _warn(asked: Sequence[HeadSpec], fitted: Sequence[HeadSpec], counts: PlanCounts) -> None:
    for wanted, head in zip(asked, fitted, strict=True):
        if wanted.needs_learning and head.num_bins != wanted.size:
            logger.warning("head %s: ties merged %s bins into %d", head.name, wanted.size, head.num_bins)
        empty = [k for k, number in enumerate(head.counts or ()) if not number]
        if empty:
            logger.warning("head %s: no training image in bin %s", head.name, ", ".join(map(str, empty)))
    for name, dropped in counts.dropped_labels.items():
        for reason, number in dropped.items():
            logger.warning("head %s: %d labels dropped as %s", name, number, reason)


def _write_shards(
    config: PrepareConfig,
    catalog: Catalog,
    images: ImageRows,
    parts: Sequence[Part],
    heads: Sequence[HeadSpec],
    out: Folder,
    offer: Offer,
) -> list[Shard]:
    """read -> fetch and shrink -> write, as one streaming Ray Data execution."""
    sink = ShardSink(out, heads, config.image_size, dataset_schema(catalog.id_type, label_types(catalog, heads)))
    num_planned = total_rows(parts)
    logger.info("preparing %d images", num_planned)
    with board("prepared", num_planned, logger) as progress:
        decoded_rows(out, parts, images, config.image_size, offer, progress).write_datasink(sink)
    num_written = sum(shard.rows for shard in sink.shards)
    if num_written != num_planned:
        raise StorageError(f"planned {num_planned} images, wrote {num_written}: no dataset was made")
    return sorted(sink.shards, key=lambda shard: shard.path)


def _failed(shards: Sequence[Shard]) -> Counter[str]:
    failed: Counter[str] = Counter()
    for shard in shards:
        failed.update(shard.errors)
    return failed


def _check_failures(shards: Sequence[Shard], parts: Sequence[Part], catalog: Catalog, out: Folder) -> None:
    """Failures are logged; a dataset without a training image is none."""
    failed = _failed(shards)
    log_failures(failed, catalog)
    if not any(shard.split == "train" for shard in shards):
        out.delete([*(shard.path for shard in shards), *(part.path for part in parts)])
        codes = ", ".join(f"{number} {code}" for code, number in failed.most_common())
        raise DataError(f"no training image of catalog {catalog.folder.uri} could be read ({codes}): no dataset was made")


def _dataset_card(
    config: PrepareConfig, catalog: Catalog, heads: Sequence[HeadSpec], counts: PlanCounts, shards: Sequence[Shard]
) -> dict[str, Any]:
    """Content of dataset.json."""
    per_split = {split: sum(s.rows for s in shards if s.split == split) for split in SPLITS}
    return {
        "format": FORMAT,
        "heads": [head.to_dict() for head in heads],
        "id_type": str(catalog.id_type),
        "label_types": {name: str(kind) for name, kind in label_types(catalog, heads)},
        "image_size": config.image_size,
        "rows": per_split,
        "dropped": {**counts.to_dict(), "failed_images": dict(_failed(shards))},
        "shards": [asdict(shard) for shard in shards if shard.split in SPLITS],
        "catalog": {"uri": catalog.folder.uri, "files": [asdict(entry) for entry in catalog.files]},
        "config": as_plain(config),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _summary(content: dict[str, Any]) -> dict[str, Any]:
    heads = {head["name"]: len(head["counts"]) for head in content["heads"]}
    return {"rows": content["rows"], "bins": heads, "dropped": content["dropped"], "shards": len(content["shards"])}
