"""Tables laid one behind the other in one object, of which any stretch is read with one request.

What a task deals out to other tasks: thousands of small tables, without thousands of objects.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.storage.folder import Folder

_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, slots=True)
class Slices:
    """One object of tables of one schema: slice i lies from byte ``offsets[i]`` to ``offsets[i + 1]``."""

    path: str
    schema: pa.Schema
    offsets: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    """Of each slice."""

    @property
    def num_rows(self) -> int:
        """Of all slices."""
        return int(self.rows.sum())


def write_slices(folder: Folder, prefix: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> Slices | None:
    """Write ``tables`` below ``prefix``, to a path never used before; None if they have no rows at all."""
    sink, offsets, rows = pa.BufferOutputStream(), list[int](), list[int]()
    with pa.ipc.new_stream(sink, schema, options=_LZ4) as stream:
        offsets.append(sink.tell())
        for table in tables:
            for batch in table.combine_chunks().to_batches():
                stream.write_batch(batch)
            offsets.append(sink.tell())
            rows.append(table.num_rows)
    if not sum(rows):
        return None
    path = f"{prefix}-{uuid.uuid4().hex[:16]}.arrows"
    folder.publish(path, sink.getvalue().to_pybytes())
    return Slices(path, schema, np.array(offsets, np.int64), np.array(rows, np.int64))


def read_slices(folder: Folder, slices: Slices, start: int, stop: int) -> pa.Table:
    """Rows of slices ``start`` to ``stop``, in one request; without one if they are empty."""
    first, last = int(slices.offsets[start]), int(slices.offsets[stop])
    if first == last:
        return slices.schema.empty_table()
    data = pa.py_buffer(folder.read_range(slices.path, first, last))
    return pa.Table.from_batches(list(_batches(data, slices.schema)), schema=slices.schema)


def read_slice(folder: Folder, all_slices: Sequence[Slices], number: int) -> Iterator[pa.Table]:
    """Slice ``number`` of each, those that are empty left out."""
    for slices in all_slices:
        if slices.rows[number]:
            yield read_slices(folder, slices, number, number + 1)


def _batches(data: pa.Buffer, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for message in pa.ipc.MessageReader.open_stream(data):
        if message.type == "record batch":  # the schema is written before the first of them
            yield pa.ipc.read_record_batch(message, schema)
