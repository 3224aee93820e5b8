"""The narrow table written anew: rows of the live snapshot that are carried over, merged with the night's rows, in key order.

Two steps, each a pure function that a Ray task runs: ``sort_changes`` checks the night's rows, sorts them out of core and cuts the key
space into ranges; ``merge_range`` merges one range in memory, so that ranges run side by side on as many cores as there are.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.engine import engine, load, one_row, parquet_batches, parquet_bytes, query
from pix2score.errors import DataError, StorageError
from pix2score.layout import DataFile, Key, Layout, unique_path, write_file
from pix2score.plan import Part
from pix2score.schema import FAILED, KEY, OK, dead_schema, key_fields
from pix2score.staged import Receipt, failed_by_code
from pix2score.storage import Folder

PART_ROWS = 250_000
_BATCH_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Night:
    """What changes: the rows that this run staged, those it takes up from earlier pieces, and the keys that go."""

    own: list[Receipt]
    taken: list[Part]
    taken_from: list[Receipt]
    gone: list[Part]
    num_changed: int
    """Rows of ``own`` and ``taken`` together, as planned."""


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

    def add(self, other: Merged) -> None:
        """Take in another range."""
        self.files += other.files
        self.rows += other.rows
        self.failed += other.failed
        self.runs += other.runs


def sort_changes(
    folder: Folder, prefix: str, run: str, layout: Layout, live: Sequence[DataFile], night: Night
) -> tuple[list[Range], Merged]:
    """The ranges to merge; their changes stand sorted below ``prefix``. ``Merged`` holds dead files of pieces that were taken up in part.

    Raises ``StorageError`` if the pieces do not hold the planned number of rows with distinct keys: nothing may be published then.
    """
    with engine() as connection:
        unused = _load_changes(connection, folder, run, layout, night)
        _load_keys(connection, "gone", folder, night.gone, layout)
        ranges = list(_ranges(connection, folder, prefix, layout, _neighbours(live)))
    return ranges, Merged(files=_write_dead(folder, run, unused) if unused else [])


def _load_changes(connection: duckdb.DuckDBPyConnection, folder: Folder, run: str, layout: Layout, night: Night) -> pa.Table | None:
    """Table ``changed``; ok rows of taken pieces that are not taken come back, as their embeddings are dead."""
    schema = layout.scores
    load(connection, "changed", schema, _checked_batches(folder, [receipt.scores for receipt in night.own], schema))
    unused = None
    if night.taken:
        _load_keys(connection, "taken", folder, night.taken, layout, with_run=True)
        load(connection, "offered", schema, _checked_batches(folder, [receipt.scores for receipt in night.taken_from], schema))
        # A run stages a key once, but for a piece of a task that ran twice: then its first receipt counts.
        connection.execute("INSERT INTO changed SELECT * FROM offered SEMI JOIN taken USING (illust_id, page, run)")
        rest = f"SELECT illust_id, page, run FROM offered ANTI JOIN taken USING (illust_id, page, run) WHERE status = '{OK}'"
        unused = pa.Table.from_batches(
            [b for t in query(connection, rest, dead_schema(layout.id_type)) for b in t.to_batches()], dead_schema(layout.id_type)
        )
    rows, keys = one_row(
        connection, "SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT illust_id, page FROM changed)) FROM changed"
    )
    if not rows == keys == night.num_changed:
        raise StorageError(f"run {run}: {rows} staged rows with {keys} keys, planned {night.num_changed}: not published")
    return unused if unused is not None and unused.num_rows else None


def _load_keys(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    folder: Folder,
    parts: Sequence[Part],
    layout: Layout,
    *,
    with_run: bool = False,
) -> None:
    schema = dead_schema(layout.id_type) if with_run else pa.schema(key_fields(layout.id_type))
    load(connection, table, schema, parquet_batches(folder, [part.path for part in parts], schema.names))


def _checked_batches(folder: Folder, files: Sequence[DataFile], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for file in files:
        yield from checked_table(folder, file).select(schema.names).cast(schema).to_batches(max_chunksize=_BATCH_ROWS)


def checked_table(folder: Folder, file: DataFile) -> pa.Table:
    """Rows of a file whose content is what its manifest or receipt says. Raises ``DataError`` naming one that was altered or is gone."""
    try:
        data = folder.read(file.path)
    except FileNotFoundError:
        raise DataError(f"{folder.full(file.path)} is missing: nothing was published") from None
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise DataError(f"{folder.full(file.path)} was altered: its rows are not carried over; --full scores everything again")
    return pq.read_table(pa.BufferReader(data))


def _neighbours(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Files in key order, small ones together up to ``PART_ROWS``."""
    groups: list[list[DataFile]] = []
    for file in files:
        if groups and sum(f.rows for f in groups[-1]) + file.rows <= PART_ROWS:
            groups[-1].append(file)
        else:
            groups.append([file])
    return groups


def _ranges(
    connection: duckdb.DuckDBPyConnection, folder: Folder, prefix: str, layout: Layout, groups: Sequence[list[DataFile]]
) -> Iterator[Range]:
    """Cuts at the first key of every group, and wherever ``PART_ROWS`` new rows have come together."""
    starts = [_start(group) for group in groups[1:]]
    low: Key | None = None
    pending: list[pa.Table] = []

    def close(high: Key | None) -> Range:
        files = _group_of(groups, low)
        return _write_range(connection, folder, prefix, layout, low, high, files, pa.concat_tables(pending) if pending else None)

    for rows in query(connection, "SELECT * FROM changed ORDER BY illust_id, page", layout.scores, _BATCH_ROWS):
        rest = rows
        while rest.num_rows:
            num_before = rest.num_rows if not starts else _num_before(rest, starts[0])
            room = PART_ROWS - sum(table.num_rows for table in pending)
            cut = min(num_before, room)
            if cut:
                pending.append(rest.slice(0, cut))
            rest = rest.slice(cut)
            if not rest.num_rows:
                break
            high = starts.pop(0) if cut == num_before else _first(rest)
            yield close(high)
            low, pending = high, []
    for end in [*starts, None]:
        yield close(end)
        low, pending = end, []


def _group_of(groups: Sequence[list[DataFile]], low: Key | None) -> tuple[DataFile, ...]:
    """Files of the one group that holds a range from ``low``: ranges never reach over a group's first key."""
    begun = [group for i, group in enumerate(groups) if i == 0 or (low is not None and _start(group) <= low)]
    return tuple(begun[-1]) if begun else ()


def _start(group: Sequence[DataFile]) -> Key:
    """Smallest key of a group."""
    key = group[0].first_key
    assert key is not None, f"{group[0].path} stands in a manifest without its first key"
    return key


def _num_before(rows: pa.Table, key: Key) -> int:
    """How many sorted rows stand before ``key``."""
    return int(pc.sum(_before(rows, key)).as_py() or 0)


def _before(rows: pa.Table, key: Key) -> pa.ChunkedArray:
    ids, pages = rows.column("illust_id"), rows.column("page")
    return pc.or_(pc.less(ids, key[0]), pc.and_(pc.equal(ids, key[0]), pc.less(pages, key[1])))


def _first(rows: pa.Table) -> Key:
    return rows.column("illust_id")[0].as_py(), rows.column("page")[0].as_py()


def _write_range(
    connection: duckdb.DuckDBPyConnection,
    folder: Folder,
    prefix: str,
    layout: Layout,
    low: Key | None,
    high: Key | None,
    live: tuple[DataFile, ...],
    changed: pa.Table | None,
) -> Range:
    schema = pa.schema(key_fields(layout.id_type))
    bounds = [(sign, key) for sign, key in ((">", low), ("<", high)) if key is not None]
    tests = [f"(illust_id {sign} ? OR (illust_id = ? AND page {'>=' if sign == '>' else '<'} ?))" for sign, _ in bounds]
    values = [value for _, key in bounds for value in (key[0], *key)]
    where = f"WHERE {' AND '.join(tests)}" if tests else ""
    found: pa.Table = connection.cursor().sql(f"SELECT illust_id, page FROM gone {where}", params=values).to_arrow_table()
    gone = found.cast(schema)
    return Range(low, high, live, _part(folder, prefix, "changed", changed), _part(folder, prefix, "gone", gone))


def _part(folder: Folder, prefix: str, name: str, rows: pa.Table | None) -> Part | None:
    if rows is None or not rows.num_rows:
        return None
    path = f"{prefix}/{name}-{uuid.uuid4().hex[:16]}.parquet"
    folder.publish(path, parquet_bytes(rows))
    return Part(path, rows.num_rows)


def merge_range(folder: Folder, run: str, layout: Layout, keys: Range) -> Merged:
    """The rows of one range stand in new files of the narrow table, sorted; embeddings that lost their row in a file of the dead."""
    schema = layout.scores
    live = _rows_of_live(folder, schema, keys)
    changed = pq.read_table(pa.BufferReader(folder.read(keys.changed.path))).cast(schema) if keys.changed else schema.empty_table()
    gone = pq.read_table(pa.BufferReader(folder.read(keys.gone.path))) if keys.gone else None
    order, replaced = _merge_order(live, changed, gone)
    rows = pa.concat_tables([live, changed]).take(order).combine_chunks()
    merged = Merged(rows=rows.num_rows, failed=Counter(failed_by_code(rows)), runs=_ok_rows_by_run(rows))
    num_files = -(-rows.num_rows // (PART_ROWS + PART_ROWS // 2))
    size = -(-rows.num_rows // max(1, num_files))
    merged.files = [write_file(folder, "scores", unique_path("scores", run), rows.slice(i * size, size)) for i in range(num_files)]
    lost: pa.Table = (
        live.take(replaced).select(dead_schema(layout.id_type).names).filter(pc.equal(live.column("status").take(replaced), OK))
    )
    merged.files += _write_dead(folder, run, lost)
    return merged


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


def _ok_rows_by_run(rows: pa.Table) -> Counter[str]:
    runs = rows.column("run").filter(pc.not_equal(rows.column("status"), FAILED)).value_counts().to_pylist()
    return Counter({entry["values"]: entry["counts"] for entry in runs})


def _write_dead(folder: Folder, run: str, rows: pa.Table) -> list[DataFile]:
    if not rows.num_rows:
        return []
    return [write_file(folder, "dead", unique_path("dead", run), rows)]
