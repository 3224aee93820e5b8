"""Tasks of embedded images follow the row groups of the catalog: each is read by one task, unless it is very
large."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.contents import ImageRows
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.planned import order_sql, plan_schema
from pix2score.catalog.row_groups import row_group_runs, task_sizes, warn_of_large
from pix2score.catalog.rows import catalog_rows
from pix2score.cluster.offer import Offer
from pix2score.cluster.task_sizes import MAX_EMBEDDED_TASK_ROWS
from pix2score.cluster.task_sizes import embedded_sizes as _embedded_sizes
from pix2score.images.source import image_source
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part, write_parts
from tests.support.builders import planned_rows

CORES = Offer(num_gpus=0, num_cores=2, num_nodes=1, cpus_per_core=2.0)


@given(st.lists(st.integers(1, 500), max_size=30), st.integers(1, 100), st.integers(0, 300))
def test_every_row_is_in_one_task_and_small_row_groups_stay_whole(
    runs: list[int], few: int, more: int
) -> None:
    most = few + more
    sizes = list(task_sizes(runs, few, most))
    assert sum(sizes) == sum(runs)
    assert all(0 < size <= most for size in sizes)
    stops = {0} | {sum(sizes[: i + 1]) for i in range(len(sizes))}
    start = 0
    for run in runs:
        if run <= most:
            assert not any(start < stop < start + run for stop in stops)
        start += run


def written(root: Path, sizes: list[tuple[int, int]]) -> tuple[ImageRows, Folder, list[Part]]:
    """A catalog of files of (rows, rows of a row group), and its plan."""
    first = 0
    (root / "catalog").mkdir()
    for number, (num_rows, group_rows) in enumerate(sizes):
        ids = range(first, first + num_rows)
        table = pa.table({"illust_id": ids, "image": [b"x"] * num_rows, "etag": [str(i) for i in ids]})
        pq.write_table(table, root / "catalog" / f"{number}.parquet", row_group_size=group_rows)
        first += num_rows
    catalog, plan = open_catalog(str(root / "catalog"), Columns()), Folder(str(root / "plan"))
    with catalog_rows(catalog, PlanCounts()) as connection:
        parts = write_parts(
            connection,
            f"SELECT * FROM keyed {order_sql(catalog)}",
            plan_schema(pa.int64()),
            plan,
            "rows",
            150,
        )
    return ImageRows.of(catalog, image_source(catalog.folder.uri, ())), plan, parts


@pytest.mark.parametrize("seed", range(5))
def test_no_row_group_that_fits_a_task_is_read_by_two(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    files = [(rng.randint(1, 200), rng.choice([1, 10, 33, 1000])) for _ in range(rng.randint(1, 4))]
    images, plan, parts = written(tmp_path, files)
    rows, start = planned_rows(plan, parts), 0
    sizes = _embedded_sizes(plan, parts, images, CORES, 16)
    assert [sum(size) for size in sizes] == [part.rows for part in parts]
    tasks_of: dict[object, set[int]] = {}
    for task, size in enumerate(size for part in sizes for size in part):
        for row in rows[start : start + size]:
            number = int(str(row["file"]).removesuffix(".parquet"))
            tasks_of.setdefault((number, int(str(row["row"])) // files[number][1]), set()).add(task)
        start += size
    for (number, group), tasks in tasks_of.items():  # type: ignore[misc]
        group_rows = min(files[number][1], files[number][0] - group * files[number][1])
        if group_rows <= 16:
            assert len(tasks) <= 2  # two where a part of the plan ends inside


def test_runs_follow_file_and_row_group(tmp_path: Path) -> None:
    images, plan, parts = written(tmp_path, [(100, 40), (45, 100)])
    (runs,) = row_group_runs(images.folder, plan, parts)
    assert sorted(runs) == [20, 40, 40, 45]


def test_a_catalog_file_that_is_gone_counts_as_one_row_group(tmp_path: Path) -> None:
    images, plan, parts = written(tmp_path, [(100, 40)])
    (tmp_path / "catalog" / "0.parquet").unlink()
    assert row_group_runs(images.folder, plan, parts) == [[100]]


def test_row_groups_that_are_read_several_times_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_large([[5, MAX_EMBEDDED_TASK_ROWS]], MAX_EMBEDDED_TASK_ROWS)
        assert not caplog.records
        warn_of_large([[5, MAX_EMBEDDED_TASK_ROWS + 1]], MAX_EMBEDDED_TASK_ROWS)
    assert "row_group_size=1000" in caplog.text
