"""One range of the scores table merged: rows carried over, and the night's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.catalog.keys import KEY, Key
from pix2score.nightly.bounds import within
from pix2score.nightly.carry import SortedPart, beside
from pix2score.nightly.cuts import range_rows
from pix2score.nightly.kept_answers import keep_answers
from pix2score.snapshots.tables import (
    EMBEDDING_RUN,
    OK,
    DataFile,
    Layout,
    checked_bytes,
    dead_schema,
    scores_schema,
    unique_path,
    upgraded,
    write_file,
)
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part
from pix2score.storage.sql import in_memory, numbered


@dataclass(frozen=True, slots=True)
class Range:
    """Keys from ``low`` up to but without ``high``, and what they hold.

    None is before the smallest, or behind the greatest.
    """

    low: Key | None
    high: Key | None
    live: tuple[DataFile, ...]
    changed: Part | None
    """New rows of the range, sorted."""
    removed: Part | None


@dataclass(slots=True)
class Merged:
    """Files of the new scores table and what they hold; those of several ranges add up."""

    files: list[DataFile] = field(default_factory=list)
    rows: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    """Run -> ok rows whose embedding it made: its live embeddings."""
    is_dead_rewritten: bool = False
    """Whether ``files`` hold the dead of earlier nights too, without those that came back."""
    kept: int = 0
    """Rows that keep the answer of an earlier content, as tonight's could not be had."""
    pending: int = 0
    """Rows not scored yet."""

    def add(self, other: Merged) -> None:
        """Take in another range."""
        self.files += other.files
        self.rows += other.rows
        self.failed += other.failed
        self.runs += other.runs
        self.kept += other.kept
        self.pending += other.pending
        self.is_dead_rewritten |= other.is_dead_rewritten


def unchanged(files: Sequence[DataFile]) -> Merged:
    """Files as they are, with what they hold."""
    merged = Merged(files=list(files), rows=sum(file.rows for file in files))
    for file in files:
        merged.failed.update(file.failed or {})
        merged.runs.update(file.runs or {})
        merged.kept += file.kept
        merged.pending += file.pending
    return merged


def checked_table(folder: Folder, file: DataFile) -> pa.Table:
    """Rows of a file whose content is what its manifest or receipt says.

    Raises ``DataError`` naming one that was altered or is missing.
    """
    return pq.read_table(pa.BufferReader(checked_bytes(folder, file)))


def merge_range(
    folder: Folder,
    run: str,
    layout: Layout,
    keys: Range,
    is_same_model: bool = True,
    carried: Sequence[SortedPart] = (),
) -> Merged:
    """Write the rows of one range, sorted, to new files of the scores table; return those files.

    Embeddings that lost their row are listed in a file of the dead. Live rows of another model stay only if
    they have failed: of an answered one, the changed row with the same embedding is expected. ``carried``:
    catalog columns of all keys, which the new files have too.
    """
    changed = (
        pq.read_table(pa.BufferReader(folder.read(keys.changed.path))).cast(layout.scores)
        if keys.changed
        else layout.scores.empty_table()
    )
    removed = pq.read_table(pa.BufferReader(folder.read(keys.removed.path))) if keys.removed else None
    return merge_rows(folder, run, layout, keys, changed, removed, is_same_model, carried)


def merge_rows(
    folder: Folder,
    run: str,
    layout: Layout,
    keys: Range,
    changed: pa.Table,
    removed: pa.Table | None,
    is_same_model: bool,
    carried: Sequence[SortedPart],
) -> Merged:
    """As ``merge_range``, of rows and keys that are in memory."""
    live = _rows_of_live(folder, layout.scores, keys, is_same_model=is_same_model)
    if is_same_model:
        live, changed = keep_answers(live, changed)
    dead, left = _lost(live, changed, removed), _left(live, removed) if is_same_model else live[:0]
    if not is_same_model:
        live = live.filter(pc.not_equal(live.column("status"), OK))
    rows = pa.concat_tables([live, changed]).take(_merge_order(live, changed, removed))
    del live, changed
    if carried and rows.num_rows:
        rows = beside(rows, folder, carried, keys.low, keys.high)
    merged = Merged()
    num_files = -(-rows.num_rows // (range_rows(layout) + range_rows(layout) // 2))
    size = -(-rows.num_rows // max(1, num_files))
    for start in range(0, rows.num_rows, max(1, size)):
        merged.add(
            unchanged([write_file(folder, "scores", unique_path("scores", run), rows.slice(start, size))])
        )
    merged.files += write_dead(folder, run, dead)
    merged.files += (
        [write_file(folder, "removed", unique_path("removed", run), left)] if left.num_rows else []
    )
    return merged


def _lost(live: pa.Table, changed: pa.Table, removed: pa.Table | None) -> pa.Table:
    """Keys of live rows that do not stay, with the run of their embedding, unless the new row has it too."""
    names = [*KEY, EMBEDDING_RUN]
    tables = {
        "live": numbered(live, *names, "status"),
        "changed": changed.select(names),
        "removed": (live.slice(0, 0) if removed is None else removed).select(list(KEY)),
    }
    gone = "SELECT illust_id, page FROM changed UNION ALL SELECT illust_id, page FROM removed"
    sql = (
        f"SELECT position FROM live SEMI JOIN ({gone}) USING (illust_id, page) "
        f"ANTI JOIN changed USING (illust_id, page, {EMBEDDING_RUN}) WHERE status = '{OK}' ORDER BY 1"
    )
    found: pa.Table = live.take(in_memory(sql, **tables).column(0).combine_chunks())
    id_type = live.schema.field("illust_id").type
    return found.select(names).rename_columns([*KEY, "run"]).cast(dead_schema(id_type))


def _left(live: pa.Table, removed: pa.Table | None) -> pa.Table:
    """Rows with an answer whose keys are removed."""
    if removed is None:
        return live.slice(0, 0)
    sql = (
        f"SELECT position FROM live SEMI JOIN removed USING (illust_id, page) WHERE status = '{OK}' AND "
        "error_code IS NULL ORDER BY 1"
    )
    return live.take(
        in_memory(sql, live=numbered(live, *KEY, "status", "error_code"), removed=removed)
        .column(0)
        .combine_chunks()
    )


def _rows_of_live(folder: Folder, schema: pa.Schema, keys: Range, *, is_same_model: bool) -> pa.Table:
    fit = _columns_of if is_same_model else _common_columns_of
    tables = [fit(upgraded(checked_table(folder, file)), schema) for file in keys.live]
    rows = pa.concat_tables(tables) if tables else schema.empty_table()
    return within(rows, keys.low, keys.high)


def _columns_of(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    return rows.select(schema.names).cast(schema)


def _common_columns_of(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of another model: columns of its heads that tonight's have, too, are empty."""
    of_heads = {field.name for field in schema} - {field.name for field in scores_schema(pa.int64(), ())}
    columns = [
        pa.nulls(rows.num_rows, field.type) if field.name in of_heads else rows.column(field.name)
        for field in schema
    ]
    return pa.table(columns, names=schema.names).cast(schema)


def _merge_order(live: pa.Table, changed: pa.Table, removed: pa.Table | None) -> pa.Array:
    """Positions in live + changed of the rows that stay, in key order."""
    nothing = live.slice(0, 0)
    tables = {
        "live": numbered(live, *KEY),
        "changed": numbered(changed, *KEY),
        "removed": (nothing if removed is None else removed).select(list(KEY)),
    }
    replaced = "SELECT illust_id, page FROM changed UNION ALL SELECT illust_id, page FROM removed"
    stays = (
        f"SELECT illust_id, page, position FROM live ANTI JOIN ({replaced}) USING (illust_id, page) "
        f"UNION ALL SELECT illust_id, page, position + {live.num_rows} FROM changed"
    )
    order = f"SELECT position FROM ({stays}) ORDER BY illust_id, page"
    return in_memory(order, **tables).column(0).combine_chunks()


def write_dead(folder: Folder, run: str, rows: pa.Table) -> list[DataFile]:
    """Write keys whose embedding is no longer live, if there are any; return the file in a list."""
    if not rows.num_rows:
        return []
    return [write_file(folder, "dead", unique_path("dead", run), rows)]
