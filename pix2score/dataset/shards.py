"""Writes fetched images as the shards of a training set: mixed rows, bounded row groups, one file per split.

Owns what a shard file looks like; which rows there are is the matter of ``plan``, the folder around it
``prepare``'s.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.catalog.keys import key_fields
from pix2score.catalog.rows import SOURCE, WEIGHT
from pix2score.dataset.card import SPLITS
from pix2score.heads.compared import OTHERS, num_others
from pix2score.heads.spec import HeadSpec
from pix2score.host.budget import bounded_runs
from pix2score.images import repeats
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes, repeating
from pix2score.storage.receipts import publish_receipt, read_receipts

FAILED = "failed"
"""Split, and folder, of rows whose image gave nothing."""
SHARD_ROWS = 4_096
SHARD_BYTES = 160 * 2**20  # long sequential reads, and still many shards to spread over workers
BYTES_PER_PIXEL = 0.6
ROW_GROUP_BYTES = 32 * 2**20  # a reader holds a whole row group; half of the 64 MB allowed, as images vary
_LARGE = {"data": pa.large_binary(), OTHERS: pa.large_list(pa.large_binary())}
"""Columns of images, in the types that hold more than 2 GiB."""

_SHARD_PATH = re.compile(rf"(?:split=({'|'.join(SPLITS)})|({FAILED}))/part-[0-9a-f]{{16}}\.parquet")


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the dataset, or of its failed rows (``split`` "failed")."""

    split: str
    path: str
    rows: int
    bytes: int
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class ShardReceipt:
    """Proof that a piece of a training set is finished: it names the shards that hold it, written before."""

    piece: str
    rows: int
    shards: tuple[Shard, ...]
    repeated: dict[str, int] = field(default_factory=dict)
    """``repeats.of_piece``."""

    @property
    def attempt(self) -> str:
        """What the pieces of one pipeline have in common: they share no key."""
        return self.piece.rpartition("-")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWriter:
    """Makes a piece of decoded rows.

    One shard per split, failed rows beside them, then a receipt in ``staged``.
    """

    out: Folder
    heads: tuple[HeadSpec, ...]
    schema: pa.Schema
    staged: str

    def __call__(self, piece: str, rows: pa.Table) -> ShardReceipt:
        """Write the shards of ``piece``; return its receipt. Runs in a worker.

        Safe to run twice: a receipt already there wins, other shards are then named by nothing.
        """
        # 64-bit offsets until a row group is cut: a shard of large images passes 2 GiB.
        for name, kind in _LARGE.items():
            if name in rows.column_names:
                place = rows.column_names.index(name)
                rows = rows.set_column(place, name, rows.column(name).cast(kind))
        rows = rows.take(_mixed_order(rows))
        good = rows.filter(pc.is_null(rows.column("error_code")))
        by_split = {split: good.filter(pc.equal(good.column("split"), split)) for split in SPLITS}
        shards = [
            self._write(s, f"split={s}", self._labelled(chosen), {})
            for s, chosen in by_split.items()
            if chosen.num_rows
        ]
        bad = rows.filter(pc.is_valid(rows.column("error_code")))
        if bad.num_rows:
            names = [*(f.name for f in key_fields(pa.int64())), "uri", "split", "error_code", "error_detail"]
            errors = dict(Counter(bad.column("error_code").to_pylist()))
            shards.append(self._write(FAILED, FAILED, bad.select(names), errors))
        receipt = ShardReceipt(piece, rows.num_rows, tuple(shards), repeats.of_piece(rows))
        named = [shard.path for shard in shards]
        return publish_receipt(self.out, f"{self.staged}/{piece}.json", receipt, named, _read_receipt)

    def _labelled(self, rows: pa.Table) -> pa.Table:
        columns = {
            name: rows.column(name)
            for name in ("illust_id", "page", "group", SOURCE, WEIGHT)
            if name in rows.column_names
        }
        columns["image"] = rows.column("data")
        columns |= {OTHERS: rows.column(OTHERS)} if OTHERS in rows.column_names else {}
        for head in self.heads:
            labels = rows.column(f"{head.name}_label").combine_chunks()
            columns |= {f"{head.name}_label": labels, head.target_field().name: head.encode(labels)}
        return pa.table({name: columns[name] for name in self.schema.names})

    def _write(self, split: str, folder: str, table: pa.Table, errors: dict[str, int]) -> Shard:
        data = _shard_bytes(table, self.schema) if "image" in table.column_names else parquet_bytes(table)
        path = f"{folder}/part-{uuid.uuid4().hex[:16]}.parquet"
        return Shard(split, path, table.num_rows, self.out.publish(path, data), errors)


def staged_shards(out: Folder, staged: str) -> list[ShardReceipt]:
    """Receipts of the finished pieces below ``staged``; the shards that they name may be missing.

    One that cannot be read is left out with a warning.
    """
    paths = [f"{staged}/{entry.path}" for entry in (out / staged).top_entries(suffix=".json")]
    return read_receipts(out, paths, lambda _, data: _read_receipt(data))


def _read_receipt(data: bytes) -> ShardReceipt:
    plain = json.loads(data)
    shards = tuple(Shard(**shard) for shard in plain["shards"])
    receipt = ShardReceipt(plain["piece"], plain["rows"], shards, plain.get("repeated", {}))
    if not isinstance(receipt.piece, str) or not all(map(_is_shard, receipt.shards)):
        raise ValueError("it names what no shard is")
    if sum(shard.rows for shard in receipt.shards) != receipt.rows:
        raise ValueError("its shards hold another number of rows")
    return receipt


def _is_shard(shard: Shard) -> bool:
    """Whether it is one that a ``ShardWriter`` could have named: nothing else may be counted, or removed."""
    found = _SHARD_PATH.fullmatch(shard.path)
    is_named = found is not None and shard.split == (found[1] or found[2])
    numbers = [shard.rows, shard.bytes, *shard.errors.values()]
    are_counts = all(type(number) is int and number > 0 for number in numbers)
    return (
        is_named and are_counts and sum(shard.errors.values()) == (shard.rows if shard.split == FAILED else 0)
    )


def shard_rows_of(image_size: int) -> int:
    """Rows of a shard of about ``SHARD_BYTES``.

    By the size that photographs of ``image_size`` px have as JPEG 95.
    """
    return int(np.clip(SHARD_BYTES / (BYTES_PER_PIXEL * image_size**2), 64, SHARD_ROWS))


def _shard_bytes(table: pa.Table, schema: pa.Schema) -> bytes:
    """The table as Parquet whose row groups hold at most ``ROW_GROUP_BYTES`` of images, or one image."""
    sizes = pc.binary_length(table.column("image")).to_numpy().astype(np.int64)
    if OTHERS in table.column_names:
        sizes += _bytes_of_lists(table.column(OTHERS))
    sink = pa.BufferOutputStream()
    # Encoded images do not compress: a stronger codec would only cost time on them.
    with pq.ParquetWriter(sink, schema, compression="snappy", use_dictionary=repeating(schema)) as writer:
        for start, stop in bounded_runs(sizes, ROW_GROUP_BYTES):
            group = table.take(
                pa.array(range(start, stop))
            )  # unlike a slice, its offsets begin at 0 and fit 32 bits
            writer.write_table(group.cast(schema), row_group_size=stop - start)
    return bytes(sink.getvalue())


def _bytes_of_lists(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Bytes of each list of binaries, [N]."""
    lists = column.combine_chunks()
    of_item = pc.binary_length(lists.flatten()).to_numpy(zero_copy_only=False).astype(np.int64)
    row = np.repeat(np.arange(len(lists)), num_others(column))
    return np.bincount(row, of_item, len(lists)).astype(np.int64)


def _mixed_order(rows: pa.Table) -> pa.Array:
    """Order by hash of the key: mixed, and the same whichever task was done first."""
    keys = zip(rows.column("illust_id").to_pylist(), rows.column("page").to_pylist(), strict=True)
    digests = [hashlib.md5(f"{id_}/{page}".encode(), usedforsecurity=False).digest() for id_, page in keys]
    return pa.array(sorted(range(len(digests)), key=digests.__getitem__))
