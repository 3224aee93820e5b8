"""Which shards of earlier attempts a new one resumes: whole ones, each key once.

What does not fit is done again, never an error.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pix2score.catalog.keys import key_fields
from pix2score.dataset.card import SPLITS
from pix2score.dataset.shards import FAILED, Shard, ShardReceipt
from pix2score.errors import RETRIED_ERROR_CODES, DataError
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet
from pix2score.storage.sql import engine, load

logger = logging.getLogger(__name__)
NUM_READERS = 16  # shards whose keys are read at a time: on S3 each costs some requests


@dataclass(frozen=True, slots=True)
class ResumedShards:
    """Shards whose rows are done, and those that a receipt names but whose rows are done again."""

    shards: tuple[Shard, ...] = ()
    left_out: tuple[Shard, ...] = ()

    @property
    def rows(self) -> int:
        """Rows that are done."""
        return sum(shard.rows for shard in self.shards)


def resume_shards(out: Folder, receipts: Sequence[ShardReceipt], schema: pa.Schema) -> ResumedShards:
    """What of ``receipts`` is resumed; ``schema``: of a training shard.

    A shard is, if it exists with its size, is of this schema and holds its number of rows, and none of its
    keys is in a shard chosen before: attempts that did most go first. A shard of failed rows is not if one of
    them may succeed today: they are tried again. Runs in a worker: reads the keys of all shards.
    """
    named = _in_order(receipts)
    found = {
        entry.path: entry.size
        for top in (*(f"split={split}" for split in SPLITS), FAILED)
        for entry in out.entries(top)
    }
    final = [shard for shard in named if not shard.errors.keys() & set(RETRIED_ERROR_CODES)]
    with engine() as connection:
        whole = _load_keys(
            connection, out, [shard for shard in final if found.get(shard.path) == shard.bytes], schema
        )
        chosen = _disjoint(connection, whole)
    paths = {shard.path for shard in chosen}
    _warn(
        len(final) - len(whole),
        len(whole) - len(chosen),
        sum(shard.rows for shard in named if shard.path not in paths),
    )
    return ResumedShards(tuple(chosen), tuple(shard for shard in named if shard.path not in paths))


def _in_order(receipts: Sequence[ShardReceipt]) -> list[Shard]:
    """Every shard once, best attempt first; failed rows last, as another attempt may have read the image."""
    done: Counter[str] = Counter()
    for receipt in receipts:
        done[receipt.attempt] += receipt.rows
    ranked = sorted(receipts, key=lambda receipt: (-done[receipt.attempt], receipt.piece))
    shards = {shard.path: shard for receipt in ranked for shard in receipt.shards}
    return sorted(shards.values(), key=lambda shard: shard.split == FAILED)


def _load_keys(
    connection: duckdb.DuckDBPyConnection, out: Folder, shards: Sequence[Shard], schema: pa.Schema
) -> list[Shard]:
    """Load table ``keys`` of those ``shards`` that hold what they should; return those.

    Each key with the place of its shard in what is returned.
    """
    keys = pa.schema(
        [
            field.with_nullable(True)
            for field in schema
            if field.name in {f.name for f in key_fields(pa.int64())}
        ]
    )
    whole: list[Shard] = []

    def batches() -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(NUM_READERS) as pool:
            for start in range(0, len(shards), NUM_READERS):
                some = shards[start : start + NUM_READERS]
                for shard, found in zip(
                    some, pool.map(lambda s: _keys(out, s, schema, keys), some), strict=True
                ):
                    if found is not None:
                        number = pa.array([len(whole)] * found.num_rows, pa.int32())
                        whole.append(shard)
                        yield from found.append_column("shard", number).combine_chunks().to_batches()

    load(connection, "keys", keys.append(pa.field("shard", pa.int32())), batches())
    return whole


def _keys(out: Folder, shard: Shard, schema: pa.Schema, keys: pa.Schema) -> pa.Table | None:
    """Keys of a shard; None if it is not what its receipt says."""
    try:
        with open_parquet(out, shard.path) as file:
            if not _fits(file.schema_arrow, keys if shard.split == FAILED else schema):
                return None
            table = file.read(columns=keys.names).select(keys.names).cast(keys)
    except (DataError, FileNotFoundError, pa.ArrowException):
        return None
    is_whole = table.num_rows == shard.rows and not any(column.null_count for column in table.columns)
    return table if is_whole else None


def _fits(found: pa.Schema, wanted: pa.Schema) -> bool:
    return all(found.names.count(f.name) == 1 and found.field(f.name).type.equals(f.type) for f in wanted)


def _disjoint(connection: duckdb.DuckDBPyConnection, shards: Sequence[Shard]) -> list[Shard]:
    """Those that share no key with one before them, nor hold one twice."""
    connection.execute(
        "CREATE TABLE shared AS SELECT * FROM keys SEMI JOIN "
        "(SELECT illust_id, page FROM keys GROUP BY ALL HAVING count(*) > 1) USING (illust_id, page)"
    )
    twice = connection.execute(
        "SELECT DISTINCT shard FROM (FROM shared GROUP BY ALL HAVING count(*) > 1)"
    ).fetchall()
    pairs = connection.execute(
        "SELECT DISTINCT a.shard, b.shard FROM shared a JOIN shared b USING (illust_id, page) WHERE a.shard "
        "< b.shard"
    ).fetchall()
    before: dict[int, set[int]] = defaultdict(set)
    for first, second in pairs:
        before[second].add(first)
    chosen: set[int] = set()
    for number in range(len(shards)):
        if (number,) not in twice and not before[number] & chosen:
            chosen.add(number)
    return [shards[number] for number in sorted(chosen)]


def _warn(num_damaged: int, num_overlapping: int, num_rows: int) -> None:
    if num_damaged:
        logger.warning(
            "%d shards of earlier attempts are missing, cut or of another kind: their images are done again",
            num_damaged,
        )
    if num_overlapping:
        logger.warning(
            "%d shards of earlier attempts hold images of another one: each image counts once",
            num_overlapping,
        )
    if num_rows:
        logger.info("%d images of earlier attempts are done again or are elsewhere", num_rows)
