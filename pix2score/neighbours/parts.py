"""Parts of an index: rows that are written together, and read by their position.

The embeddings lie row after row as they are stored, so that any of them is one read: of a mapped file on a
disk, of a range of an object in a store.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.catalog.keys import key_fields
from pix2score.neighbours.vectors import Floats, Positions, stored, wide
from pix2score.snapshots.damage import checked_content
from pix2score.snapshots.indexes import IndexPart, folder_of, write_index_file
from pix2score.snapshots.tables import Layout
from pix2score.storage.folder import Folder
from pix2score.storage.mapped import mapped
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.places import is_remote

PART_ROWS = 32_768
"""128 MiB of float16[2048], once in memory as they are and once as float32 in blocks."""


def keys_schema(id_type: pa.DataType) -> pa.Schema:
    """Of the keys of a part, by position."""
    return pa.schema([*key_fields(id_type), pa.field("run", pa.string(), nullable=False)])


def part_tables(batches: Iterable[pa.RecordBatch], part_rows: int) -> Iterator[pa.Table]:
    """The rows of ``batches`` in tables of ``part_rows``, but for the last."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        rest = batch
        while sum(one.num_rows for one in pending) + rest.num_rows >= part_rows:
            cut = part_rows - sum(one.num_rows for one in pending)
            yield pa.Table.from_batches([*pending, rest.slice(0, cut)])
            pending, rest = [], rest.slice(cut)
        if rest.num_rows:
            pending.append(rest)
    if pending:
        yield pa.Table.from_batches(pending)


def write_part(
    folder: Folder, snapshot: int, first: int, rows: pa.Table, codes: bytes, layout: Layout
) -> IndexPart:
    """Publish a part; its embeddings are those of ``rows``, in their order."""
    path = f"{folder_of(snapshot)}/part-{uuid.uuid4().hex[:16]}"
    keys = rows.select(["illust_id", "page", "run"]).cast(keys_schema(layout.id_type))
    vectors = np.concatenate([stored(chunk) for chunk in rows.column("embedding").chunks])
    return IndexPart(
        first,
        rows.num_rows,
        write_index_file(folder, f"{path}.codes", codes),
        write_index_file(folder, f"{path}.keys.parquet", parquet_bytes(keys)),
        write_index_file(folder, f"{path}.vectors", vectors.tobytes()),
    )


def read_keys(folder: Folder, parts: Sequence[IndexPart], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of the keys of each part, by position. Raises ``DataError`` for a damaged file."""
    for part in parts:
        yield pq.read_table(pa.BufferReader(checked_content(folder, part.keys)), columns=list(columns))


class Vectors:
    """The embeddings of an index by position; holds none of them."""

    def __init__(self, folder: Folder, parts: Sequence[IndexPart], dim: int, dtype: str) -> None:
        self._folder, self._parts, self._dim, self._dtype = folder, parts, dim, np.dtype(dtype)
        self._first = np.array([part.first for part in parts], np.int64)

    def open(self) -> None:
        """Map the files of a disk: what ``vacuum`` removes from now on can be read all the same."""
        if not is_remote(self._folder.uri):
            self._maps  # noqa: B018 - made when it is asked for

    def read(self, positions_N: Positions) -> Floats:
        """[N, D] of the rows at ``positions_N``."""
        part_N = np.searchsorted(self._first, positions_N, side="right") - 1
        row_N = positions_N - self._first[part_N]
        return wide(
            self._fetched(part_N, row_N) if is_remote(self._folder.uri) else self._mapped(part_N, row_N)
        )

    def part(self, number: int) -> npt.NDArray[np.floating]:
        """[N, D] of all rows of a part, in the precision that they have."""
        if is_remote(self._folder.uri):
            content = self._folder.read(self._parts[number].vectors.path)
            return np.frombuffer(content, self._dtype).reshape(-1, self._dim)
        return self._maps[number]

    @cached_property
    def _maps(self) -> list[npt.NDArray[np.floating]]:
        return [
            mapped(self._folder.full(part.vectors.path), self._dtype, (part.rows, self._dim))
            for part in self._parts
        ]

    def _mapped(self, part_N: Positions, row_N: Positions) -> npt.NDArray[np.floating]:
        rows_ND = np.empty((len(row_N), self._dim), self._dtype)
        for number in np.unique(part_N):
            of_part = part_N == number
            rows_ND[of_part] = self._maps[number][row_N[of_part]]
        return rows_ND

    def _fetched(self, part_N: Positions, row_N: Positions) -> npt.NDArray[np.floating]:
        size = self._dim * self._dtype.itemsize
        ranges = [
            (self._parts[number].vectors.path, row * size, (row + 1) * size)
            for number, row in zip(part_N.tolist(), row_N.tolist(), strict=True)
        ]
        content = b"".join(self._folder.read_ranges(ranges))
        return np.frombuffer(content, self._dtype).reshape(-1, self._dim)
