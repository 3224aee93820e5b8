"""Where the key space is cut into ranges.

At the first keys of groups of live files, and where many changed rows have come together.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import Key
from pix2score.snapshots.tables import DataFile, Layout

PART_ROWS = 250_000
RANGE_BYTES = 80 * 2**20
"""Of the changed rows of a range in memory, and of its live ones. Merging holds them six times over (measured
with one head of 1,000 bins: 774 MiB for 128), of 1 GiB declared."""


def neighbours(files: Sequence[DataFile], most_rows: int) -> list[list[DataFile]]:
    """Files in key order, small ones together up to ``most_rows``."""
    groups: list[list[DataFile]] = []
    for file in files:
        if groups and sum(f.rows for f in groups[-1]) + file.rows <= most_rows:
            groups[-1].append(file)
        else:
            groups.append([file])
    return groups


@dataclass(frozen=True, slots=True)
class Cut:
    """A range while it is cut out: its bounds, the live files that reach into it, its changed rows."""

    low: Key | None
    high: Key | None
    live: tuple[DataFile, ...]
    changed: pa.Table | None
    is_whole: bool
    """Whether all rows of ``live`` lie within."""


def cuts(changed: Iterator[pa.Table], groups: Sequence[list[DataFile]], most_rows: int) -> Iterator[Cut]:
    """Cut the key space at the first key of every group of live files and after ``most_rows`` changes."""
    rows = _Sorted(changed)
    for number, group in enumerate(groups or [[]]):
        start = _start(group) if number else None
        end = _start(groups[number + 1]) if number + 1 < len(groups) else None
        low = start
        while True:
            found = rows.take(most_rows, end)
            following = rows.first(end)
            yield Cut(low, following or end, tuple(group), found, is_whole=low == start and following is None)
            if following is None:
                break
            low = following


def planned_cuts(groups: Sequence[list[DataFile]], keys: Sequence[Key]) -> list[Cut]:
    """As ``cuts``, where it is planned that half of ``most_rows`` change between two of ``keys``."""
    found = []
    for number, group in enumerate(groups or [[]]):
        start = _start(group) if number else None
        end = _start(groups[number + 1]) if number + 1 < len(groups) else None
        first = 0 if start is None else bisect.bisect_right(keys, start)
        last = len(keys) if end is None else bisect.bisect_left(keys, end)
        edges = [start, *keys[first + 1 : last : 2], end]
        for low, high in itertools.pairwise(edges):
            found.append(Cut(low, high, tuple(group), None, is_whole=len(edges) == 2))
    return found


class _Sorted:
    """Rows in key order, read as they are asked for."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._ahead: pa.Table | None = next(tables, None)

    def take(self, most_rows: int, end: Key | None) -> pa.Table | None:
        """The next rows, at most so many, that are before ``end``; None if there are none."""
        found: list[pa.Table] = []
        while self._ahead is not None and most_rows:
            number = (
                self._ahead.num_rows if end is None else int(pc.sum(before(self._ahead, end)).as_py() or 0)
            )
            number = min(number, most_rows)
            if not number:
                break
            found.append(self._ahead.slice(0, number))
            most_rows -= number
            self._ahead = self._ahead.slice(number)
            if not self._ahead.num_rows:
                self._ahead = next(self._tables, None)
        return pa.concat_tables(found) if found else None

    def first(self, end: Key | None) -> Key | None:
        """Key of the next row, None if it is not before ``end``."""
        if self._ahead is None:
            return None
        key = (self._ahead.column("illust_id")[0].as_py(), self._ahead.column("page")[0].as_py())
        return key if end is None or before(self._ahead.slice(0, 1), end)[0].as_py() else None


def _start(group: Sequence[DataFile]) -> Key:
    """Smallest key of a group."""
    key = group[0].first_key
    assert key is not None, f"{group[0].path} is in a manifest without its first key"
    return key


def before(rows: pa.Table, key: Key) -> pa.ChunkedArray:
    """Whether each row is before ``key``."""
    ids, pages = rows.column("illust_id"), rows.column("page")
    return pc.or_(pc.less(ids, key[0]), pc.and_(pc.equal(ids, key[0]), pc.less(pages, key[1])))


def range_rows(layout: Layout) -> int:
    """Rows of a range: ``PART_ROWS``, fewer where heads are wide."""
    row_bytes = 150 + sum(head.row_bytes for head in layout.heads)
    return max(1, min(PART_ROWS, RANGE_BYTES // row_bytes))
