"""The keys of scores, embeddings and dead beside each other, as ``verify`` compares them.

Every ok row must have its embedding, and every embedding be that of an ok row or listed as dead. Embedding
files hold keys that are near by hash, so a task that compares those of some hashes opens few of them; but
scores are in order of keys, and each such task would have to read all of them. So the keys of ok rows
are summed, as hashes of 64 bits, by the tasks that read the table anyway, and compared with the sum of the
embeddings that are not dead; where the two differ, all keys of these hashes are compared, to say what is
wrong. What is wrong by accident has the same sum once in 2^64 times. Sums are of narrow ranges of hashes,
which are compared many at a time, so that keys that are wrong all over cost few readings of the scores.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY
from pix2score.host.executor import Executor
from pix2score.snapshots.checks import key_problems
from pix2score.snapshots.dead import HASH, Hashes, dead_batches, hashes_of, of_run
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import OK, DataFile, Layout, dead_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.sql import engine, load

Bounds: TypeAlias = tuple[int, int]
PART_ROWS = 16_000_000
"""Embeddings whose keys one task compares."""
RANGES = 256
"""Of hashes, in a part: each with a sum of its own."""
TASK_BYTES = 512 * 2**20
"""Memory of a task's DuckDB."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedding file, and the smallest and greatest hash of its keys."""

    file: DataFile
    first: int
    last: int


@dataclass(slots=True)
class Sums:
    """Number of rows, and sum of the hashes of key and run, by range."""

    rows: Counter[int] = field(default_factory=Counter)
    hashes: Counter[int] = field(default_factory=Counter)

    def add(self, other: Sums) -> None:
        """Take in other rows."""
        self.rows.update(other.rows)
        self.hashes.update(other.hashes)

    def differing(self, other: Sums) -> list[int]:
        """Ranges of which the two have another sum, ascending."""
        return [
            number
            for number in sorted(self.rows.keys() | other.rows.keys())
            if (self.rows[number], self.hashes[number]) != (other.rows[number], other.hashes[number])
        ]


def num_ranges(snapshot: Snapshot) -> int:
    """In how many equal ranges of hashes the keys are summed: ``RANGES`` for each part."""
    rows = sum(file.rows for files in snapshot.some_files("embeddings") for file in files)
    return max(1, -(-rows // PART_ROWS)) * RANGES


def live_sums(connection: duckdb.DuckDBPyConnection, run: str, number: int) -> Sums:
    """Of the ok rows in table ``scores``; ``run``: the column that names the run of a row's embedding."""
    return _sums(
        connection, f"SELECT illust_id, page, {run} AS run FROM scores WHERE status = '{OK}'", number
    )


def _sums(connection: duckdb.DuckDBPyConnection, rows: str, number: int) -> Sums:
    """Of the keys and runs of an SQL query. A row without a run has an empty one."""
    sql = (
        f"SELECT CAST(({HASH})::HUGEINT * {number} // 18446744073709551616 AS BIGINT) AS range, count(*), "
        "sum(md5_number_lower(concat_ws('/', illust_id, page, coalesce(run, '')))::HUGEINT) "
        f"FROM ({rows}) GROUP BY ALL"
    )
    found = Sums()
    for range_, rows_, hashes in connection.sql(sql).fetchall():
        found.rows[range_], found.hashes[range_] = rows_, int(hashes)
    return found


def compare_keys(
    folder: Folder, snapshot: Snapshot, embedded: Sequence[Embedded], live: Sums, executor: Executor
) -> Counter[str]:
    """What is wrong -> number of keys of which it is. ``live``: ``live_sums`` of all rows, added up."""
    number, layout, dead = num_ranges(snapshot), snapshot.layout, snapshot.files_of("dead")

    def rows_of(ranges: Sequence[int]) -> tuple[Any, ...]:
        bounds = _bounds(ranges, number)
        return folder, layout, _within(embedded, bounds), _dead_within(dead, bounds), bounds

    undead = Sums()
    parts = [range(i, i + RANGES) for i in range(0, number, RANGES)]
    for sums in executor.each(undead_sums, [(*rows_of(part), number) for part in parts]):
        undead.add(sums)
    differing = undead.differing(live)
    scores = snapshot.files_of("scores") if differing else []
    some = [differing[i : i + RANGES] for i in range(0, len(differing), RANGES)]
    wrong: Counter[str] = Counter()
    for one in executor.each(check_keys, [(*rows_of(ranges), scores) for ranges in some]):
        wrong.update(one)
    return wrong


def _bounds(ranges: Sequence[int], number: int) -> list[Bounds]:
    """First and last hash of each stretch of ascending ``ranges`` of ``number``."""
    found = list[Bounds]()
    for one in ranges:
        first, last = -(-(2**64 * one) // number), -(-(2**64 * (one + 1)) // number) - 1
        if found and found[-1][1] == first - 1:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def _within(embedded: Sequence[Embedded], bounds: Sequence[Bounds]) -> list[DataFile]:
    return [one.file for one in embedded if _meets(one.first, one.last, bounds)]


def _dead_within(dead: Sequence[DataFile], bounds: Sequence[Bounds]) -> list[DataFile]:
    named = ((file, of_run(file)) for file in dead)
    return [file for file, name in named if name is None or _meets(name.first, name.last, bounds)]


def _meets(first: int, last: int, bounds: Sequence[Bounds]) -> bool:
    """Whether hashes from ``first`` to ``last`` may be within ascending ``bounds``."""
    following = bisect_left(bounds, first, key=lambda one: one[1])  # the first that ends there or later
    return following < len(bounds) and bounds[following][0] <= last


def undead_sums(
    folder: Folder,
    layout: Layout,
    embeddings: Sequence[DataFile],
    dead: Sequence[DataFile],
    bounds: Sequence[Bounds],
    number: int,
) -> Sums:
    """One task: of the embeddings with hashes within ``bounds`` that are not listed as dead."""
    with engine(TASK_BYTES) as connection:
        _load_embedded(connection, folder, layout, embeddings, dead, bounds)
        return _sums(
            connection, "SELECT * FROM embeddings ANTI JOIN dead USING (illust_id, page, run)", number
        )


def check_keys(
    folder: Folder,
    layout: Layout,
    embeddings: Sequence[DataFile],
    dead: Sequence[DataFile],
    bounds: Sequence[Bounds],
    scores: Sequence[DataFile],
) -> Counter[str]:
    """One task: what is wrong with keys whose hash is within ``bounds``, each with the run of its
    embedding."""
    with engine(TASK_BYTES) as connection:
        _load_embedded(connection, folder, layout, embeddings, dead, bounds)
        _load(connection, "live", layout, _live_keys(folder, layout, scores), bounds)
        return key_problems(connection)


def _load_embedded(
    connection: duckdb.DuckDBPyConnection,
    folder: Folder,
    layout: Layout,
    embeddings: Sequence[DataFile],
    dead: Sequence[DataFile],
    bounds: Sequence[Bounds],
) -> None:
    """Tables ``embeddings`` and ``dead``: keys within ``bounds``, with runs."""
    _load(connection, "embeddings", layout, _embedded_keys(folder, embeddings), bounds)
    rows = (pa.Table.from_batches([batch]) for batch in dead_batches(folder, dead, layout.id_type))
    _load(connection, "dead", layout, rows, bounds)


def _load(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    layout: Layout,
    keys: Iterator[pa.Table],
    bounds: Sequence[Bounds],
) -> None:
    schema = dead_schema(layout.id_type)
    some = (batch for table in keys for batch in _of_bounds(table, bounds).cast(schema).to_batches())
    load(connection, name, schema, some)


def _of_bounds(keys: pa.Table, bounds: Sequence[Bounds]) -> pa.Table:
    if bounds == [(0, 2**64 - 1)] or not keys.num_rows:
        return keys
    return keys.filter(pa.array(_are_within(hashes_of(keys), bounds)))


def _are_within(hashes: Hashes, bounds: Sequence[Bounds]) -> npt.NDArray[np.bool_]:
    firsts, lasts = np.array(bounds, np.uint64).T
    before = np.searchsorted(firsts, hashes, side="right")  # bounds that begin at a hash or below
    return np.asarray((before > 0) & (hashes <= lasts[before - 1]))


def _live_keys(folder: Folder, layout: Layout, files: Sequence[DataFile]) -> Iterator[pa.Table]:
    columns = [*KEY, layout.embedding_run, "status"]
    for batch in parquet_batches(folder, [file.path for file in files], columns):
        rows = pa.Table.from_batches([batch]).filter(pc.field("status") == OK)
        # Null is the run of no embedding, and verify says so: a text that is none
        runs = pc.fill_null(rows.column(layout.embedding_run), "")
        yield pa.table([*(rows.column(name) for name in KEY), runs], names=[*KEY, "run"])


def _embedded_keys(folder: Folder, files: Sequence[DataFile]) -> Iterator[pa.Table]:
    for file in files:
        for batch in parquet_batches(folder, [file.path], list(KEY)):
            rows = pa.Table.from_batches([batch])
            yield rows.append_column("run", pa.repeat(pa.scalar(file.run), batch.num_rows))
