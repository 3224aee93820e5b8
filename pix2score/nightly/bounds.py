"""The key space in ranges: where it is cut, and which of them a row lies in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY, Key
from pix2score.nightly.cuts import before
from pix2score.snapshots.tables import DataFile
from pix2score.storage.folder import Folder
from pix2score.storage.slices import Slices, write_slices
from pix2score.storage.sql import in_memory

_SORTED_ROWS = 262_144
"""Dealt out at a time: fewer cost more for each of them, more are held twice."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Ranges of keys: from each of ``keys``, ascending, up to the next; one more lies before the first."""

    keys: tuple[Key, ...] = ()

    @property
    def number(self) -> int:
        """How many ranges there are."""
        return len(self.keys) + 1

    def low(self, number: int) -> Key | None:
        """First key of a range; None is before the smallest."""
        return self.keys[number - 1] if number else None

    def high(self, number: int) -> Key | None:
        """What a range ends before; None is behind the greatest."""
        return self.keys[number] if number < len(self.keys) else None

    def of_rows(self, rows: pa.Table, page_sql: str = "page") -> npt.NDArray[np.int32]:
        """The range of each row by its ``illust_id`` and ``page``; -1 without an id.

        ``page_sql`` makes a number of the page as it is in ``rows``.
        """
        keys = f"SELECT illust_id, {page_sql} AS page FROM given"
        schema = pa.schema([rows.schema.field("illust_id"), pa.field("page", pa.int32())])
        cuts = pa.table([list(column) for column in zip(*self.keys, strict=True)] or [[], []], schema=schema)
        # Sort keys differ within the length of both: bytes of 0 behind the shorter one change nothing.
        both = in_memory(f"SELECT {_PLACE} AS place FROM ({keys})", given=rows).column(0)
        own = in_memory(f"SELECT {_PLACE} AS place FROM given", given=cuts).column(0)
        width = max([0, *(pc.max(pc.binary_length(places)).as_py() or 0 for places in (both, own))])
        numbers = np.searchsorted(_padded(own, width), _padded(both, width), side="right").astype(np.int32)
        numbers[pc.is_null(rows.column("illust_id")).to_numpy()] = -1
        return numbers


_PLACE = "create_sort_key(illust_id, 'ASC NULLS FIRST', page, 'ASC NULLS FIRST')"
"""SQL: bytes that compare as the keys do."""


def _padded(places: pa.ChunkedArray, width: int) -> npt.NDArray[np.bytes_]:
    """Texts of bytes as numpy has them, of one width."""
    array = places.combine_chunks().cast(pa.large_binary())
    ends = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    if not len(array):
        return np.empty(0, f"S{max(1, width)}")
    content = np.frombuffer(array.buffers()[2], np.uint8)[ends[0] : ends[-1]]
    lengths = np.diff(ends)
    if (lengths == width).all():
        return content.view(f"S{width}")
    found = np.zeros((len(array), width), np.uint8)
    found[np.arange(width) < lengths[:, None]] = content
    return found.view(f"S{width}").ravel()


def deal(
    folder: Folder,
    prefix: str,
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    bounds: Bounds,
    page_sql: str = "page",
) -> Slices | None:
    """Write rows with a key to one object, a slice for each range; None if there are none.

    Rows without an id are left out. Holds them all.
    """
    found: list[list[pa.Table]] = [[] for _ in range(bounds.number)]
    for rows in _gathered(tables):
        numbers = bounds.of_rows(rows, page_sql)
        order = np.argsort(numbers, kind="stable")
        ordered = rows.take(pa.array(order)).combine_chunks()
        starts = np.searchsorted(numbers[order], np.arange(bounds.number + 1))
        for number in np.unique(numbers[numbers >= 0]):
            start, stop = int(starts[number]), int(starts[number + 1])
            found[number].append(ordered.slice(start, stop - start))

    def slices() -> Iterator[pa.Table]:
        for number, several in enumerate(found):
            found[number] = []
            yield pa.concat_tables(several).cast(schema) if several else schema.empty_table()

    return write_slices(folder, prefix, schema, slices())


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        held.append(table)
        num_rows += table.num_rows
        if num_rows >= _SORTED_ROWS:
            yield pa.concat_tables(held)
            held, num_rows = [], 0
    if held:
        yield pa.concat_tables(held)


def chosen_bounds(
    live: Sequence[DataFile], samples: Sequence[tuple[Sequence[Key], float]], most_rows: int
) -> Bounds:
    """Where to cut so that about ``most_rows`` lie in each range, of ``live`` files and of a catalog.

    Cut where a live file begins, so that it is read for one range; elsewhere only where the catalog has many
    keys between two of them. ``samples``: some of the catalog's keys, each list with the rows that each of
    its keys stands for.
    """
    points: list[tuple[Key, float, bool]] = []
    for file in live:
        assert file.first_key is not None, f"{file.path} is in a manifest without its first key"
        points.append((file.first_key, float(file.rows), True))
    points += [(key, weight, False) for keys, weight in samples for key in keys]
    points.sort(key=lambda point: point[:1] + (not point[2],))
    found: list[Key] = []
    held, elsewhere = 0.0, 3 * most_rows // 2 if live else most_rows
    for key, weight, is_file in points:
        if held >= (most_rows if is_file else elsewhere) and (not found or key > found[-1]):  # type: ignore[operator]
            found.append(key)
            held = 0.0
        held += weight
    return Bounds(tuple(found))


def overlapping(files: Sequence[DataFile], low: Key | None, high: Key | None) -> list[DataFile]:
    """Those of ``files``, which follow each other in key order, that may hold keys of a range."""
    found = []
    ends_of = [*(file.first_key for file in files[1:]), None]
    for file, ends in zip(files, ends_of[: len(files)], strict=True):
        is_before = low is not None and ends is not None and ends <= low  # type: ignore[operator]
        is_behind = high is not None and file.first_key is not None and file.first_key >= high  # type: ignore[operator]
        if not (is_before or is_behind):
            found.append(file)
    return found


def within(rows: pa.Table, low: Key | None, high: Key | None) -> pa.Table:
    """Rows with keys from ``low`` up to but without ``high``."""
    if low is not None:
        rows = rows.filter(pc.invert(before(rows, low)))
    return rows if high is None else rows.filter(before(rows, high))


def keys_of(rows: pa.Table) -> list[Key]:
    """Its keys as Python has them."""
    return list(zip(*(rows.column(name).to_pylist() for name in KEY), strict=True))
