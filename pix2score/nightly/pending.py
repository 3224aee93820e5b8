"""Keys that a night does not come to: new ones become pending rows, others keep the row that they have."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY, key_fields
from pix2score.host.executor import Executor
from pix2score.nightly.bounds import Bounds
from pix2score.nightly.cuts import range_rows
from pix2score.nightly.deal import DEAL_BYTES, deal_keys, together
from pix2score.nightly.plan import ScoringPlan
from pix2score.snapshots.pieces import STAGED, Origin, Receipt
from pix2score.snapshots.tables import PENDING, Layout, write_file
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.parts import Part
from pix2score.storage.slices import Slices, read_slice
from pix2score.storage.sql import engine, in_memory, load, query

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


def left_of(
    executor: Executor,
    folder: Folder,
    origin: Origin,
    layout: Layout,
    plan: ScoringPlan,
    planned: Sequence[Part],
    done: Sequence[Receipt],
) -> Left:
    """As ``set_aside``; of a plan that was made by ranges in a task for each: none holds all keys."""
    if not plan.is_by_ranges:
        return executor.call(set_aside, folder, origin, layout, planned, done, plan.withheld)
    bounds, keys = Bounds(plan.cuts[_CUTS - 1 :: _CUTS]), pa.schema(key_fields(layout.id_type))
    prefix = f"{STAGED}/{origin.run}/left"

    def dealt(name: str, paths: Sequence[str], rows: Sequence[int], schema: pa.Schema) -> list[Slices]:
        groups = together(paths, rows, _SHARE_ROWS)
        calls = [(folder, f"{prefix}/{name}", schema, bounds, some) for _, some in groups]
        found = executor.each(deal_keys, calls, memory_bytes=DEAL_BYTES)
        return [one for one in found if one]

    try:
        of_plan = dealt("planned", [p.path for p in planned], [p.rows for p in planned], keys.append(_REASON))
        of_done = dealt("done", [r.scores.path for r in done], [r.rows for r in done], keys)
        withheld = plan.withheld
        of_others = dealt("withheld", [p.path for p in withheld], [p.rows for p in withheld], keys)
        calls = [
            (folder, origin, layout, of_plan, of_done, of_others, number) for number in range(bounds.number)
        ]
        total = Left()
        for left in executor.each(left_of_range, calls, memory_bytes=DEAL_BYTES):
            total.pieces.extend(left.pieces)
            for reason, rows in left.by_reason.items():
                total.by_reason[reason] = total.by_reason.get(reason, 0) + rows
        return total
    finally:
        folder.delete([f"{prefix}/{entry.path}" for entry in (folder / prefix).entries()])


_CUTS, _SHARE_ROWS = 8, 2_000_000
"""Of a plan's cuts to a range, some million rows; rows that one task deals out."""


def left_of_range(
    folder: Folder,
    origin: Origin,
    layout: Layout,
    planned: Sequence[Slices],
    done: Sequence[Slices],
    withheld: Sequence[Slices],
    number: int,
) -> Left:
    """What is left of one range."""
    keys = pa.schema(key_fields(layout.id_type))
    schemas = (keys.append(_REASON), keys, keys)
    rows, finished, others = (
        pa.concat_tables([schema.empty_table(), *read_slice(folder, dealt, number)])
        for schema, dealt in zip(schemas, (planned, done, withheld), strict=True)
    )
    left = in_memory(
        "SELECT * FROM planned ANTI JOIN done USING (illust_id, page)", planned=rows, done=finished
    )
    new = left.filter(pc.equal(left.column("reason"), "new")).select(keys.names).cast(keys)
    both = pa.concat_tables([new, others])
    size = range_rows(layout)
    pieces = [
        _piece(folder, origin, layout, both.slice(start, size)) for start in range(0, both.num_rows, size)
    ]
    counted = left.column("reason").value_counts().to_pylist()
    return Left(pieces, {one["values"]: one["counts"] for one in counted})


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
