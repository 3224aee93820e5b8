"""The narrow table written anew: rows of the live snapshot that are carried over, merged with the night's rows, in key order.

Two steps, each a pure function that a Ray task runs: ``sort_changes`` checks the night's rows, sorts them out of core and cuts the key
space into ranges; ``merge_range`` merges one range in memory, so that ranges run side by side on as many cores as there are.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.changed_rows import check_changed_keys, disk_bytes, load_changed_keys, sorted_changes
from pix2score.engine import MEMORY_BYTES, engine, load, parquet_batches, parquet_bytes, query, side_by_side
from pix2score.errors import MAX_ATTEMPTS, RETRIED_ERROR_CODES
from pix2score.layout import DataFile, Key, Layout, checked_bytes, unique_path, write_file
from pix2score.plan import Part
from pix2score.schema import KEY, OK, dead_schema, key_fields
from pix2score.scratch import scratch_folder
from pix2score.staged import Receipt
from pix2score.storage import Folder

PART_ROWS = 250_000
RANGE_BYTES = 80 * 2**20
"""Of the changed rows of a range in memory, and of its live ones. Merging holds them six times over (measured with one head of 1,000 bins:
774 MiB for 128), of 1 GiB declared."""
SORT_MEMORY_BYTES = MEMORY_BYTES * 3 // 4
"""DuckDB's share while it sorts keys; what waits to be written as ranges has the rest."""
_NUM_WRITERS = 2  # ranges written side by side: three of them, and their files, are in memory
DEAD_ROWS = 1_000_000
"""Of a file of the dead, some 20 bytes each."""


@dataclass(frozen=True, slots=True)
class Night:
    """What changes: the rows that this run staged, those it takes up from earlier pieces, and the keys that go."""

    own: list[Receipt]
    taken: list[Part]
    taken_from: list[Receipt]
    gone: list[Part]
    num_changed: int
    """Rows of ``own`` and ``taken`` together, as planned."""
    dead: list[DataFile] = field(default_factory=list)
    """Files of the dead that stay unless one of them comes back."""


@dataclass(frozen=True, slots=True)
class Range:
    """Keys from ``low`` (None: the smallest) up to but without ``high`` (None: the greatest), and what they hold."""

    low: Key | None
    high: Key | None
    live: tuple[DataFile, ...]
    changed: Part | None
    """New rows of the range, sorted."""
    gone: Part | None


@dataclass(slots=True)
class Merged:
    """Files of the new narrow table and what they hold; those of several ranges add up."""

    files: list[DataFile] = field(default_factory=list)
    rows: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    """Run -> ok rows that it scored: its live embeddings."""
    is_dead_anew: bool = False
    """Whether ``files`` hold the dead of earlier nights too, without those that came back."""
    kept: int = 0
    """Rows that keep the answer of an earlier content, as tonight's could not be had."""

    def add(self, other: Merged) -> None:
        """Take in another range."""
        self.files += other.files
        self.rows += other.rows
        self.failed += other.failed
        self.runs += other.runs
        self.kept += other.kept
        self.is_dead_anew |= other.is_dead_anew


def range_rows(layout: Layout) -> int:
    """Rows of a range: ``PART_ROWS``, fewer where heads are wide."""
    row_bytes = 150 + sum(4 * head.num_bins + 10 for head in layout.heads)
    return max(1, min(PART_ROWS, RANGE_BYTES // row_bytes))


def sort_changes(
    folder: Folder, prefix: str, run: str, layout: Layout, live: Sequence[DataFile], night: Night
) -> tuple[list[Range], Merged]:
    """The ranges to merge; their changes stand sorted below ``prefix``. ``Merged`` holds the files of ranges in which nothing changes, and
    dead files of pieces that were taken up in part.

    Raises ``StorageError`` if the pieces do not hold the planned number of rows with distinct keys: nothing may be published then.
    """
    ranges, merged, most_rows = [], Merged(), range_rows(layout)
    pieces, what = [*night.own, *night.taken_from], f"sorting {night.num_changed} changed rows"
    with engine(SORT_MEMORY_BYTES, disk_bytes=disk_bytes(pieces), what=what) as connection, scratch_folder() as scratch:
        unused = load_changed_keys(connection, folder, layout, night.own, night.taken, night.taken_from)
        check_changed_keys(connection, run, night.num_changed)
        _load_keys(connection, "gone", folder, night.gone, layout)
        changed = sorted_changes(connection, folder, layout, pieces, scratch, max(1, most_rows // 2))
        cuts = ((cut, _gone_within(connection, layout, cut)) for cut in _cuts(changed, _neighbours(live, most_rows), most_rows))
        for cut, one in side_by_side(lambda cut: (cut[0], _range(folder, prefix, *cut)), cuts, _NUM_WRITERS):
            if cut.is_whole and not one.changed and not one.gone and all(file.runs is not None for file in one.live):
                merged.add(_as_they_are(one.live))
            else:
                ranges.append(one)
        merged.add(_without_returned(connection, folder, run, layout, night))
    merged.files += _write_dead(folder, run, unused) if unused else []
    return ranges, merged


def _without_returned(connection: duckdb.DuckDBPyConnection, folder: Folder, run: str, layout: Layout, night: Night) -> Merged:
    """Files of the dead anew, if rows are taken back whose embeddings they list."""
    pieces = [receipt.scores.path for receipt in night.taken_from if not receipt.is_staged]
    if not pieces:
        return Merged()
    schema = dead_schema(layout.id_type)
    load(connection, "buried", schema, parquet_batches(folder, [file.path for file in night.dead], schema.names))
    places = pa.table({"piece": pieces})
    load(connection, "back_from", places.schema, iter(places.to_batches()))
    back = "(SELECT illust_id, page, run FROM taken SEMI JOIN back_from USING (piece))"
    rows = query(connection, f"SELECT * FROM buried ANTI JOIN {back} USING (illust_id, page, run)", schema, DEAD_ROWS)
    return Merged(files=[file for table in rows for file in _write_dead(folder, run, table)], is_dead_anew=True)


def _as_they_are(files: Sequence[DataFile]) -> Merged:
    merged = Merged(files=list(files), rows=sum(file.rows for file in files))
    for file in files:
        merged.failed.update(file.failed or {})
        merged.runs.update(file.runs or {})
        merged.kept += file.kept
    return merged


def _load_keys(connection: duckdb.DuckDBPyConnection, table: str, folder: Folder, parts: Sequence[Part], layout: Layout) -> None:
    schema = pa.schema(key_fields(layout.id_type))
    load(connection, table, schema, parquet_batches(folder, [part.path for part in parts], schema.names))


def checked_table(folder: Folder, file: DataFile) -> pa.Table:
    """Rows of a file whose content is what its manifest or receipt says. Raises ``DataError`` naming one that was altered or is gone."""
    return pq.read_table(pa.BufferReader(checked_bytes(folder, file)))


def _neighbours(files: Sequence[DataFile], most_rows: int) -> list[list[DataFile]]:
    """Files in key order, small ones together up to ``most_rows``."""
    groups: list[list[DataFile]] = []
    for file in files:
        if groups and sum(f.rows for f in groups[-1]) + file.rows <= most_rows:
            groups[-1].append(file)
        else:
            groups.append([file])
    return groups


@dataclass(frozen=True, slots=True)
class _Cut:
    """A range while it is cut out: its bounds, the live files that reach into it, its changed rows."""

    low: Key | None
    high: Key | None
    live: tuple[DataFile, ...]
    changed: pa.Table | None
    is_whole: bool
    """Whether all rows of ``live`` lie within."""


def _cuts(changed: Iterator[pa.Table], groups: Sequence[list[DataFile]], most_rows: int) -> Iterator[_Cut]:
    """Cuts the key space at the first key of every group of live files, and wherever ``most_rows`` changed rows have come together."""
    rows = _Sorted(changed)
    for number, group in enumerate(groups or [[]]):
        start = _start(group) if number else None
        end = _start(groups[number + 1]) if number + 1 < len(groups) else None
        low = start
        while True:
            taken = rows.take(most_rows, end)
            following = rows.first(end)
            yield _Cut(low, following or end, tuple(group), taken, is_whole=low == start and following is None)
            if following is None:
                break
            low = following


class _Sorted:
    """Rows in key order, read as they are asked for."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._ahead: pa.Table | None = next(tables, None)

    def take(self, most_rows: int, end: Key | None) -> pa.Table | None:
        """The next rows, at most so many, that stand before ``end``; None if there are none."""
        taken: list[pa.Table] = []
        while self._ahead is not None and most_rows:
            number = self._ahead.num_rows if end is None else int(pc.sum(_before(self._ahead, end)).as_py() or 0)
            number = min(number, most_rows)
            if not number:
                break
            taken.append(self._ahead.slice(0, number))
            most_rows -= number
            self._ahead = self._ahead.slice(number)
            if not self._ahead.num_rows:
                self._ahead = next(self._tables, None)
        return pa.concat_tables(taken) if taken else None

    def first(self, end: Key | None) -> Key | None:
        """Key of the next row, None if it does not stand before ``end``."""
        if self._ahead is None:
            return None
        key = (self._ahead.column("illust_id")[0].as_py(), self._ahead.column("page")[0].as_py())
        return key if end is None or _before(self._ahead.slice(0, 1), end)[0].as_py() else None


def _start(group: Sequence[DataFile]) -> Key:
    """Smallest key of a group."""
    key = group[0].first_key
    assert key is not None, f"{group[0].path} stands in a manifest without its first key"
    return key


def _before(rows: pa.Table, key: Key) -> pa.ChunkedArray:
    ids, pages = rows.column("illust_id"), rows.column("page")
    return pc.or_(pc.less(ids, key[0]), pc.and_(pc.equal(ids, key[0]), pc.less(pages, key[1])))


def _gone_within(connection: duckdb.DuckDBPyConnection, layout: Layout, cut: _Cut) -> pa.Table:
    """Removed keys within the bounds of ``cut``."""
    bounds = [(sign, key) for sign, key in ((">", cut.low), ("<", cut.high)) if key is not None]
    tests = [f"(illust_id {sign} ? OR (illust_id = ? AND page {'>=' if sign == '>' else '<'} ?))" for sign, _ in bounds]
    values = [value for _, key in bounds for value in (key[0], *key)]
    where = f"WHERE {' AND '.join(tests)}" if tests else ""
    found: pa.Table = connection.cursor().sql(f"SELECT illust_id, page FROM gone {where}", params=values).to_arrow_table()
    return found.cast(pa.schema(key_fields(layout.id_type)))


def _range(folder: Folder, prefix: str, cut: _Cut, gone: pa.Table) -> Range:
    """``cut`` with its changed and its removed keys in storage."""
    return Range(cut.low, cut.high, cut.live, _part(folder, prefix, "changed", cut.changed), _part(folder, prefix, "gone", gone))


def _part(folder: Folder, prefix: str, name: str, rows: pa.Table | None) -> Part | None:
    if rows is None or not rows.num_rows:
        return None
    path = f"{prefix}/{name}-{uuid.uuid4().hex[:16]}.parquet"
    folder.publish(path, parquet_bytes(rows, compression="lz4"))  # read once and soon: 1.0 µs a row, with zstd 1.6; 180 bytes, 152
    return Part(path, rows.num_rows)


def merge_range(folder: Folder, run: str, layout: Layout, keys: Range) -> Merged:
    """The rows of one range stand in new files of the narrow table, sorted; embeddings that lost their row in a file of the dead."""
    schema = layout.scores
    live = _rows_of_live(folder, schema, keys)
    changed = pq.read_table(pa.BufferReader(folder.read(keys.changed.path))).cast(schema) if keys.changed else schema.empty_table()
    gone = pq.read_table(pa.BufferReader(folder.read(keys.gone.path))) if keys.gone else None
    live, changed = keep_answers(live, changed)
    order, replaced = _merge_order(live, changed, gone)
    dead = dead_schema(layout.id_type)
    lost: pa.Table = live.select([*dead.names, "status"]).take(replaced)
    left = _left(live, gone)
    rows = pa.concat_tables([live, changed]).take(order)
    del live, changed
    merged = Merged()
    num_files = -(-rows.num_rows // (range_rows(layout) + range_rows(layout) // 2))
    size = -(-rows.num_rows // max(1, num_files))
    for start in range(0, rows.num_rows, max(1, size)):
        merged.add(_as_they_are([write_file(folder, "scores", unique_path("scores", run), rows.slice(start, size))]))
    merged.files += _write_dead(folder, run, lost.filter(pc.equal(lost.column("status"), OK)).select(dead.names))
    merged.files += [write_file(folder, "removed", unique_path("removed", run), left)] if left.num_rows else []
    return merged


def _left(live: pa.Table, gone: pa.Table | None) -> pa.Table:
    """Rows with an answer whose keys go."""
    if gone is None:
        return live.slice(0, 0)
    positions = live.select([*KEY, "status", "error_code"]).append_column("position", pa.array(range(live.num_rows), pa.int64()))
    with duckdb.connect() as connection:
        connection.execute("SET threads=1")
        connection.register("live", positions)
        connection.register("gone", gone)
        sql = f"SELECT position FROM live SEMI JOIN gone USING (illust_id, page) WHERE status = '{OK}' AND error_code IS NULL ORDER BY 1"
        return live.take(_positions(connection, sql))


def keep_answers(live: pa.Table, changed: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both tables, where a row of ``live`` with an answer stays whose new content cannot be had, for as many nights as it is tried.

    It stays as it is, with its fingerprint, run and embedding; ``error_code``, ``error_detail`` and ``attempts`` tell of the failure, and
    the failed row of ``changed`` goes.
    """
    pairs = _answered(live, changed)
    if not pairs.num_rows:
        return live, changed
    stays, fails = (pairs.column(name).to_numpy() for name in ("stays", "fails"))
    source = np.arange(live.num_rows)
    source[stays] = live.num_rows + fails
    for name in ("error_code", "error_detail", "attempts"):
        both = pa.chunked_array([*live.column(name).chunks, *changed.column(name).chunks], live.column(name).type)
        live = live.set_column(live.schema.get_field_index(name), live.schema.field(name), both.take(pa.array(source)))
    is_left = np.ones(changed.num_rows, dtype=bool)
    is_left[fails] = False
    return live, changed.filter(pa.array(is_left))


def _answered(live: pa.Table, changed: pa.Table) -> pa.Table:
    """Positions of ok rows of ``live`` (``stays``) and of the failed rows of ``changed`` (``fails``) that would take their place."""
    is_passing = pc.and_(
        pc.is_in(changed.column("error_code"), pa.array(RETRIED_ERROR_CODES)), pc.less(changed.column("attempts"), MAX_ATTEMPTS)
    )
    failed = np.flatnonzero(is_passing.to_numpy(zero_copy_only=False))
    if not len(failed) or not live.num_rows:
        return pa.table({"stays": pa.array([], pa.int64()), "fails": pa.array([], pa.int64())})
    fails = changed.select(list(KEY)).take(pa.array(failed)).append_column("fails", pa.array(failed))
    stays = live.select([*KEY, "status"]).append_column("stays", pa.array(range(live.num_rows), pa.int64()))
    with duckdb.connect() as connection:
        connection.execute("SET threads=1")
        for name, table in (("live", stays), ("failed", fails)):
            connection.register(name, table)
        sql = f"SELECT stays, fails FROM live JOIN failed USING (illust_id, page) WHERE status = '{OK}'"
        found: pa.Table = connection.sql(sql).to_arrow_table()
    return found


def _rows_of_live(folder: Folder, schema: pa.Schema, keys: Range) -> pa.Table:
    tables = [checked_table(folder, file).select(schema.names).cast(schema) for file in keys.live]
    rows = pa.concat_tables(tables) if tables else schema.empty_table()
    if keys.low is not None:
        rows = rows.filter(pc.invert(_before(rows, keys.low)))
    return rows if keys.high is None else rows.filter(_before(rows, keys.high))


def _merge_order(live: pa.Table, changed: pa.Table, gone: pa.Table | None) -> tuple[pa.Array, pa.Array]:
    """Positions in live + changed of the rows that stay, in key order; positions of live rows that do not."""
    connection = duckdb.connect()
    try:
        connection.execute("SET threads=1")  # one task of many side by side
        for name, table in (("live", live), ("changed", changed), ("gone", gone if gone is not None else live.slice(0, 0))):
            connection.register(
                name, table.select(list(KEY)).append_column("position", pa.array(range(table.num_rows), pa.int64()))
            )
        replaced = "SELECT illust_id, page FROM changed UNION ALL SELECT illust_id, page FROM gone"
        stays = (
            f"SELECT illust_id, page, position FROM live ANTI JOIN ({replaced}) USING (illust_id, page) "
            f"UNION ALL SELECT illust_id, page, position + {live.num_rows} FROM changed"
        )
        order = f"SELECT position FROM ({stays}) ORDER BY illust_id, page"
        lost = f"SELECT position FROM live SEMI JOIN ({replaced}) USING (illust_id, page) ORDER BY 1"
        return _positions(connection, order), _positions(connection, lost)
    finally:
        connection.close()


def _positions(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Array:
    found: pa.Table = connection.sql(sql).to_arrow_table()
    return found.column(0).combine_chunks()


def _write_dead(folder: Folder, run: str, rows: pa.Table) -> list[DataFile]:
    if not rows.num_rows:
        return []
    return [write_file(folder, "dead", unique_path("dead", run), rows)]
