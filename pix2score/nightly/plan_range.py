"""The plan of one range of keys: what ``nightly.plan`` does of all of them, in a task of bounded memory.

Two steps, as what one range finds matters to others: ``plan_range`` counts, and sets down what may have to be
done; ``resume_range`` takes out of that what earlier runs did.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.keys import KEY, Key, key_fields
from pix2score.catalog.rows import PLAN_DISK_BYTES, UpdatedTexts, create_keyed, identify, updated_texts
from pix2score.errors import DataError
from pix2score.nightly.bounds import Bounds, keys_of, within
from pix2score.nightly.carry import SortedPart, hash_of, write_carried
from pix2score.nightly.cuts import range_rows
from pix2score.nightly.order import TRIED, is_steered, place_sql, tried_place_sql
from pix2score.nightly.request import ScoringCounts, ScoringRequest
from pix2score.nightly.resume import doubtful_pieces, published_rows, select_resumed, staged_schema
from pix2score.nightly.returned import removed_schema, select_returned
from pix2score.nightly.stored import PLACED, POSITION, places_schema, select_placed
from pix2score.nightly.wanted import DAMAGED, create_wanted, live_rows, live_schema
from pix2score.nightly.work_order import Ordered, write_ordered
from pix2score.snapshots.tables import DataFile, dead_schema, resumed_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part, write_parts
from pix2score.storage.slices import Slices, read_slice, read_slices
from pix2score.storage.sql import engine, load, one_row

_BASE_BYTES, _ROW_BYTES = 768 * 2**20, 450
"""Of a task, as measured: its process with Arrow and DuckDB, and a row of the catalog or live snapshot."""
MOST_BYTES = 3 * 2**30
KEYS_ROWS = 65_536
"""Of a part of keys alone."""
_SAMPLED = 4000
"""Keys of a range that tell where its changes lie."""


class DamagedLiveError(DataError):
    """A live file cannot be read, of which ``full`` needs none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """What the tasks of one plan share."""

    folder: Folder
    prefix: str
    temporary: str
    """Prefix of what is removed once the plan is made."""
    catalog: Catalog
    """Without its files."""
    request: ScoringRequest
    """Its live snapshot without files."""
    bounds: Bounds

    @property
    def id_type(self) -> pa.DataType:
        """Of the keys."""
        return self.catalog.id_type


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What earlier runs left, dealt out by range, for ``resume_range``."""

    pieces: list[str]
    """SCORES files of staged pieces, then of removed rows, by their number."""
    staged: list[Slices] = field(default_factory=list)
    doubtful: list[int] = field(default_factory=list)
    removed: list[Slices] = field(default_factory=list)
    superseded: list[Slices] = field(default_factory=list)
    living_runs: list[str] = field(default_factory=list)
    places: list[Slices] | None = None
    """Of stored embeddings; None if the heads answer nothing."""
    embeddings: list[DataFile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ResumedRange:
    """What ``resume_range`` found."""

    num_resumed: int
    numbers: list[int]
    """Of pieces that are used."""
    failed: dict[str, int]
    """Error code -> rows resumed."""
    num_failed_again: int
    num_lacking: int
    """Rows for the heads that lack their embedding."""
    resumed: list[Part]
    rows: Ordered | None
    stored: Ordered | None


def memory_of(num_rows: int) -> int:
    """Bytes that a task needs for a range of so many rows of the catalog and the live snapshot together."""
    return min(MOST_BYTES, _BASE_BYTES + _ROW_BYTES * num_rows)


@contextlib.contextmanager
def _engine(num_rows: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with what a task of ``memory_of(num_rows)`` can give it: one core, half of its memory."""
    what = f"planning a range of about {num_rows} rows"
    with engine(
        memory_of(num_rows) // 2,
        disk_bytes=num_rows * PLAN_DISK_BYTES,
        what=what,
        threads=1,
        in_memory=True,
    ) as connection:
        yield connection


def _load(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    schema: pa.Schema,
    space: Space,
    dealt: Sequence[Slices],
    number: int,
) -> None:
    tables = read_slice(space.folder, dealt, number)
    load(connection, table, schema, (batch for rows in tables for batch in rows.to_batches()))


def texts_of_range(space: Space, dealt: Sequence[Slices], number: int, num_rows: int) -> UpdatedTexts:
    """How times of an update read in a range, which decides for all ranges together."""
    with _engine(num_rows) as connection:
        _load(connection, "incoming_rows", space.catalog.rows_schema(), space, dealt, number)
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
    with _engine(num_rows) as connection:
        _load(connection, "incoming_rows", catalog.rows_schema(), space, dealt, number)
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
    return _write_ordered(
        connection, space, number, "wanted", f"SELECT {columns}, {place} AS place FROM wanted", num_rows
    )


def _write_ordered(
    connection: duckdb.DuckDBPyConnection, space: Space, number: int, name: str, sql: str, num_rows: int
) -> Ordered | None:
    prefix = f"{space.temporary}/{name}-{number:05}"
    return write_ordered(connection, sql, space.folder, prefix, num_rows, space.bounds.number)


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


def find_doubtful(
    space: Space,
    staged: Sequence[Slices],
    published: Sequence[Slices],
    runs: set[str],
    number: int,
    live: Sequence[DataFile],
    num_rows: int,
) -> list[int]:
    """Numbers of staged pieces that ``resume.doubtful_pieces`` finds in a range.

    ``published``: the dead of ``runs``. ``live``: SCORES files that may name an embedding of theirs.
    """
    schema, low, high = dead_schema(space.id_type), space.bounds.low(number), space.bounds.high(number)

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in read_slice(space.folder, published, number):
            yield from rows.to_batches()
        for batch in published_rows(space.folder, live, runs, schema):
            yield from within(pa.Table.from_batches([batch]), low, high).to_batches()

    with _engine(num_rows) as connection:
        _load(connection, "staged", staged_schema(space.id_type), space, staged, number)
        load(connection, "published", schema, batches())
        return doubtful_pieces(connection)


def resume_range(
    space: Space, offer: Offer, number: int, wanted: Ordered | None, num_rows: int, writes: bool
) -> ResumedRange | None:
    """What is left of ``wanted`` of a range, and what earlier runs did of it; None if it is empty.

    Nothing is written unless ``writes``.
    """
    if wanted is None:
        return None
    with _engine(num_rows) as connection:
        slices = wanted.slices
        tables = _all_slices(space.folder, slices)
        load(connection, "wanted", slices.schema, (batch for rows in tables for batch in rows.to_batches()))
        _load(connection, "staged", staged_schema(space.id_type), space, offer.staged, number)
        num = select_resumed(connection, offer.pieces, offer.doubtful, space.request.retry_failed)
        if offer.removed:
            _load(connection, "removed", removed_schema(space.id_type), space, offer.removed, number)
            _load(connection, "superseded", dead_schema(space.id_type), space, offer.superseded, number)
            num += select_returned(connection, offer.living_runs)
        return _resumed(connection, space, offer, number, num, writes=writes)


def _all_slices(folder: Folder, slices: Slices) -> Iterator[pa.Table]:
    """All slices, some at a time."""
    step = 64
    for start in range(0, len(slices.rows), step):
        yield read_slices(folder, slices, start, min(len(slices.rows), start + step))


def _resumed(
    connection: duckdb.DuckDBPyConnection, space: Space, offer: Offer, number: int, num: int, *, writes: bool
) -> ResumedRange:
    numbers = [n for (n,) in connection.execute("SELECT DISTINCT number FROM resumed ORDER BY 1").fetchall()]
    failed = "FROM resumed WHERE error_code IS NOT NULL"
    by_code = connection.execute(f"SELECT error_code, count(*) {failed} GROUP BY 1 ORDER BY 1").fetchall()
    again = one_row(connection, f"SELECT count(*) {failed} AND is_retry")[0]
    if not writes:
        return ResumedRange(num, numbers, dict(by_code), again, 0, [], None, None)
    resumed = (
        write_parts(
            connection,
            "SELECT * FROM resumed",
            resumed_schema(space.id_type),
            space.folder,
            f"{space.prefix}/resumed-{number:05}",
            KEYS_ROWS,
        )
        if num
        else []
    )
    stored, lacking = _write_stored(connection, space, offer, number)
    rows = _write_rest(connection, space, number, is_placed=offer.places is not None)
    return ResumedRange(num, numbers, dict(by_code), again, lacking, resumed, rows, stored)


def _write_stored(
    connection: duckdb.DuckDBPyConnection, space: Space, offer: Offer, number: int
) -> tuple[Ordered | None, int]:
    """Rows for the heads, file by file; and how many lack their embedding."""
    if offer.places is None:
        return None, 0
    _load(connection, "places", places_schema(space.id_type), space, offer.places, number)
    num_placed = select_placed(connection, offer.embeddings)
    due = "FROM wanted ANTI JOIN resumed USING (illust_id, page) WHERE reason = 'heads'"
    lacking = one_row(connection, f"SELECT count(*) {due}")[0] - num_placed
    place = f"(number::UBIGINT << 40) + {POSITION}::UBIGINT"
    sql = f"SELECT *, {place} AS place FROM ({PLACED})"
    return _write_ordered(connection, space, number, "stored", sql, num_placed), lacking


def _write_rest(
    connection: duckdb.DuckDBPyConnection, space: Space, number: int, *, is_placed: bool
) -> Ordered | None:
    placed = " ANTI JOIN placed USING (illust_id, page)" if is_placed else ""
    sql = f"SELECT * FROM wanted ANTI JOIN resumed USING (illust_id, page){placed}"
    (num_rows,) = one_row(connection, f"SELECT count(*) FROM ({sql})")
    if is_steered(space.request):
        place = f"CASE WHEN is_tried THEN {tried_place_sql()} ELSE place END"
        sql = (
            f"SELECT * EXCLUDE (is_tried) REPLACE ({place} AS place) "
            f"FROM ({sql}) LEFT JOIN {TRIED} USING (illust_id, page)"
        )
    return _write_ordered(connection, space, number, "rest", sql, num_rows)
