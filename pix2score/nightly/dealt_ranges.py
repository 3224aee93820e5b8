"""The scores table rewritten where one task could not sort what changes.

Tasks deal the night's rows out over the ranges of the table; a task for each range takes its own, sorts them
in memory and merges them with the live ones. Ranges are cut where the plan found that rows change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY, Key, key_fields
from pix2score.errors import StorageError
from pix2score.host.executor import Executor
from pix2score.nightly.bounds import Bounds, deal
from pix2score.nightly.carry import SortedPart
from pix2score.nightly.changed_rows import DIES, piece_rows
from pix2score.nightly.cuts import neighbours, planned_cuts, range_rows
from pix2score.nightly.deal import DEAL_BYTES, deal_keys, together
from pix2score.nightly.merge import Merged, Range, merge_rows, unchanged, write_dead
from pix2score.nightly.ranges import Changes, stays
from pix2score.snapshots.pieces import Receipt
from pix2score.snapshots.tables import DataFile, Layout, dead_schema, resumed_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.parts import Part
from pix2score.storage.slices import Slices, read_slice, read_slices
from pix2score.storage.sql import in_memory, numbered

SHARE_BYTES = 96 * 2**20
"""Of pieces that one task deals out, as Parquet: some 200 MB in memory, held twice."""
KEY_SHARE_ROWS = 2_000_000
_BY_KEY = [(name, "ascending") for name in KEY]


@dataclass(frozen=True, slots=True)
class Incoming:
    """What comes to the ranges, dealt out."""

    own: list[Slices] = field(default_factory=list)
    """Rows that this run staged."""
    offered: list[Slices] = field(default_factory=list)
    """Rows of earlier pieces, and the ``piece``; those count that ``resumed`` names."""
    resumed: list[Slices] = field(default_factory=list)
    removed: list[Slices] = field(default_factory=list)

    def rows(self, number: int, *names: str) -> int:
        """Rows of a range in the lists of these names."""
        return sum(int(one.rows[number]) for name in names for one in getattr(self, name))


def rewrite(
    executor: Executor,
    folder: Folder,
    prefix: str,
    run: str,
    layout: Layout,
    live: Sequence[DataFile],
    changes: Changes,
    keys: Sequence[Key],
    carried: Sequence[SortedPart],
) -> Merged:
    """Write the ranges that change; return all files of the new table, with the dead of this night.

    ``keys``: ``ScoringPlan.cuts``.

    Raises ``StorageError`` if the pieces do not hold the planned number of rows with distinct keys: nothing
    may be published then.
    """
    cuts = planned_cuts(neighbours(live, range_rows(layout)), keys)
    bounds = Bounds(tuple(cut.low for cut in cuts[1:] if cut.low is not None))
    incoming = _dealt(executor, folder, prefix, layout, bounds, changes)
    merged, calls = Merged(), []
    for number, cut in enumerate(cuts):
        is_changed = incoming.rows(number, "own", "resumed", "removed") > 0
        is_merged = is_changed or not (changes.may_stay and stays(cut))
        if not is_merged:
            merged.add(unchanged(cut.live))
        if is_merged or incoming.rows(number, "offered"):
            keys_of_range = Range(cut.low, cut.high, cut.live, None, None)
            calls.append(
                (folder, run, layout, incoming, number, keys_of_range, changes.is_same_model, carried)
                + (is_merged,)
            )
    num_changed = 0
    for one, rows in executor.each(merge_incoming, calls, memory_bytes=DEAL_BYTES):
        merged.add(one)
        num_changed += rows
    if num_changed != changes.num_changed:
        raise StorageError(
            f"run {run}: {num_changed} staged rows, planned {changes.num_changed}: not published"
        )
    merged.add(_without_returned(executor, folder, prefix, run, layout, changes))
    return merged


def _dealt(
    executor: Executor, folder: Folder, prefix: str, layout: Layout, bounds: Bounds, changes: Changes
) -> Incoming:
    def pieces(name: str, receipts: Sequence[Receipt]) -> list[Slices]:
        sizes = [receipt.scores.bytes for receipt in receipts]
        calls = [
            (folder, f"{prefix}/{name}", layout, bounds, some, name == "offered")
            for _, some in together(receipts, sizes, SHARE_BYTES)
        ]
        return _found(executor, deal_rows, calls)

    def keys(name: str, parts: Sequence[Part], schema: pa.Schema) -> list[Slices]:
        calls = [
            (folder, f"{prefix}/{name}", schema, bounds, [part.path for part in some])
            for _, some in together(parts, [part.rows for part in parts], KEY_SHARE_ROWS)
        ]
        return _found(executor, deal_keys, calls)

    return Incoming(
        own=pieces("own", changes.own),
        offered=pieces("offered", changes.resumed_from),
        resumed=keys("resumed", changes.resumed, resumed_schema(layout.id_type)),
        removed=keys("removed", changes.removed, pa.schema(key_fields(layout.id_type))),
    )


def _found(
    executor: Executor, function: Callable[..., Slices | None], calls: Sequence[tuple[Any, ...]]
) -> list[Slices]:
    return [one for one in executor.each(function, calls, memory_bytes=DEAL_BYTES) if one]


def deal_rows(
    folder: Folder, prefix: str, layout: Layout, bounds: Bounds, receipts: Sequence[Receipt], is_named: bool
) -> Slices | None:
    """SCORES rows of pieces by range, with the ``piece`` if ``is_named``."""
    schema = _offered_schema(layout) if is_named else layout.scores
    return deal(folder, prefix, schema, piece_rows(folder, receipts, schema), bounds)


def _offered_schema(layout: Layout) -> pa.Schema:
    return layout.scores.append(pa.field("piece", pa.string()))


def merge_incoming(
    folder: Folder,
    run: str,
    layout: Layout,
    incoming: Incoming,
    number: int,
    keys: Range,
    is_same_model: bool,
    carried: Sequence[SortedPart],
    is_merged: bool,
) -> tuple[Merged, int]:
    """As ``merge.merge_range``, of what came to a range; and how many rows of it change.

    Unless ``is_merged`` its files stay: only what is dead of it is written. Raises ``StorageError`` for a key
    that changes twice.
    """
    own = _table(folder, incoming.own, number, layout.scores)
    taken, unused = _taken(folder, incoming, number, layout)
    changed = pa.concat_tables([own, taken]).sort_by(_BY_KEY).combine_chunks()
    num_keys = changed.select(list(KEY)).group_by(list(KEY)).aggregate([]).num_rows
    if num_keys != changed.num_rows:
        raise StorageError(
            f"run {run}: {changed.num_rows} staged rows with {num_keys} keys in one range: not published"
        )
    merged, removed = Merged(), pa.schema(key_fields(layout.id_type))
    if is_merged:
        gone = _table(folder, incoming.removed, number, removed)
        merged = merge_rows(folder, run, layout, keys, changed, gone, is_same_model, carried)
    merged.files += write_dead(folder, run, unused)
    return merged, changed.num_rows


def _table(folder: Folder, dealt: Sequence[Slices], number: int, schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *read_slice(folder, dealt, number)])


def _taken(folder: Folder, incoming: Incoming, number: int, layout: Layout) -> tuple[pa.Table, pa.Table]:
    """Rows of earlier pieces that are resumed; and of the others, embeddings that are dead."""
    dead = dead_schema(layout.id_type)
    offered = _table(folder, incoming.offered, number, _offered_schema(layout))
    if not offered.num_rows:
        return layout.scores.empty_table(), dead.empty_table()
    resumed = _table(folder, incoming.resumed, number, resumed_schema(layout.id_type))
    named = numbered(offered, *KEY, "piece", "status", "run", "embedding_run")
    found = in_memory(
        "SELECT position FROM offered SEMI JOIN resumed USING (illust_id, page, piece)",
        offered=named,
        resumed=resumed,
    )
    rest = in_memory(
        f"SELECT illust_id, page, run FROM offered ANTI JOIN resumed USING (illust_id, page, piece) "
        f"WHERE {DIES} ORDER BY 1, 2",
        offered=named,
        resumed=resumed,
    )
    taken = offered.take(found.column(0).combine_chunks()).select(layout.scores.names)
    return taken, rest.cast(dead)


def _without_returned(
    executor: Executor, folder: Folder, prefix: str, run: str, layout: Layout, changes: Changes
) -> Merged:
    """The files of the dead, those rewritten that list embeddings of rows that are taken back."""
    pieces = [receipt.scores.path for receipt in changes.resumed_from if not receipt.is_staged]
    if not pieces:
        return Merged()
    parts = [part.path for part in changes.resumed]
    back = executor.call(collect_returned, folder, f"{prefix}/returned", layout, parts, pieces)
    calls = [(folder, run, layout, back, file) for file in changes.dead]
    found = [file for files in executor.each(drop_returned, calls) for file in files]
    return Merged(files=found, is_dead_rewritten=True)


def collect_returned(
    folder: Folder, prefix: str, layout: Layout, paths: Sequence[str], pieces: Sequence[str]
) -> Slices | None:
    """Keys, and runs of the embeddings, of resumed rows that are of ``pieces``: few of all."""
    schema, of_removed = resumed_schema(layout.id_type), pa.array(pieces)

    def tables() -> Iterator[pa.Table]:
        for batch in parquet_batches(folder, paths, schema.names):
            rows = pa.Table.from_batches([batch]).cast(schema)
            yield rows.filter(pc.is_in(rows.column("piece"), of_removed)).drop_columns(["piece"])

    return deal(folder, prefix, dead_schema(layout.id_type), tables(), Bounds())


def drop_returned(
    folder: Folder, run: str, layout: Layout, returned: Slices | None, file: DataFile
) -> list[DataFile]:
    """A file of the dead without what is ``returned``; itself if it lists nothing of it."""
    if returned is None:
        return [file]
    schema = dead_schema(layout.id_type)
    batches = [batch.select(schema.names) for batch in parquet_batches(folder, [file.path], schema.names)]
    dead = pa.Table.from_batches(batches).cast(schema) if batches else schema.empty_table()
    back = read_slices(folder, returned, 0, 1)
    sql = "SELECT * FROM dead ANTI JOIN back USING (illust_id, page, run) ORDER BY illust_id, page"
    rest = in_memory(sql, dead=dead, back=back).cast(schema)
    return [file] if rest.num_rows == dead.num_rows else write_dead(folder, run, rest)
