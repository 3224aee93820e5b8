"""What a step sends: rows with their embeddings, and keys to be deleted, in key order and out of core."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY, Key
from pix2score.errors import ConfigError, DataError
from pix2score.neighbours.vectors import stored
from pix2score.push.position import Step
from pix2score.snapshots.changes import changes_between
from pix2score.snapshots.read import batches_of, schema_of_scores
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import EMBEDDING_RUN, OK
from pix2score.storage.folder import Folder
from pix2score.storage.quoting import identifier, literal
from pix2score.storage.sql import engine, incoming, load, one_row, query

EMBEDDING, SNAPSHOT, MODEL_VERSION = "embedding", "snapshot", "model_version"
CHANGE = "pix2score_change"
_NOT_SENT = ("status", "error_code", "error_detail", "attempts", "fingerprint", EMBEDDING_RUN)
_READ_ROWS = 4_096
_ROW_BYTES = 400
"""Of a row without its embedding, in a temporary file."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a step: all its changes between two keys."""

    rows: pa.Table
    """To be inserted, or to take the place of those with their keys; as ``sent_schema``."""
    deleted: pa.Table
    """Keys to be deleted, where they are."""
    after: Key | None
    """It begins behind this key; None: with the first."""
    upto: Key | None
    """Its last key; None: every key behind ``after``."""
    is_whole: bool
    """Whether keys in between that are not among ``rows`` are to be deleted too."""


def sent_schema(folder: Folder, snapshot: Snapshot) -> pa.Schema:
    """Columns of a target: key, answers of the heads, what was carried from the catalog, when and by which
    run it was scored, snapshot by which it came, model, embedding.

    Raises ``ConfigError`` if a carried column has the name of another one, case aside: databases and DuckDB
    do not tell them apart.
    """
    layout, found = snapshot.layout, schema_of_scores(folder, snapshot)
    taken = {name.lower() for name in (EMBEDDING, SNAPSHOT, MODEL_VERSION, CHANGE, *layout.scores.names)}
    for name in found.names[len(layout.scores) :]:
        if name.lower() in taken:
            raise ConfigError(
                f"carried column {name}: a push has its own column of that name, or another one that is "
                "carried has it, in capitals or not"
            )
        taken.add(name.lower())
    scores = [field for field in found if field.name not in _NOT_SENT]
    return pa.schema(
        [
            *scores,
            pa.field(SNAPSHOT, pa.int32(), nullable=False),
            pa.field(MODEL_VERSION, pa.string(), nullable=False),
            layout.embeddings.field(EMBEDDING),
        ]
    )


class DueRows:
    """The rows of a step; ``opened`` makes one."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, folder: Folder, step: Step, schema: pa.Schema
    ) -> None:
        self._connection, self._folder, self._step, self._schema = connection, folder, step, schema
        self.num_sent, self.num_deleted = (
            int(n)
            for n in one_row(
                connection,
                f"SELECT count(*) FILTER ({CHANGE} = 'scored'), count(*) FILTER ({CHANGE} <> 'scored') "
                "FROM due",
            )
        )

    def chunks(self, num_rows: int) -> Iterator[tuple[Chunk, bool]]:
        """All of them, at most ``num_rows`` in each, with whether it is the last; at least one.

        Raises ``DataError`` if a row's embedding is missing.
        """
        before, after = None, self._step.after
        for table in self._sorted(num_rows):
            if before is not None:
                chunk = self._chunk(before, after, _last_key(before))
                after = chunk.upto
                yield chunk, False
            before = table
        yield self._chunk(before, after, None), True

    def _sorted(self, num_rows: int) -> Iterator[pa.Table]:
        schema = pa.schema([*_due_schema(self._schema), pa.field(EMBEDDING, pa.binary())])
        read = pa.schema([schema.field(EMBEDDING_RUN), *(schema.field(name) for name in (*KEY, EMBEDDING))])
        sql = (
            f"SELECT d.*, i.{EMBEDDING} FROM incoming i RIGHT JOIN due d ON i.illust_id = d.illust_id AND "
            f"i.page = d.page AND i.{EMBEDDING_RUN} = d.{EMBEDDING_RUN} ORDER BY d.illust_id, d.page"
        )
        found = self._connection.execute(f"SELECT DISTINCT {EMBEDDING_RUN} FROM due").fetchall()
        runs = {run for (run,) in found}
        # The due rows are the hashed side, whatever seems smaller: embeddings stream past them.
        self._connection.execute("SET disabled_optimizers='join_order,build_side_probe_side'")
        with incoming(self._connection, read, self._embeddings(read, runs)):
            yield from query(self._connection, sql, schema, num_rows)

    def _embeddings(self, schema: pa.Schema, runs: set[str]) -> Iterator[pa.RecordBatch]:
        """Embeddings as bytes, of files of ``runs``."""
        snapshot = self._step.to
        for file in snapshot.files_of("embeddings"):
            if file.run not in runs:
                continue
            for batch in batches_of(self._folder, snapshot, [file], [*KEY, EMBEDDING], _READ_ROWS):
                run = pa.repeat(pa.scalar(file.run), batch.num_rows)
                columns = [run, batch.column(0), batch.column(1), _as_bytes(batch.column(2))]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def _chunk(self, table: pa.Table | None, after: Key | None, upto: Key | None) -> Chunk:
        if table is None:
            table = pa.schema([*_due_schema(self._schema), pa.field(EMBEDDING, pa.binary())]).empty_table()
        is_sent = pc.equal(table.column(CHANGE), "scored")
        rows = table.filter(is_sent)
        if rows.column(EMBEDDING).null_count:
            raise DataError(
                f"embeddings of {rows.column(EMBEDDING).null_count} rows of snapshot {self._step.to.number} "
                f"of {self._folder.uri} are missing: jobs.verify names the damage"
            )
        return Chunk(
            self._complete(rows),
            table.filter(pc.invert(is_sent)).select(list(KEY)),
            after,
            upto,
            self._step.base is None,
        )

    def _complete(self, rows: pa.Table) -> pa.Table:
        """Rows of ``due`` as they are sent."""
        number, snapshot = rows.num_rows, self._step.to
        columns = {
            SNAPSHOT: pa.repeat(pa.scalar(snapshot.number, pa.int32()), number),
            MODEL_VERSION: pa.repeat(pa.scalar(snapshot.manifest["model_version"]), number),
            EMBEDDING: _from_bytes(rows.column(EMBEDDING), self._schema.field(EMBEDDING).type),
        }
        found = [columns[name] if name in columns else rows.column(name) for name in self._schema.names]
        return pa.Table.from_arrays(found, schema=self._schema)


@contextlib.contextmanager
def due_rows(folder: Folder, step: Step, schema: pa.Schema) -> Iterator[DueRows]:
    """The rows of a step, of whose target ``schema`` is.

    Sorted on the disk of temporary files, which takes about as much as their embeddings. Raises
    ``ConfigError`` if there is less room, ``DataError`` if ``vacuum`` removed a snapshot meanwhile.
    """
    element = schema.field(EMBEDDING).type
    width = element.list_size * element.value_type.bit_width // 8
    rows = step.to.manifest["counts"]["rows"] if step.base is None else 0
    with engine(disk_bytes=rows * (width + _ROW_BYTES), what="sorting what is pushed") as connection:
        _load_due(connection, folder, step, _due_schema(schema))
        yield DueRows(connection, folder, step, schema)


def _due_schema(schema: pa.Schema) -> pa.Schema:
    """Columns of ``due``: change, run of the embedding, and what is sent of the scores table."""
    sent = [
        field.with_nullable(True)
        for field in schema
        if field.name not in (EMBEDDING, SNAPSHOT, MODEL_VERSION)
    ]
    return pa.schema([pa.field(CHANGE, pa.string()), pa.field(EMBEDDING_RUN, pa.string()), *sent])


def _load_due(connection: duckdb.DuckDBPyConnection, folder: Folder, step: Step, columns: pa.Schema) -> None:
    """Table ``due``: every change of the step behind its ``after``."""
    sent = [name for name in columns.names if name not in (CHANGE, EMBEDDING_RUN)]
    own_run = step.to.layout.embedding_run
    stored = schema_of_scores(folder, step.to)
    names = list(dict.fromkeys([*sent, "status", own_run]))
    scores = pa.schema([stored.field(name).with_nullable(True) for name in names])
    batches = batches_of(folder, step.to, step.to.files_of("scores"), names)
    behind = f"(illust_id, page) > {_key_sql(step.after)}" if step.after else "true"
    values = ", ".join(
        [f"i.{own_run} AS {EMBEDDING_RUN}", *(f"i.{identifier(name)}" for name in sent if name not in KEY)]
    )
    if step.base is None:
        sql = (
            f"SELECT 'scored' AS {CHANGE}, i.illust_id, i.page, {values} FROM incoming i "
            f"WHERE i.status = '{OK}' AND {behind}"
        )
    else:
        feed = changes_between(folder, step.base, step.to)
        load(
            connection, "changes", feed.schema, feed,
            f"SELECT * FROM incoming WHERE {behind}",
        )  # fmt: skip
        sql = (
            f"SELECT c.change AS {CHANGE}, c.illust_id, c.page, {values} FROM incoming i "
            "RIGHT JOIN changes c ON i.illust_id = c.illust_id AND i.page = c.page"
        )
    load(connection, "due", scores, batches, sql)


def _key_sql(key: Key) -> str:
    illust_id, page = key
    return f"({literal(illust_id) if isinstance(illust_id, str) else illust_id}, {page})"


def _last_key(table: pa.Table) -> Key:
    return (table.column("illust_id")[-1].as_py(), table.column("page")[-1].as_py())


def _as_bytes(column: pa.Array) -> pa.Array:
    """Each vector of a column of fixed lists as its bytes."""
    rows_ND = np.ascontiguousarray(stored(column))
    offsets = np.arange(len(column) + 1, dtype=np.int32) * rows_ND[:1].nbytes
    return pa.Array.from_buffers(
        pa.binary(), len(column), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(rows_ND.tobytes())]
    )


def _from_bytes(column: pa.ChunkedArray, kind: pa.FixedSizeListType) -> pa.Array:
    """What ``_as_bytes`` made bytes of."""
    joined = pa.py_buffer(b"".join(column.to_pylist()))
    values = pa.Array.from_buffers(kind.value_type, len(column) * kind.list_size, [None, joined])
    return pa.FixedSizeListArray.from_arrays(values, type=kind)
