"""Slices of plan parts: every row in one task and in one block, whatever the sizes; small tasks at the end of
a run."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pix2score.cluster.offer import Offer
from pix2score.cluster.source import Interleaved, ParquetParts, _blocks, _cut
from pix2score.cluster.task_sizes import EMBEDDED_TASK_ROWS, MAX_TASK_ROWS, MAX_TASKS, task_rows
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.parts import PART_ROWS, Part, part_rows

CORES = Offer(num_gpus=0, num_cores=2, num_nodes=1, cpus_per_core=2.0)


def written(folder: Folder, sizes: list[int], row_group_rows: int) -> list[Part]:
    parts, first = [], 0
    for i, size in enumerate(sizes):
        table = pa.table({"row": range(first, first + size)})
        folder.publish(f"part-{i}.parquet", parquet_bytes(table, row_group_rows=row_group_rows))
        parts.append(Part(f"part-{i}.parquet", size))
        first += size
    return parts


@pytest.mark.parametrize("seed", range(8))
def test_every_row_is_in_one_block_of_one_task(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.randint(1, 400) for _ in range(rng.randint(1, 4))]
    folder = Folder(str(tmp_path))
    parts = written(folder, sizes, row_group_rows=rng.choice([1, 7, 64, 1000]))
    block_rows, most = rng.randint(1, 80), rng.randint(1, 150)
    cuts = list(_cut(parts, lambda left: max(1, min(most, left // 3))))
    rows: list[int] = []
    for cut in cuts:
        blocks = [block.column("row").to_pylist() for block in _blocks(folder, cut, block_rows, None, 0)]
        assert all(0 < len(block) <= block_rows for block in blocks)
        assert sum(map(len, blocks)) == cut.rows
        rows += [row for block in blocks for row in block]
    assert rows == list(range(sum(sizes)))


def sizes_of(num_rows: int, size_of: Callable[[int], int]) -> list[int]:
    sizes, left = [], num_rows
    while left:
        sizes.append(min(left, size_of(left)))
        left -= sizes[-1]
    return sizes


def test_tasks_shrink_towards_the_end_so_that_every_core_is_busy_to_it() -> None:
    sizes = sizes_of(4000, task_rows(4000, CORES, MAX_TASK_ROWS, is_embedded=False))
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= MAX_TASK_ROWS
    assert sizes[-1] <= 16
    assert sum(sizes[-4:]) <= 64


@pytest.mark.parametrize("num_rows", [134_217_729, 1_000_000_001])
def test_parts_grow_with_the_run_so_that_tasks_stay_few(num_rows: int) -> None:
    size = part_rows(num_rows)
    assert size > PART_ROWS
    rows = [min(size, num_rows - start) for start in range(0, num_rows, size)]
    parts = [Part(f"{number}", rows) for number, rows in enumerate(rows)]
    cuts = list(_cut(parts, task_rows(num_rows, CORES, MAX_TASK_ROWS, is_embedded=False)))
    assert sum(cut.rows for cut in cuts) == num_rows
    assert len(cuts) == len(parts) <= MAX_TASKS
    assert [part_rows(n) for n in (0, 1, 134_217_728)] == [PART_ROWS] * 3


@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 500, 100_000, 3_000_000])
@pytest.mark.parametrize("is_embedded", [False, True])
def test_the_number_of_tasks_is_bounded(num_rows: int, is_embedded: bool) -> None:
    sizes = sizes_of(num_rows, task_rows(num_rows, CORES, MAX_TASK_ROWS, is_embedded=is_embedded))
    assert sum(sizes) == num_rows
    assert len(sizes) <= MAX_TASKS + 1
    if is_embedded and num_rows == 100_000:
        assert set(sizes[:-1]) == {EMBEDDED_TASK_ROWS}


def test_without_sizes_each_part_is_a_task(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    source = ParquetParts(folder, written(folder, [30, 70], row_group_rows=10))
    assert source.num_tasks == 2
    assert [task.metadata.num_rows for task in source.get_read_tasks(200)] == [30, 70]


def test_empty_rows_go_through_the_stage_too_in_blocks_of_its_size(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    (part,) = written(folder, [30], row_group_rows=10)
    (cut,) = _cut([part], lambda left: left)
    rows: list[int | None] = []
    for block in _blocks(folder, cut, 16, None, 40):
        assert block.num_rows <= 16
        rows += block.column("row").to_pylist()
    assert rows == [*range(30), *[None] * 40]


def test_tasks_of_two_sources_take_turns_by_their_numbers(tmp_path: Path) -> None:
    folders = [Folder(str(tmp_path / name)) for name in ("few", "many")]
    few, many = (
        ParquetParts(folder, written(folder, sizes, 100), task_rows=lambda left: 10)
        for folder, sizes in zip(folders, ([30], [40, 50]), strict=True)
    )
    both = Interleaved([few, many])
    assert both.num_tasks == few.num_tasks + many.num_tasks == 12
    blocks = [block for task in both.get_read_tasks(1) for block in task()]
    rows = [block.column("row").to_pylist() for block in blocks]
    order = [number for i, number in enumerate(rows) if i % 4 == 1]
    assert order == [list(range(first, first + 10)) for first in (0, 10, 20)]
    assert [number for i, number in enumerate(rows) if i % 4 != 1] == [
        list(range(first, first + 10)) for first in range(0, 90, 10)
    ]
