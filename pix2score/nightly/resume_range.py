"""What earlier runs did of one range of keys, taken out of what is set down for it: see ``plan_range``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pix2score.nightly.bounds import within
from pix2score.nightly.order import TRIED, is_steered, tried_place_sql
from pix2score.nightly.resume import doubtful_pieces, published_rows, select_resumed, staged_schema
from pix2score.nightly.returned import removed_schema, select_returned
from pix2score.nightly.space import KEYS_ROWS, Space, load_dealt, range_engine, write_of_range
from pix2score.nightly.stored import PLACED, POSITION, places_schema, select_placed
from pix2score.nightly.work_order import Ordered
from pix2score.snapshots.tables import DataFile, dead_schema, resumed_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part, write_parts
from pix2score.storage.slices import Slices, read_slice, read_slices
from pix2score.storage.sql import load, one_row


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

    with range_engine(num_rows) as connection:
        load_dealt(connection, "staged", staged_schema(space.id_type), space, staged, number)
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
    with range_engine(num_rows) as connection:
        slices = wanted.slices
        tables = _all_slices(space.folder, slices)
        load(connection, "wanted", slices.schema, (batch for rows in tables for batch in rows.to_batches()))
        load_dealt(connection, "staged", staged_schema(space.id_type), space, offer.staged, number)
        num = select_resumed(connection, offer.pieces, offer.doubtful, space.request.retry_failed)
        if offer.removed:
            load_dealt(connection, "removed", removed_schema(space.id_type), space, offer.removed, number)
            load_dealt(connection, "superseded", dead_schema(space.id_type), space, offer.superseded, number)
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
    load_dealt(connection, "places", places_schema(space.id_type), space, offer.places, number)
    num_placed = select_placed(connection, offer.embeddings)
    due = "FROM wanted ANTI JOIN resumed USING (illust_id, page) WHERE reason = 'heads'"
    lacking = one_row(connection, f"SELECT count(*) {due}")[0] - num_placed
    place = f"(number::UBIGINT << 40) + {POSITION}::UBIGINT"
    sql = f"SELECT *, {place} AS place FROM ({PLACED})"
    return write_of_range(connection, space, number, "stored", sql, num_placed), lacking


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
    return write_of_range(connection, space, number, "rest", sql, num_rows)
