"""Rows of several ranges brought into one order of work, a stretch of it at a time.

Each range's rows lie in their order already, in chunks whose first places are known. Where these are dense
the order is cut, and each stretch takes from every range the few chunks that reach into it.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY
from pix2score.host.executor import Executor
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.parts import ROW_GROUP_ROWS, Part, total_rows
from pix2score.storage.slices import Slices, read_slices, write_slices
from pix2score.storage.sql import side_by_side

STRETCH_ROWS = 1_000_000
"""Of one task: some 200 bytes each, held three times while they are sorted."""
STRETCH_BYTES = 3 * 2**29
_CHUNKS = 8
"""Of a range, for each stretch that it may reach into: so much more is read than is needed."""
_CHUNK_ROWS = (256, 8192)
Place: TypeAlias = int | bytes
Interval: TypeAlias = tuple[int, int, int]
"""Number of a range, and the chunks of it from one up to another."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """Rows of one range in their order, with a column ``place``; the first place of each chunk."""

    slices: Slices
    places: list[Place]


def write_ordered(
    connection: duckdb.DuckDBPyConnection, sql: str, folder: Folder, prefix: str, num_rows: int, ranges: int
) -> Ordered | None:
    """Write the rows of ``sql``, about ``num_rows`` with ``place``, of one range of several; None if none.

    They are sorted in memory, in half of the time that DuckDB takes.
    """
    size = min(max(num_rows // (_CHUNKS * ranges), _CHUNK_ROWS[0]), _CHUNK_ROWS[1])
    rows = connection.sql(sql).to_arrow_table().combine_chunks()
    order = _order(rows)
    places: list[Place] = []

    def chunks() -> Iterator[pa.Table]:
        for start in range(0, rows.num_rows, size):
            table = rows.take(pa.array(order[start : start + size]))
            places.append(table.column("place")[0].as_py())
            yield table

    slices = write_slices(folder, prefix, rows.schema, chunks())
    return Ordered(slices, places) if slices else None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows from place ``low`` up to but without ``high``, and the chunks that hold them."""

    low: Place | None
    high: Place | None
    chunks: list[Interval] = field(default_factory=list)


def stretches(ranges: Sequence[Ordered], stretch_rows: int) -> list[Stretch]:
    """The order of work in stretches of about as many rows."""
    weighed = [
        [(place, int(rows)) for place, rows in zip(one.places, one.slices.rows, strict=True)]
        for one in ranges
    ]
    cuts: list[Place] = []
    held = 0
    for place, rows in heapq.merge(*weighed):
        if held >= stretch_rows and (not cuts or place > cuts[-1]):  # type: ignore[operator]
            cuts.append(place)
            held = 0
        held += rows
    found = [Stretch(low, high) for low, high in zip([None, *cuts], [*cuts, None], strict=True)]
    for number, one in enumerate(ranges):
        for stretch in found:
            start = 0 if stretch.low is None else max(0, _position(one.places, stretch.low) - 1)
            stop = len(one.places) if stretch.high is None else _position(one.places, stretch.high)
            if start < stop:
                stretch.chunks.append((number, start, stop))
    return found


def _position(places: Sequence[Any], place: Place) -> int:
    return bisect.bisect_left(places, place)


def write_in_order(
    executor: Executor,
    folder: Folder,
    prefix: str,
    ranges: Sequence[Ordered],
    schema: pa.Schema,
    part_rows: int,
    limit: int | None = None,
) -> list[Part]:
    """Write the rows of all ``ranges`` in their order as parts of ``schema``, or the first ``limit``."""
    rows = STRETCH_ROWS if limit is None else min(STRETCH_ROWS, max(limit, part_rows))
    slices = [one.slices for one in ranges]
    parts: list[Part] = []
    work = stretches(ranges, rows) if ranges else []
    if limit is None:
        calls = [
            (folder, f"{prefix}-{number:05}", slices, stretch, schema, part_rows)
            for number, stretch in enumerate(work)
        ]
        for found in executor.each(write_stretch, calls, memory_bytes=STRETCH_BYTES):
            parts += found
        return parts
    for number, stretch in enumerate(work):
        left = limit - total_rows(parts)
        if left > 0:
            call = (folder, f"{prefix}-{number:05}", slices, stretch, schema, part_rows, left)
            parts += next(iter(executor.each(write_stretch, [call], memory_bytes=STRETCH_BYTES)))
    return parts


def write_stretch(
    folder: Folder,
    prefix: str,
    ranges: Sequence[Slices],
    stretch: Stretch,
    schema: pa.Schema,
    part_rows: int,
    most_rows: int | None = None,
) -> list[Part]:
    """Write the rows of a stretch in order, or the first ``most_rows``; return their parts."""
    read = side_by_side(lambda chunks: _within(folder, ranges[chunks[0]], chunks, stretch), stretch.chunks)
    rows = pa.concat_tables(read)
    order = _order(rows)[:most_rows]
    rows = rows.select(schema.names).combine_chunks()

    def publish(number: int) -> Part:
        table = rows.take(pa.array(order[number * part_rows : (number + 1) * part_rows])).cast(schema)
        path = f"{prefix}-{number:05}.parquet"
        folder.publish(path, parquet_bytes(table, row_group_rows=ROW_GROUP_ROWS), replace=True)
        return Part(path, table.num_rows)

    return list(side_by_side(publish, range(-(-len(order) // part_rows))))


def _within(folder: Folder, slices: Slices, chunks: Interval, stretch: Stretch) -> pa.Table:
    rows = read_slices(folder, slices, *chunks[1:])
    place = rows.column("place")
    if stretch.low is not None:
        rows = rows.filter(pc.greater_equal(place, pa.scalar(stretch.low, place.type)))
        place = rows.column("place")
    if stretch.high is not None:
        rows = rows.filter(pc.less(place, pa.scalar(stretch.high, place.type)))
    return rows


def _order(rows: pa.Table) -> npt.NDArray[np.int64]:
    """Positions by place; of equal places by key."""
    keys = [(name, "ascending") for name in ("place", *KEY)]
    place = rows.column("place")
    if pa.types.is_integer(place.type):
        found = np.argsort(place.to_numpy(), kind="stable")
        ordered = place.to_numpy()[found]
        if not (ordered[1:] == ordered[:-1]).any():
            return found
    return np.asarray(pc.sort_indices(rows.select([name for name, _ in keys]), sort_keys=keys).to_numpy())
