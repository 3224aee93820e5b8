"""Rows that come in any order, given back in order of their rank: out of core, by distribution into buckets
that fit in memory.

Only whole columns of numbers are compared, never keys: who ranks the rows has sorted the keys, and nothing
but the keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

LEFT_OUT = -1
"""Rank of a row that is not given back."""
PENDING_BYTES = 256 * 2**20
_RANK = "__rank"
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")

Ranks = npt.NDArray[np.int32]


def ranks_of(order: Iterable[npt.NDArray[np.int64]], num_rows: int) -> tuple[Ranks, int]:
    """Rank of each of ``num_rows`` rows, of which ``order`` names some by position, first rank first; and how
    many it names."""
    ranks, done = np.full(num_rows, LEFT_OUT, np.int32), 0
    for positions in order:
        ranks[positions] = np.arange(done, done + len(positions), dtype=np.int32)
        done += len(positions)
    return ranks, done


def in_order(
    tables: Iterable[tuple[pa.Table, Ranks]],
    num_ranked: int,
    folder: Path,
    bucket_rows: int,
    pending_bytes: int = PENDING_BYTES,
) -> Iterator[pa.Table]:
    """The rows of ``tables`` in order of rank, in tables of ``bucket_rows`` rows but for the last.

    Args:
        tables: rows of one schema, and the rank of each, ``LEFT_OUT`` or each of 0 to ``num_ranked`` - 1
            once.
        num_ranked: how many rows are not left out.
        folder: an empty folder on the local disk.
        bucket_rows: as many are sorted in memory at a time.
        pending_bytes: rows wait in memory until there are as many; if it never comes to that, nothing is
            written to disk.
    """
    buckets = _Buckets(folder, -(-num_ranked // bucket_rows), bucket_rows, pending_bytes)
    for rows, ranks in tables:
        buckets.add(rows, ranks)
    for number in range(buckets.number):
        yield buckets.take(number)


def _sorted(rows: pa.Table, ranks: Ranks) -> tuple[pa.Table, Ranks]:
    """In order of rank, without the rows left out. Copying rows costs most of all here: those that come in
    order are not."""
    if len(ranks) and ranks[0] > LEFT_OUT and (np.diff(ranks) > 0).all():
        return rows, ranks
    order = np.argsort(ranks)
    order = order[np.searchsorted(ranks[order], LEFT_OUT, side="right") :]
    return rows.take(pa.array(order)), ranks[order]


class _Buckets:
    """Rows by bucket, those of bucket i with ranks from i * ``rows`` on: in memory, and all of them on disk
    whenever they are too many."""

    def __init__(self, folder: Path, number: int, rows: int, most_bytes: int) -> None:
        self.number, self._rows, self._folder, self._most_bytes = number, rows, folder, most_bytes
        self._pending: dict[int, list[pa.Table]] = {}
        self._pending_bytes = 0

    def add(self, rows: pa.Table, ranks: Ranks) -> None:
        rows, ranks = _sorted(rows, ranks)
        if not rows.num_rows:
            return
        rows = rows.append_column(_RANK, pa.array(ranks))
        numbers, starts = np.unique(ranks // self._rows, return_index=True)
        for number, start, end in zip(numbers, starts, [*starts[1:], len(ranks)], strict=True):
            self._pending.setdefault(int(number), []).append(rows.slice(start, end - start))
        self._pending_bytes += rows.nbytes
        if self._pending_bytes > self._most_bytes:
            self._flush()

    def _flush(self) -> None:
        for number, tables in self._pending.items():
            rows = pa.concat_tables(tables).combine_chunks()
            # Each time a stream of its own at the end of the file: no file stays open, however many buckets
            # there are.
            with (
                self._path(number).open("ab") as file,
                pa.ipc.new_stream(file, rows.schema, options=_LZ4) as stream,
            ):
                stream.write_table(rows)
        self._pending, self._pending_bytes = {}, 0

    def take(self, number: int) -> pa.Table:
        rows = pa.concat_tables([*self._stored(number), *self._pending.pop(number, [])])
        order = np.argsort(rows.column(_RANK).to_numpy())
        return rows.drop_columns([_RANK]).take(pa.array(order)).combine_chunks()

    def _stored(self, number: int) -> Iterator[pa.Table]:
        path = self._path(number)
        if not path.exists():
            return
        size = path.stat().st_size
        with pa.OSFile(str(path)) as file:
            while file.tell() < size:
                yield pa.ipc.open_stream(file).read_all()
        path.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / f"bucket-{number:06}.arrows"
