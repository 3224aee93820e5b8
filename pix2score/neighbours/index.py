"""index: the nearest-neighbour index of the live snapshot, built, or taken up from the one before."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY
from pix2score.cli.packages import need
from pix2score.errors import DataError, StorageError
from pix2score.neighbours.config import IndexConfig
from pix2score.neighbours.loaded import LoadedIndex, check_whole, read_gone
from pix2score.neighbours.parts import keys_schema, read_keys
from pix2score.neighbours.vectors import Positions, scanner
from pix2score.snapshots.damage import checked_content
from pix2score.snapshots.indexes import (
    IndexCard,
    IndexPart,
    card_path,
    each_index,
    embeddings_id,
    publish_index,
    read_index,
    replace_index,
)
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.manifest import live, new_run_id
from pix2score.snapshots.read import batches_of, read_embeddings
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import OK
from pix2score.storage.folder import Folder
from pix2score.storage.sql import engine, in_memory, load, one_row
from pix2score.summaries import IndexSummary

if TYPE_CHECKING:
    from pix2score.neighbours.build import Draft

logger = logging.getLogger(__name__)
READ_ROWS = 4_096
_ALIVE = "(SELECT * FROM indexed ANTI JOIN gone USING (position))"
_SAME_ROW = "USING (illust_id, page, run)"


def index(config: IndexConfig) -> IndexSummary:
    """Make the index of the live snapshot; return its facts.

    Takes up the newest index of the same trunk: what came since is added, what went is left out. Does nothing
    where the live snapshot has one that is whole, but for the bytes of embeddings, which it does not read. A
    build that was killed leaves files that no card names, which ``vacuum`` removes.

    Raises:
        ConfigError: faiss is not installed.
        DataError: no snapshot there, or one without embeddings.
        ConflictError: another run made it first.
    """
    need("jobs.index", "index", ("faiss",))
    folder, started = Folder(config.scores), time.monotonic()
    snapshot = live(config.scores)
    own = _whole(folder, snapshot)
    if own and config.rebuild_share:
        logger.info("snapshot %d has an index already", snapshot.number)
        return _summary(own, 0, started)
    replaces = folder.is_file(card_path(snapshot.number))
    with _leased(folder):
        draft, added = _made(config, folder, snapshot)
        _check_keys(config.scores, snapshot, draft)
        card = draft.card()
        (replace_index if replaces else publish_index)(folder, card)
    logger.info(
        "index of %d rows: finds %.1f%% of the ten nearest, by %d questions", card.rows, 100 * card.recall,
        card.num_questions,
    )  # fmt: skip
    return _summary(card, added, started)


def _summary(card: IndexCard, added: int, started: float) -> IndexSummary:
    return {
        "job": "index",
        "snapshot": card.snapshot,
        "rows": card.rows,
        "added": added,
        "gone": card.num_gone,
        "recall": card.recall,
        "library": card.library,
        "bytes": sum(file.bytes for file in card.files),
        "seconds": round(time.monotonic() - started, 3),
    }


def _whole(folder: Folder, snapshot: Snapshot) -> IndexCard | None:
    """The index of ``snapshot``, if it has one whose files are as it names them; of other snapshots that is
    seen when they are taken up."""
    try:
        if own := read_index(folder, snapshot.number):
            check_whole(folder, own)
    except DataError as exc:
        logger.warning("the index of snapshot %d is damaged, it is made anew: %s", snapshot.number, exc)
        return None
    return own


@contextmanager
def _leased(folder: Folder) -> Iterator[None]:
    """While the body runs, ``vacuum`` leaves files of indexes alone."""
    lease = Lease(folder, f"{new_run_id(datetime.now(UTC).strftime('%Y%m%dT%H%M%S'))}")
    lease.take()
    with lease.kept():
        yield


def _made(config: IndexConfig, folder: Folder, snapshot: Snapshot) -> tuple[Draft, int]:
    """The index with all live rows, and how many of them it did not take up."""
    from pix2score.neighbours.build import Draft  # loads faiss

    before = _earlier(folder, snapshot) if config.rebuild_share else None
    try:
        if before and (taken := _taken_up(config, folder, snapshot, before)):
            return taken
    except DataError as exc:
        logger.warning("an earlier index is not taken up, all is built anew: %s", exc)
    if not any(file.rows for file in snapshot.files_of("embeddings")):
        raise DataError(f"snapshot {snapshot.number} of {folder.uri} has no embedding to index")
    draft = Draft.begun(folder, snapshot)
    draft.add(
        scanner(
            read_embeddings(config.scores, snapshot.number), columns=_COLUMNS, rows=READ_ROWS
        ).to_batches()
    )
    return draft, int(draft.index.ntotal)


_COLUMNS = (*KEY, "embedding", "run")


def _earlier(folder: Folder, snapshot: Snapshot) -> IndexCard | None:
    """The newest index whose cells fit the snapshot's embeddings; its own is none, or of no use."""
    layout, trunk = snapshot.layout, snapshot.manifest.get("trunk_version")
    for card in each_index(folder):
        if (
            card.snapshot != snapshot.number
            and (card.embedding_dim, card.embedding_dtype) == (layout.embedding_dim, layout.embedding_dtype)
            and card.trunk_version == trunk
            and (trunk is not None or card.embeddings == embeddings_id(snapshot))
        ):
            return card
    return None


def _taken_up(
    config: IndexConfig, folder: Folder, snapshot: Snapshot, card: IndexCard
) -> tuple[Draft, int] | None:
    """The index ``card`` with what changed since, None if that is too much.

    Raises ``DataError`` for one that is damaged.
    """
    read_index(folder, card.snapshot)
    with engine() as connection:
        _load_rows(connection, config.scores, folder, snapshot, card)
        gone = _positions(connection, f"SELECT position FROM {_ALIVE} ANTI JOIN live {_SAME_ROW}")
        new = connection.sql(f"SELECT * FROM live ANTI JOIN {_ALIVE} {_SAME_ROW}").to_arrow_table()
    changed = card.taken_up + len(gone) + new.num_rows
    if changed > config.rebuild_share * card.rows:
        logger.info(
            "%d rows came or went since the index was built of %d: all is built anew", changed, card.rows
        )
        return None
    logger.info(
        "index of snapshot %d taken up: %d rows came, %d went", card.snapshot, new.num_rows, len(gone)
    )
    draft = _draft_of(folder, snapshot, card)
    draft.taken_up = changed
    draft.remove(gone)
    first = draft.parts[-1].first + draft.parts[-1].rows
    draft.add(_new_rows(config.scores, snapshot, new))
    draft.ask_about_new(first)
    return draft, new.num_rows


def _draft_of(folder: Folder, snapshot: Snapshot, card: IndexCard) -> Draft:
    from pix2score.neighbours.build import Draft
    from pix2score.neighbours.questions import Questions

    loaded = LoadedIndex(folder, card)
    questions = Questions.read(checked_content(folder, card.questions))
    files = (card.projection, card.cells)
    return Draft(
        folder, snapshot, loaded.cells, questions, loaded.faiss, *files, list(card.parts), loaded.gone
    )


def _load_rows(
    connection: duckdb.DuckDBPyConnection, scores: str, folder: Folder, snapshot: Snapshot, card: IndexCard
) -> None:
    """Tables ``indexed`` (key, run, position), ``gone`` (position) and ``live`` (key, run)."""
    _load_indexed(connection, folder, snapshot, card.parts, read_gone(folder, card))
    live_rows = scanner(read_embeddings(scores, snapshot.number), columns=(*KEY, "run"), rows=65_536)
    schema = _nullable(keys_schema(snapshot.layout.id_type))
    load(connection, "live", schema, (batch.cast(schema) for batch in live_rows.to_batches()))


def _load_indexed(
    connection: duckdb.DuckDBPyConnection,
    folder: Folder,
    snapshot: Snapshot,
    parts: Sequence[IndexPart],
    gone: Positions,
) -> None:
    schema = _nullable(keys_schema(snapshot.layout.id_type)).append(pa.field("position", pa.int64()))

    def rows() -> Iterator[pa.RecordBatch]:
        for part, keys in zip(parts, read_keys(folder, parts, (*KEY, "run")), strict=True):
            position = pa.array(np.arange(part.first, part.first + part.rows))
            yield from keys.append_column("position", position).cast(schema).to_batches()

    load(connection, "indexed", schema, rows())
    table = pa.table({"position": gone})
    load(connection, "gone", table.schema, iter(table.to_batches()))


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def _positions(connection: duckdb.DuckDBPyConnection, sql: str) -> Positions:
    return np.asarray(connection.sql(sql).to_arrow_table().column(0).to_numpy(), np.int64)


def _new_rows(scores: str, snapshot: Snapshot, new: pa.Table) -> Iterator[pa.RecordBatch]:
    """The rows of ``new`` with their embeddings; only files of their runs are read."""
    if not new.num_rows:
        return
    is_run = pc.field("run").isin(pc.unique(new.column("run")).to_pylist())
    reading = scanner(read_embeddings(scores, snapshot.number), is_run, _COLUMNS, READ_ROWS)
    for batch in reading.to_batches():
        rows = pa.Table.from_batches([batch])
        keys = rows.select([*KEY, "run"]).append_column(
            "position", pa.array(range(rows.num_rows), pa.int64())
        )
        chosen = in_memory(
            f"SELECT position FROM keys SEMI JOIN new {_SAME_ROW} ORDER BY 1", keys=keys, new=new
        )
        yield from rows.take(chosen.column(0)).combine_chunks().to_batches()


def _check_keys(scores: str, snapshot: Snapshot, draft: Draft) -> None:
    """Raise ``StorageError`` unless the index holds the rows that the snapshot says are ok, and no other."""
    layout = snapshot.layout
    schema = _nullable(keys_schema(layout.id_type))

    def ok_rows() -> Iterator[pa.RecordBatch]:
        names = [*KEY, "status", layout.embedding_run]
        for batch in batches_of(Folder(scores), snapshot, snapshot.files_of("scores"), names):
            rows = batch.filter(pc.equal(batch.column(2), OK)).select([0, 1, 3])
            yield rows.rename_columns(schema.names).cast(schema)

    with engine() as connection:
        load(connection, "ok", schema, ok_rows())
        _load_indexed(connection, draft.folder, snapshot, draft.parts, draft.gone)
        (lacking,) = one_row(connection, f"SELECT count(*) FROM ok ANTI JOIN {_ALIVE} {_SAME_ROW}")
        (surplus,) = one_row(connection, f"SELECT count(*) FROM {_ALIVE} ANTI JOIN ok {_SAME_ROW}")
    if lacking or surplus:
        raise StorageError(
            f"the index lacks {lacking} rows of snapshot {snapshot.number} and has {surplus} surplus ones: "
            "it was not made; jobs.verify says what is wrong with the snapshot"
        )
