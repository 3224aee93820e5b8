"""prepare: a catalog becomes a training set of mixed Parquet shards, with bins learnt from its train split.

Owns the dataset folder:

    dataset.json                       written last: heads with edges, counts, what was dropped and why, the list of shards
    split=train|val|test/part-*.parquet   ``schema.dataset_schema``
    failed/part-*.parquet              key, error_code and error_detail of rows whose image gave nothing
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tyro
from ray.data import Datasink
from ray.data.block import Block

from pix2score.account import recorded
from pix2score.catalog import Catalog, Columns, open_catalog
from pix2score.cluster import Offer, on_cluster, session
from pix2score.command import as_plain
from pix2score.dataset import CARD, FORMAT
from pix2score.engine import parquet_bytes
from pix2score.errors import ConfigError, DataError, StorageError
from pix2score.fetch import ImageRows, decoded_rows, log_failures, total_rows
from pix2score.heads import HeadSpec, head_from_dict, preset
from pix2score.image_source import image_source
from pix2score.plan import SPLITS, Part, PlanCounts, SplitRule, label_types, plan_dataset
from pix2score.progress import board
from pix2score.schema import dataset_schema, key_fields
from pix2score.storage import Folder

logger = logging.getLogger(__name__)

SHARD_ROWS = 4_096  # about 150 MB at 256 px: long sequential reads; a writer holds one shard in memory
ROW_GROUP_BYTES = 32 * 2**20  # a reader holds a whole row group; half of the 64 MB allowed, as images vary


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


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the dataset, or of its failed rows (``split`` "failed")."""

    split: str
    path: str
    rows: int
    bytes: int
    errors: dict[str, int]


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
    if out.is_file(CARD):
        raise DataError(f"{config.out} already holds a dataset; give another --out, or remove it first")
    with session() as offer, recorded(out, "summary.json", {"job": "prepare", "out": out.uri}) as summary:
        _remove_leftovers(out)
        staged = f"staged/{uuid.uuid4().hex[:12]}"
        rule = SplitRule(val_fraction=config.val_fraction, test_fraction=config.test_fraction, max_pages=config.max_pages)
        parts, counts, fitted = on_cluster(plan_dataset, catalog, heads, rule, out, f"{staged}/plan")
        _warn(heads, fitted, counts)
        shards = _write_shards(config, catalog, ImageRows.of(catalog, source), parts, fitted, out, offer)
        _check_failures(shards, catalog, out)
        content = _dataset_card(config, catalog, fitted, counts, shards)
        out.publish(CARD, json.dumps(content, indent=1, ensure_ascii=False).encode())
        out.delete([part.path for part in parts])
        summary.update(_summary(content))
    return summary


def _remove_leftovers(out: Folder) -> None:
    """Files of an attempt that never wrote dataset.json, so that nobody who lists the folder sees them."""
    old = [e.path for name in (*(f"split={s}" for s in SPLITS), "failed", "staged") for e in out.entries(name, suffix=".parquet")]
    if old:
        logger.info("removing %d files of an unfinished attempt in %s", len(old), out.uri)
        out.delete(old)


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
    sink = ShardSink(out, heads, dataset_schema(catalog.id_type, label_types(catalog, heads)))
    num_planned = total_rows(parts)
    logger.info("preparing %d images", num_planned)
    with board("prepared", num_planned, logger) as progress:
        decoded_rows(out, parts, images, config.image_size, offer, progress).write_datasink(sink)
    num_written = sum(shard.rows for shard in sink.shards)
    if num_written != num_planned:
        raise StorageError(f"planned {num_planned} images, wrote {num_written}: no dataset was made")
    return sorted(sink.shards, key=lambda shard: shard.path)


class ShardSink(Datasink[list[Shard]]):
    """Writes decoded rows as one shard per split; failed rows beside them."""

    def __init__(self, out: Folder, heads: Sequence[HeadSpec], schema: pa.Schema) -> None:
        self._out, self._heads, self._schema = out, tuple(heads), schema
        self.shards: list[Shard] = []

    @property
    def min_rows_per_write(self) -> int:
        """Rows per shard."""
        return SHARD_ROWS

    def write(self, blocks: Iterable[Block], _ctx: Any) -> list[Shard]:
        """Runs in a worker; a task that Ray runs twice leaves files that no dataset.json names."""
        rows = pa.concat_tables(list(blocks))
        if not rows.num_rows:
            return []
        rows = rows.take(_mixed_order(rows))
        shards = []
        good = rows.filter(pc.is_null(rows.column("error_code")))
        for split in SPLITS:
            chosen = good.filter(pc.equal(good.column("split"), split))
            if chosen.num_rows:
                shards.append(self._write(split, f"split={split}", self._labelled(chosen), {}))
        bad = rows.filter(pc.is_valid(rows.column("error_code")))
        if bad.num_rows:
            names = [*(f.name for f in key_fields(pa.int64())), "uri", "split", "error_code", "error_detail"]
            errors = dict(Counter(bad.column("error_code").to_pylist()))
            shards.append(self._write("failed", "failed", bad.select(names), errors))
        return shards

    def on_write_complete(self, write_result: Any) -> None:
        """Runs in the driver once all shards are written."""
        self.shards = [shard for shards in write_result.write_returns for shard in shards]

    def _labelled(self, rows: pa.Table) -> pa.Table:
        columns = {name: rows.column(name) for name in ("illust_id", "page", "group")}
        columns["image"] = rows.column("data")
        for head in self._heads:
            labels = rows.column(f"{head.name}_label").combine_chunks()
            values = labels.fill_null(0).to_numpy(zero_copy_only=False)
            present = labels.is_valid().to_numpy(zero_copy_only=False)
            columns |= {f"{head.name}_label": labels, f"{head.name}_bin": pa.array(head.encode(values, present))}
        return pa.table([columns[name] for name in self._schema.names], schema=self._schema)

    def _write(self, split: str, folder: str, table: pa.Table, errors: dict[str, int]) -> Shard:
        data = _shard_bytes(table) if "image" in table.column_names else parquet_bytes(table)
        path = f"{folder}/part-{uuid.uuid4().hex[:16]}.parquet"
        return Shard(split, path, table.num_rows, self._out.publish(path, data), errors)


def _shard_bytes(table: pa.Table) -> bytes:
    """The table as Parquet whose row groups hold at most ``ROW_GROUP_BYTES`` of images, or one image."""
    sizes = pc.binary_length(table.column("image")).to_numpy().astype(np.int64)
    sink = pa.BufferOutputStream()
    # Encoded images do not compress: a stronger codec would only cost time on them.
    with pq.ParquetWriter(sink, table.schema, compression="snappy") as writer:
        for start, stop in row_group_bounds(sizes, ROW_GROUP_BYTES):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
    return bytes(sink.getvalue())


def row_group_bounds(sizes: npt.NDArray[np.int64], most_bytes: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive runs of rows whose sizes add up to at most ``most_bytes``; a larger row stands alone."""
    start, total = 0, 0
    for row, size in enumerate(sizes):
        if row > start and total + size > most_bytes:
            yield start, row
            start, total = row, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


def _mixed_order(rows: pa.Table) -> pa.Array:
    """Order by hash of the key: mixed, and the same whichever task was done first."""
    keys = zip(rows.column("illust_id").to_pylist(), rows.column("page").to_pylist(), strict=True)
    digests = [hashlib.md5(f"{id_}/{page}".encode(), usedforsecurity=False).digest() for id_, page in keys]
    return pa.array(sorted(range(len(digests)), key=digests.__getitem__))


def _failed(shards: Sequence[Shard]) -> Counter[str]:
    failed: Counter[str] = Counter()
    for shard in shards:
        failed.update(shard.errors)
    return failed


def _check_failures(shards: Sequence[Shard], catalog: Catalog, out: Folder) -> None:
    """Failures are logged; a dataset without a training image is none."""
    failed = _failed(shards)
    log_failures(failed, catalog)
    if not any(shard.split == "train" for shard in shards):
        _remove_leftovers(out)
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
