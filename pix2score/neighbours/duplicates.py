"""duplicates: groups of near-identical pictures of the live snapshot, as Parquet."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.catalog.keys import KEY
from pix2score.errors import ConfigError, DataError
from pix2score.neighbours.config import DuplicatesConfig
from pix2score.neighbours.groups import (
    Components,
    Stored,
    Told,
    hashes,
    join_by_index,
    join_copies,
    join_exactly,
)
from pix2score.neighbours.loaded import LoadedIndex, loaded_index
from pix2score.neighbours.vectors import Floats, Positions, check_finite, length, scanner, stored, unit, wide
from pix2score.snapshots.manifest import live
from pix2score.snapshots.read import batches_of, read_embeddings
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.sql import engine, load
from pix2score.summaries import DuplicatesSummary

logger = logging.getLogger(__name__)
EXACT_ROWS = 30_000
"""Most live rows whose every pair is compared: 450 million products, held as 120 MiB of float16[2048]."""
READ_ROWS = 4_096
TOLD_S = 10.0
GROUP, SIMILARITY = "group", "similarity"


@dataclass(slots=True)
class _Rows:
    """Live rows by position: their keys, and their embeddings on demand."""

    ids: pa.Array
    pages: pa.Array
    stored_ND: Stored | None
    index: LoadedIndex | None

    def read(self, positions: Positions) -> Floats:
        """[N, D]."""
        if self.index:
            return self.index.vectors.read(positions)
        assert self.stored_ND is not None, "in memory where there is no index"
        return wide(self.stored_ND[positions])


def duplicates(config: DuplicatesConfig) -> DuplicatesSummary:
    """Write the groups to ``config.out``, which it replaces; return their numbers.

    A group holds pictures that are linked by pairs of a cosine of at least ``threshold``; ``similarity`` is
    that to the group's first, by key. Groups are numbered from 0, the largest first.

    Raises:
        ConfigError: more rows than can be compared pair by pair, and no index of them.
        DataError: no snapshot there.
    """
    started = time.monotonic()
    folder, snapshot = Folder(config.scores), live(config.scores)
    index = loaded_index(folder, snapshot, needed_recall=0)  # of the ten nearest, that may be far
    rows, found, num_rows = _joined(config, snapshot, index)
    table = _table(folder, snapshot, rows, found)
    out = Folder(config.out)
    out.parent.publish(out.name, parquet_bytes(table), replace=True)
    sizes = np.bincount(table.column(GROUP).to_numpy()) if table.num_rows else np.zeros(0, np.int64)
    largest = int(sizes.max()) if len(sizes) else 0
    logger.info(
        "%d groups of near-identical pictures, %d pictures in them; the largest has %d",
        len(sizes), table.num_rows, largest,
    )  # fmt: skip
    return {
        "job": "duplicates",
        "out": out.uri,
        "snapshot": snapshot.number,
        "threshold": config.threshold,
        "rows": num_rows,
        "groups": len(sizes),
        "images": table.num_rows,
        "largest": largest,
        "indexed": index is not None,
        "seconds": round(time.monotonic() - started, 3),
    }


def _joined(
    config: DuplicatesConfig, snapshot: Snapshot, index: LoadedIndex | None
) -> tuple[_Rows, Components, int]:
    """All rows, which of them are joined, and how many are live."""
    rows, hash_N, is_row = _of_index(index) if index else _of_files(config.scores, snapshot)
    found = Components(len(hash_N))
    chosen = join_copies(found, hash_N, is_row)
    if index:
        join_by_index(found, index, chosen, config.threshold, _told(len(chosen), "compared"))
    elif rows.stored_ND is not None:
        join_exactly(found, rows.stored_ND, chosen, config.threshold, _told(len(chosen), "compared"))
    return rows, found, int(is_row.sum())


def _told(num: int, done_to_them: str) -> Told:
    """Logs how many of ``num`` embeddings are done, every ``TOLD_S``."""
    last = [time.monotonic()]

    def tell(done: int) -> None:
        if time.monotonic() - last[0] >= TOLD_S:
            last[0] = time.monotonic()
            logger.info("%d of %d embeddings %s", done, num, done_to_them)

    return tell


def _of_index(index: LoadedIndex) -> tuple[_Rows, npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Rows of an index, hash of each, and whether it is live and not all zeros."""
    found, is_row = [], []
    parts = index.card.parts
    told = _told(parts[-1].first + parts[-1].rows, "read")
    for number, part in enumerate(parts):
        part_ND = index.vectors.part(number)
        for start in range(0, len(part_ND), READ_ROWS):
            block_ND = np.asarray(part_ND[start : start + READ_ROWS])
            found.append(hashes(block_ND))
            is_row.append(block_ND.any(axis=1))
        told(part.first + part.rows)
    alive = np.concatenate(is_row)
    alive[index.gone] = False
    ids, pages = index.keys(np.arange(len(alive)))
    return _Rows(ids, pages, None, index), np.concatenate(found), alive


def _of_files(scores: str, snapshot: Snapshot) -> tuple[_Rows, npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """The same of the embedding files, which are few."""
    num_rows = sum(file.rows for file in snapshot.files_of("embeddings"))
    if num_rows > EXACT_ROWS:
        raise ConfigError(
            f"{num_rows} embeddings are too many to compare every pair (at most {EXACT_ROWS}): make the "
            f"index of {scores} first, by jobs.index"
        )
    table = scanner(read_embeddings(scores, snapshot.number), rows=READ_ROWS).to_table().combine_chunks()
    if not table.num_rows:
        raise DataError(f"snapshot {snapshot.number} of {scores} has no embedding")
    stored_ND = stored(table.column("embedding").combine_chunks())
    check_finite(stored_ND, scores)
    ids, pages = (table.column(name).combine_chunks() for name in KEY)
    return _Rows(ids, pages, stored_ND, None), hashes(stored_ND), np.asarray(stored_ND.any(axis=1))


def _table(folder: Folder, snapshot: Snapshot, rows: _Rows, found: Components) -> pa.Table:
    """``group``, key, ``similarity`` and carried columns of the rows that are joined with others."""
    roots = found.roots()
    sizes = np.bincount(roots, minlength=len(roots))
    members = np.flatnonzero(sizes[roots] > 1)
    keys = pa.table(
        {
            "root": roots[members],
            "size": sizes[roots[members]],
            "position": members,
            "illust_id": rows.ids.take(pa.array(members)),
            "page": rows.pages.take(pa.array(members)),
        }
    )
    ordered = _ordered(keys)
    similarity = _similarity(rows, ordered)
    table = pa.table(
        {
            GROUP: ordered.column("number"),
            "illust_id": ordered.column("illust_id"),
            "page": ordered.column("page"),
            SIMILARITY: similarity,
        }
    )
    return _with_carried(folder, snapshot, table)


def _ordered(keys: pa.Table) -> pa.Table:
    """By group and key, with the group's ``number``: the largest is 0, of equal ones the first by key."""
    with engine() as connection:
        load(connection, "keys", keys.schema, iter(keys.to_batches()))
        return connection.sql(
            "SELECT k.*, g.number FROM keys k JOIN (SELECT root, row_number() OVER (ORDER BY max(size) DESC, "
            "min((illust_id, page))) - 1 AS number FROM keys GROUP BY root) g USING (root) "
            "ORDER BY number, illust_id, page"
        ).to_arrow_table()


def _similarity(rows: _Rows, ordered: pa.Table) -> pa.Array:
    """Cosine of each row with the first of its group."""
    group, position = (ordered.column(name).to_numpy() for name in ("number", "position"))
    first_N = position[np.searchsorted(group, group)]
    found = []
    for start in range(0, len(position), READ_ROWS // 2):
        some = slice(start, start + READ_ROWS // 2)
        own_ND, first_ND = rows.read(position[some]), unit(rows.read(first_N[some]))
        found.append(np.einsum("nd,nd->n", own_ND, first_ND) / length(own_ND))
    return pa.array(np.concatenate(found) if found else np.empty(0), pa.float32())


def _with_carried(folder: Folder, snapshot: Snapshot, table: pa.Table) -> pa.Table:
    """``table`` with the columns that the scores table has of the catalog."""
    carried = list((snapshot.manifest.get("carry") or {"columns": {}})["columns"])
    if not carried or not table.num_rows:
        return table
    names = [*KEY, *carried]
    quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in carried)
    with engine() as connection:
        load(connection, "found", table.schema, iter(table.to_batches()))
        batches = batches_of(folder, snapshot, snapshot.files_of("scores"), names)
        first = next(batches)
        load(connection, "scores", first.schema, _chain(first, batches))
        return connection.sql(
            f"SELECT f.*, {quoted} FROM found f LEFT JOIN scores USING (illust_id, page) "
            'ORDER BY f."group", illust_id, page'
        ).to_arrow_table()


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest
