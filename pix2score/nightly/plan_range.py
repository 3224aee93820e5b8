"""The plan of one range of keys: what ``nightly.plan`` does of all of them, in a task of bounded memory.

It counts, and sets down what may have to be done; what one range finds matters to others, so that
``resume_range`` takes out of that only later what earlier runs did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pix2score.catalog.keys import KEY, Key, key_fields
from pix2score.catalog.rows import UpdatedTexts, create_keyed, identify, updated_texts
from pix2score.errors import DataError
from pix2score.nightly.bounds import keys_of, within
from pix2score.nightly.carry import SortedPart, hash_of, write_carried
from pix2score.nightly.cuts import range_rows
from pix2score.nightly.order import place_sql
from pix2score.nightly.request import ScoringCounts
from pix2score.nightly.space import KEYS_ROWS, Space, load_dealt, range_engine, write_of_range
from pix2score.nightly.wanted import DAMAGED, create_wanted, live_rows, live_schema
from pix2score.nightly.work_order import Ordered
from pix2score.snapshots.tables import DataFile
from pix2score.storage.parts import Part, write_parts
from pix2score.storage.slices import Slices
from pix2score.storage.sql import load, one_row

_SAMPLED = 4000
"""Keys of a range that tell where its changes lie."""


class DamagedLiveError(DataError):
    """A live file cannot be read, of which ``full`` needs none."""


@dataclass(frozen=True, slots=True)
class RangePlan:
    """What ``plan_range`` found."""

    counts: ScoringCounts
    wanted: Ordered | None
    """Rows that are not carried, with all that later steps ask of them."""
    carry_hash: int = 0
    removed: list[Part] = field(default_factory=list)
    withheld: list[Part] = field(default_factory=list)
    carried: tuple[SortedPart, ...] = ()
    cuts: list[Key] = field(default_factory=list)
    """Keys between which about half a range of the scores table changes."""


def texts_of_range(space: Space, dealt: Sequence[Slices], number: int, num_rows: int) -> UpdatedTexts:
    """How times of an update read in a range, which decides for all ranges together."""
    with range_engine(num_rows) as connection:
        load_dealt(connection, "incoming_rows", space.catalog.rows_schema(), space, dealt, number)
        identify(connection, space.catalog)
        return updated_texts(connection)


def plan_range(
    space: Space,
    dealt: Sequence[Slices],
    texts: UpdatedTexts | None,
    number: int,
    live: Sequence[DataFile],
    num_rows: int,
) -> RangePlan:
    """Set down what differs between the catalog's rows of a range, in ``dealt``, and those of ``live``.

    Raises ``DamagedLiveError`` under a ``full`` that can do without the live snapshot.
    """
    counts, request, catalog = ScoringCounts(), space.request, space.catalog
    with range_engine(num_rows) as connection:
        load_dealt(connection, "incoming_rows", catalog.rows_schema(), space, dealt, number)
        identify(connection, catalog)
        num_keys = create_keyed(connection, catalog, texts)
        (rows,) = one_row(connection, "SELECT count(*) FROM incoming_rows")
        assert rows == num_keys, "rows without an id are not dealt out, repeated ones are deleted"
        _load_live(connection, space, live, number)
        (counts.live,) = one_row(connection, "SELECT count(*) FROM live")
        create_wanted(connection, catalog, request, counts)
        return _set_down(connection, space, number, counts)


def _load_live(
    connection: duckdb.DuckDBPyConnection, space: Space, files: Sequence[DataFile], number: int
) -> None:
    low, high, schema = (
        space.bounds.low(number),
        space.bounds.high(number),
        live_schema(space.id_type, space.request),
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in live_rows(space.folder, files, schema):
            yield from within(pa.Table.from_batches([batch]), low, high).to_batches()

    try:
        load(connection, "live", schema, batches())
    except DAMAGED as exc:
        if not space.request.carries_nothing:
            raise
        raise DamagedLiveError(str(exc)) from exc


def _set_down(
    connection: duckdb.DuckDBPyConnection, space: Space, number: int, counts: ScoringCounts
) -> RangePlan:
    names, planned = space.request.carry, counts.planned + counts.withheld
    return RangePlan(
        counts=counts,
        wanted=_write_wanted(connection, space, number, counts.planned),
        carry_hash=hash_of(connection, space.catalog, names) if names else 0,
        removed=_write_keys(connection, space, number, "removed", _REMOVED) if counts.removed else [],
        withheld=_write_keys(connection, space, number, "withheld", _WITHHELD) if counts.withheld else [],
        carried=(
            write_carried(
                connection, space.catalog, names, space.folder, f"{space.prefix}/carried-{number:05}"
            )
            if names
            else ()
        ),
        cuts=_cuts(connection, planned, max(1, range_rows(space.request.layout) // 2)),
    )


_REMOVED = f"SELECT {', '.join(KEY)} FROM live ANTI JOIN keyed USING (illust_id, page)"
_WITHHELD = f"SELECT {', '.join(KEY)} FROM withheld"


def _write_keys(
    connection: duckdb.DuckDBPyConnection, space: Space, number: int, name: str, sql: str
) -> list[Part]:
    schema, prefix = pa.schema(key_fields(space.id_type)), f"{space.prefix}/{name}-{number:05}"
    return write_parts(connection, sql, schema, space.folder, prefix, KEYS_ROWS)


def _write_wanted(
    connection: duckdb.DuckDBPyConnection, space: Space, number: int, num_rows: int
) -> Ordered | None:
    labels = [f"label_{i}" for i in range(len(space.catalog.labels))]
    left_out = ", ".join([*labels, *(["last_scored"] if space.request.order == "new first" else [])])
    columns = f"* EXCLUDE ({left_out})" if left_out else "*"
    place = place_sql(space.catalog, space.request)
    return write_of_range(
        connection, space, number, "wanted", f"SELECT {columns}, {place} AS place FROM wanted", num_rows
    )


def _cuts(connection: duckdb.DuckDBPyConnection, num_changed: int, most_rows: int) -> list[Key]:
    """Keys between which about ``most_rows`` of tables ``wanted`` and ``withheld`` lie."""
    number = num_changed // most_rows
    if not number:
        return []
    every = max(1, num_changed // _SAMPLED)
    changed = f"SELECT {', '.join(KEY)} FROM wanted UNION ALL {_WITHHELD}"
    sql = f"SELECT * FROM ({changed}) WHERE hash(illust_id, page) % {every} = 0 ORDER BY ALL"
    keys = keys_of(connection.sql(sql).to_arrow_table())
    chosen = [keys[len(keys) * i // (number + 1)] for i in range(1, number + 1)] if keys else []
    return list(dict.fromkeys(chosen))
