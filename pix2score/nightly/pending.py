"""Keys that a night does not come to: new ones become pending rows, others keep the row that they have."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from pix2score.catalog.keys import KEY, key_fields
from pix2score.nightly.cuts import range_rows
from pix2score.snapshots.pieces import STAGED, Origin, Receipt
from pix2score.snapshots.tables import PENDING, Layout, write_file
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.parts import Part
from pix2score.storage.sql import engine, load, query

_WITHOUT_ROW = "('new', 'waiting')"
"""Reasons of rows that have no answer yet."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a night did not do."""

    pieces: list[Receipt] = field(default_factory=list)
    """Of pending rows, for keys that no snapshot holds yet; no receipt of theirs is in storage."""
    by_reason: dict[str, int] = field(default_factory=dict)
    """Why the planned rows that were not done would have been scored -> how many."""

    @property
    def total(self) -> int:
        """Planned rows that were not done."""
        return sum(self.by_reason.values())

    @property
    def num_without_answer(self) -> int:
        """Those of them that will be pending."""
        return self.by_reason.get("new", 0) + self.by_reason.get("waiting", 0)


def set_aside(
    folder: Folder,
    origin: Origin,
    layout: Layout,
    planned: Sequence[Part],
    done: Sequence[Receipt],
    withheld: Sequence[Part],
) -> Left:
    """Write a pending row for each key of ``planned`` that is new and not ``done``, and of ``withheld``.

    Out of core: memory does not grow with the number of keys.
    """
    keys = pa.schema(key_fields(layout.id_type))
    with engine(what="finding rows that were not scored") as connection:
        _load(connection, "planned", folder, [part.path for part in planned], [*keys, _REASON])
        _load(connection, "done", folder, [receipt.scores.path for receipt in done], keys)
        _load(connection, "withheld", folder, [part.path for part in withheld], keys)
        connection.execute(
            "CREATE TABLE not_done AS SELECT * FROM planned ANTI JOIN done USING (illust_id, page)"
        )
        by_reason = connection.execute("SELECT reason, count(*) FROM not_done GROUP BY 1").fetchall()
        sql = (
            f"SELECT {', '.join(KEY)} FROM not_done WHERE reason = 'new' "
            f"UNION ALL SELECT {', '.join(KEY)} FROM withheld"
        )
        tables = query(connection, sql, keys, range_rows(layout))
        return Left([_piece(folder, origin, layout, table) for table in tables], dict(by_reason))


_REASON = pa.field("reason", pa.string())


def _load(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    folder: Folder,
    paths: Sequence[str],
    fields: Sequence[pa.Field] | pa.Schema,
) -> None:
    schema = pa.schema(list(fields))

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in parquet_batches(folder, paths, schema.names):
            yield pa.Table.from_batches([batch]).cast(schema).combine_chunks().to_batches()[0]

    load(connection, table, schema, batches())


def _piece(folder: Folder, origin: Origin, layout: Layout, keys: pa.Table) -> Receipt:
    name = uuid.uuid4().hex[:16]
    file = write_file(
        folder, "scores", f"{STAGED}/{origin.run}/{name}.parquet", pending_rows(keys, origin.run, layout)
    )
    return Receipt(
        piece=f"pending-{name}",
        origin=origin,
        id_type=str(layout.id_type),
        embedding_dtype=layout.embedding_dtype,
        rows=file.rows,
        failed={},
        files=(file,),
    )


def pending_rows(keys: pa.Table, run: str, layout: Layout) -> pa.Table:
    """SCORES rows of keys that are not scored yet: no answer, no error, no fingerprint.

    ``run`` and ``scored_at`` say which night put them down, and when.
    """
    known = {
        **{name: keys.column(name) for name in KEY},
        "status": pa.repeat(PENDING, keys.num_rows),
        "attempts": pa.repeat(pa.scalar(0, pa.int16()), keys.num_rows),
        "run": pa.repeat(run, keys.num_rows),
        "scored_at": pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), keys.num_rows),
    }
    columns = [
        known[field.name] if field.name in known else pa.nulls(keys.num_rows, field.type)
        for field in layout.scores
    ]
    return pa.table(columns, schema=layout.scores)
