"""Live embeddings, labels and answers brought together by key.

Embeddings are streamed, always in the same order: the place of a row in it is its ``position``. Everything
else is joined with the positions in an embedded database, out of core.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.dataset as pds

from pix2score.catalog.keys import KEY
from pix2score.errors import DataError
from pix2score.kpi.label_rows import load_side
from pix2score.kpi.labels import Labels, SideColumn
from pix2score.snapshots.manifest import live
from pix2score.snapshots.read import read_embeddings, read_scores
from pix2score.snapshots.tables import Layout
from pix2score.storage.quoting import identifier
from pix2score.storage.sql import engine, load, one_row

BLOCK_ROWS = 4_096
READAHEAD_BLOCKS = 1
NUM_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Source:
    """One snapshot of a scores folder."""

    place: str
    snapshot: int
    model_version: str
    layout: Layout

    def blocks(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """Keys, and the other ``columns``, of all live embeddings, some rows at a time."""
        scanner = read_embeddings(self.place, self.snapshot).scanner(
            columns=[*KEY, *columns],
            batch_size=BLOCK_ROWS,
            batch_readahead=READAHEAD_BLOCKS,
            use_threads=False,  # with threads up to nine files of 51 MB were read ahead of a slow consumer
            fragment_readahead=1,
            fragment_scan_options=pds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True),
        )
        return (batch for batch in scanner.to_batches() if batch.num_rows)


def open_source(place: str) -> Source:
    """The live snapshot at ``place``. Raises ``DataError`` if there is none."""
    snapshot = live(place)
    return Source(place, snapshot.number, snapshot.manifest["model_version"], snapshot.layout)


def load_positions(connection: duckdb.DuckDBPyConnection, source: Source) -> None:
    """Make table ``embedded``: key and position of every live embedding."""
    key = [pa.field("illust_id", source.layout.id_type), pa.field("page", pa.int32())]
    schema = pa.schema([*key, pa.field("position", pa.int64())])

    def numbered() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in source.blocks():
            positions = pa.array(range(start, start + batch.num_rows), pa.int64())
            yield pa.record_batch([*batch.columns, positions], schema=schema)
            start += batch.num_rows

    load(connection, "embedded", schema, numbered())


def load_scores(connection: duckdb.DuckDBPyConnection, source: Source, columns: Sequence[str]) -> None:
    """Make table ``scored``: key, status and ``columns`` of every row of SCORES."""
    dataset = read_scores(source.place, source.snapshot)
    names = [*KEY, "status", *columns]
    schema = pa.schema([dataset.schema.field(name) for name in names])
    batches = dataset.scanner(columns=names, batch_readahead=READAHEAD_BLOCKS, fragment_readahead=1)
    load(connection, "scored", schema, batches.to_batches())


def join_labels(
    connection: duckdb.DuckDBPyConnection, source: Source, columns: Sequence[str], so_far: str
) -> dict[str, int]:
    """Make table ``usable``: rows of ``labelled`` with their position and ``columns`` of SCORES; return
    counts of the others.

    ``so_far``: what became of the labels before, in words.
    Raises ``DataError`` if none is left, with keys of both sides.
    """
    scores = "".join(f", s.{identifier(name)}" for name in columns)
    connection.execute(
        f"CREATE TABLE usable AS SELECT l.*, e.position{scores} FROM labelled l "
        "JOIN scored s USING (illust_id, page) JOIN embedded e USING (illust_id, page)"
    )
    (unknown,) = one_row(connection, "SELECT count(*) FROM labelled ANTI JOIN scored USING (illust_id, page)")
    (without,) = one_row(
        connection,
        "SELECT count(*) FROM (SELECT l.illust_id, l.page FROM labelled l SEMI JOIN scored s USING "
        "(illust_id, page)) ANTI JOIN embedded USING (illust_id, page)",
    )
    (usable,) = one_row(connection, "SELECT count(*) FROM usable")
    if not usable:
        raise DataError(
            f"no label belongs to a live embedding of {source.place} ({so_far}; {unknown} of keys that are "
            f"not in its scores, {without} of images without an embedding, as they failed or are "
            f"pending); first ids of the labels: {_first(connection, 'given')}; of the scores: "
            f"{_first(connection, 'scored')}"
        )
    return {"unknown_key": unknown, "without_embedding": without, "usable": usable}


def _first(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    sql = (
        f"SELECT DISTINCT illust_id FROM {table} WHERE illust_id IS NOT NULL ORDER BY 1 LIMIT {NUM_EXAMPLES}"
    )
    return ", ".join(repr(row[0]) for row in connection.execute(sql).fetchall()) or "none"


class PlainColumns:
    """Columns that are not the embedding, of all live embeddings, by position."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
        self._connection = connection
        self._names = ", ".join(map(identifier, names))

    def of(self, first: int, num: int) -> pa.Table:
        """Of ``num`` rows from position ``first`` on; null where there is no value."""
        return self._connection.sql(
            f"SELECT {self._names} FROM plain WHERE position BETWEEN {first} AND {first + num - 1} "
            "ORDER BY position"
        ).to_arrow_table()


@contextlib.contextmanager
def plain_columns(
    source: Source, scores: Sequence[str], side: Sequence[SideColumn], labels: Labels | None
) -> Iterator[PlainColumns | None]:
    """Columns ``scores`` of SCORES, and ``side`` of the labels; None where neither is asked for."""
    if not scores and not side:
        yield None
        return
    with engine(what="joining scores and embeddings") as connection:
        load_positions(connection, source)
        load_scores(connection, source, scores)
        joins = "LEFT JOIN scored USING (illust_id, page)"
        if labels is not None:
            load_side(connection, labels, source.layout.id_type)
            joins += " LEFT JOIN labelled USING (illust_id, page)"
        names = [*scores, *(column.key for column in side)]
        selected = ", ".join(map(identifier, names))
        connection.execute(
            f"CREATE TABLE plain AS SELECT position, {selected} FROM embedded {joins} ORDER BY position"
        )
        yield PlainColumns(connection, names)
