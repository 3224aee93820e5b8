"""Parquet parts as a Ray Data source: one task per slice of a part, which may work on what it reads."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import ray
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pix2score.cluster.alike import check_worker
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet, parquet_batches
from pix2score.storage.parts import Part

Stage: TypeAlias = Callable[[pa.Table], pa.Table | Iterable[pa.Table]]
TaskRows: TypeAlias = Callable[[int], int]
BLOCK_ROWS = 256
_ROW_BYTES = 200  # of a plan row in memory; only a hint to Ray's scheduler


@dataclass(frozen=True, slots=True)
class _Cut:
    """Rows ``start`` to ``stop`` of a part."""

    path: str
    start: int
    stop: int
    is_whole: bool

    @property
    def rows(self) -> int:
        return self.stop - self.start


def _cut(parts: Sequence[Part], task_rows: TaskRows) -> Iterator[_Cut]:
    left = sum(part.rows for part in parts)
    for part in parts:
        start = 0
        while start < part.rows:
            stop = min(part.rows, start + task_rows(left))
            yield _Cut(part.path, start, stop, is_whole=stop - start == part.rows)
            left -= stop - start
            start = stop


def _sized(parts: Sequence[Part], sizes: Iterable[Iterable[int]]) -> Iterator[_Cut]:
    for part, rows in zip(parts, sizes, strict=True):
        stops = list(itertools.accumulate(rows))
        for start, stop in itertools.pairwise([0, *stops]):
            yield _Cut(part.path, start, stop, is_whole=stop - start == part.rows)


class ParquetParts(Datasource):
    """Parquet files of a folder as a Ray Data source: nothing listed, no footer read by the driver.

    ``task_rows``: rows of the next read task, by how many are left (default: a whole part); or ``sizes``,
    those of each task of each part. ``stage``: what the task makes of each block of at most ``block_rows``
    rows, one table or several; it costs no process and no copy of its own, as a map stage would. ``name``:
    under which Ray lists it. ``pad_rows`` empty rows (all null) follow the last part, so that a split over
    workers can be even and lose nothing.
    """

    def __init__(
        self,
        folder: Folder,
        parts: Sequence[Part],
        *,
        row_bytes: int = _ROW_BYTES,
        pad_rows: int = 0,
        task_rows: TaskRows | None = None,
        block_rows: int = BLOCK_ROWS,
        stage: Stage | None = None,
        name: str = "",
        sizes: Iterable[Iterable[int]] | None = None,
    ) -> None:
        super().__init__()
        self._folder, self._row_bytes, self._block_rows = folder, row_bytes, block_rows
        self._stage = None if stage is None else ray.put(stage)  # once, not with every task
        even = _cut(parts, task_rows or (lambda left: left))
        self._cuts = list(even if sizes is None else _sized(parts, sizes))
        self._pad_rows = pad_rows
        self._name = f"Parts->{name or getattr(stage, 'func', stage).__name__}" if stage else "Parts"

    def get_name(self) -> str:
        """Of the stage in Ray's listings."""
        return self._name

    @property
    def num_tasks(self) -> int:
        """Read tasks, whatever parallelism is asked for."""
        return len(self._cuts)

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all rows, roughly."""
        return sum(cut.rows for cut in self._cuts) * self._row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task per slice, whatever ``parallelism`` asks for."""
        last = self.num_tasks - 1
        return [self._task(cut, self._pad_rows if i == last else 0) for i, cut in enumerate(self._cuts)]

    def _task(self, cut: _Cut, pad_rows: int) -> ReadTask:
        rows = cut.rows + pad_rows
        metadata = BlockMetadata(
            num_rows=rows, size_bytes=rows * self._row_bytes, exec_stats=None, input_files=None
        )
        return ReadTask(
            functools.partial(_blocks, self._folder, cut, self._block_rows, self._stage, pad_rows), metadata
        )


class Interleaved(Datasource):
    """Tasks of several sources, those of each spread evenly over the whole."""

    def __init__(self, sources: Sequence[ParquetParts]) -> None:
        super().__init__()
        self._sources = list(sources)

    def get_name(self) -> str:
        """Of the stage in Ray's listings."""
        return "+".join(source.get_name() for source in self._sources)

    @property
    def num_tasks(self) -> int:
        """Read tasks, whatever parallelism is asked for."""
        return sum(source.num_tasks for source in self._sources)

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all rows, roughly."""
        return sum(source.estimate_inmemory_data_size() for source in self._sources)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Those of all sources, in an order that depends on their numbers alone."""
        of_sources = [source.get_read_tasks(parallelism) for source in self._sources]
        placed = [
            ((i + 0.5) / len(tasks), number, task)
            for number, tasks in enumerate(of_sources)
            for i, task in enumerate(tasks)
        ]
        return [task for _, _, task in sorted(placed, key=lambda entry: entry[:2])]


def _blocks(folder: Folder, cut: _Cut, block_rows: int, stage_ref: Any, pad_rows: int) -> Iterator[Block]:
    check_worker()
    stage: Stage = ray.get(stage_ref) if stage_ref is not None else _as_it_is
    rows = None
    for rows in _whole(folder, cut.path, block_rows) if cut.is_whole else _slices(folder, cut, block_rows):
        yield from _tables(stage(rows))
    if rows is not None:
        for padding in _padding(rows.schema, pad_rows, block_rows):
            yield from _tables(stage(padding))


def _tables(made: pa.Table | Iterable[pa.Table]) -> Iterable[pa.Table]:
    return (made,) if isinstance(made, pa.Table) else made


def _padding(schema: pa.Schema, num_rows: int, block_rows: int) -> Iterator[pa.Table]:
    for start in range(0, num_rows, block_rows):
        size = min(block_rows, num_rows - start)
        yield pa.table([pa.nulls(size, field.type) for field in schema], names=schema.names)


def _as_it_is(rows: pa.Table) -> pa.Table:
    return rows


def _whole(folder: Folder, path: str, block_rows: int) -> Iterator[pa.Table]:
    for batch in parquet_batches(folder, [path], batch_rows=block_rows):
        yield pa.Table.from_batches([batch])


def _slices(folder: Folder, cut: _Cut, block_rows: int) -> Iterator[pa.Table]:
    """Tables of ``block_rows``, but for the last.

    Row groups outside the cut are not read, those inside are held.
    """
    with open_parquet(folder, cut.path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        ends = list(itertools.accumulate(sizes))
        groups = [i for i, end in enumerate(ends) if end > cut.start and end - sizes[i] < cut.stop]
        rows = file.read_row_groups(groups).slice(cut.start - (ends[groups[0]] - sizes[groups[0]]), cut.rows)
    for start in range(0, rows.num_rows, block_rows):
        yield rows.slice(start, block_rows)
