"""The narrow table written anew: rows of the live snapshot that are carried over, merged with the night's rows, in key order.

Two steps, each a pure function that a Ray task runs: ``sort_changes`` checks the night's rows, sorts them out of core and cuts the key
space into ranges; ``merge_range`` merges one range in memory, so that ranges run side by side on as many cores as there are.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.changed_rows import check_changed_keys, disk_bytes, load_changed_keys, sorted_changes
from pix2score.cuts import Cut, before, cuts, neighbours
from pix2score.engine import MEMORY_BYTES, engine, in_memory, load, numbered, parquet_batches, parquet_bytes, query, side_by_side
from pix2score.kept_answers import keep_answers
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
        pending = ((cut, _gone_within(connection, layout, cut)) for cut in cuts(changed, neighbours(live, most_rows), most_rows))
        for cut, one in side_by_side(lambda cut: (cut[0], _range(folder, prefix, *cut)), pending, _NUM_WRITERS):
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


def _gone_within(connection: duckdb.DuckDBPyConnection, layout: Layout, cut: Cut) -> pa.Table:
    """Removed keys within the bounds of ``cut``."""
    bounds = [(sign, key) for sign, key in ((">", cut.low), ("<", cut.high)) if key is not None]
    tests = [f"(illust_id {sign} ? OR (illust_id = ? AND page {'>=' if sign == '>' else '<'} ?))" for sign, _ in bounds]
    values = [value for _, key in bounds for value in (key[0], *key)]
    where = f"WHERE {' AND '.join(tests)}" if tests else ""
    found: pa.Table = connection.cursor().sql(f"SELECT illust_id, page FROM gone {where}", params=values).to_arrow_table()
    return found.cast(pa.schema(key_fields(layout.id_type)))


def _range(folder: Folder, prefix: str, cut: Cut, gone: pa.Table) -> Range:
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
    sql = (
        f"SELECT position FROM live SEMI JOIN gone USING (illust_id, page) WHERE status = '{OK}' AND error_code IS NULL ORDER BY 1"
    )
    return live.take(in_memory(sql, live=numbered(live, *KEY, "status", "error_code"), gone=gone).column(0).combine_chunks())


def _rows_of_live(folder: Folder, schema: pa.Schema, keys: Range) -> pa.Table:
    tables = [checked_table(folder, file).select(schema.names).cast(schema) for file in keys.live]
    rows = pa.concat_tables(tables) if tables else schema.empty_table()
    if keys.low is not None:
        rows = rows.filter(pc.invert(before(rows, keys.low)))
    return rows if keys.high is None else rows.filter(before(rows, keys.high))


def _merge_order(live: pa.Table, changed: pa.Table, gone: pa.Table | None) -> tuple[pa.Array, pa.Array]:
    """Positions in live + changed of the rows that stay, in key order; positions of live rows that do not."""
    nothing = live.slice(0, 0)
    tables = {
        "live": numbered(live, *KEY),
        "changed": numbered(changed, *KEY),
        "gone": (nothing if gone is None else gone).select(list(KEY)),
    }
    replaced = "SELECT illust_id, page FROM changed UNION ALL SELECT illust_id, page FROM gone"
    stays = (
        f"SELECT illust_id, page, position FROM live ANTI JOIN ({replaced}) USING (illust_id, page) "
        f"UNION ALL SELECT illust_id, page, position + {live.num_rows} FROM changed"
    )
    order = f"SELECT position FROM ({stays}) ORDER BY illust_id, page"
    lost = f"SELECT position FROM live SEMI JOIN ({replaced}) USING (illust_id, page) ORDER BY 1"
    return in_memory(order, **tables).column(0).combine_chunks(), in_memory(lost, **tables).column(0).combine_chunks()


def _write_dead(folder: Folder, run: str, rows: pa.Table) -> list[DataFile]:
    if not rows.num_rows:
        return []
    return [write_file(folder, "dead", unique_path("dead", run), rows)]
