"""Pieces of a pipeline that ends when its time is up."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest
import ray

from pix2score.cluster.sink import Staging

pytestmark = pytest.mark.usefixtures("ray_session")
NUM_BLOCKS, BLOCK_ROWS = 40, 5


def slowly(batch: pa.Table) -> pa.Table:
    time.sleep(0.2)
    return batch


def test_a_pipeline_whose_time_is_up_stages_what_is_finished_and_begins_nothing_more() -> None:
    rows = ray.data.range(NUM_BLOCKS * BLOCK_ROWS, override_num_blocks=NUM_BLOCKS)
    dataset = rows.map_batches(slowly, batch_format="pyarrow", batch_size=BLOCK_ROWS, num_cpus=1)
    found: list[list[int]] = []
    staging = Staging(
        dataset,
        lambda piece, table: table.column("id").to_pylist(),
        2 * BLOCK_ROWS,
        prefix="p",
        is_over=lambda: bool(found),
    )
    for ids in staging.receipts():
        found.append(ids)
    ids = [i for piece in found for i in piece]
    assert 2 * BLOCK_ROWS <= len(ids) < NUM_BLOCKS * BLOCK_ROWS
    assert len(set(ids)) == len(ids)
    assert {len(ids) % BLOCK_ROWS} == {0}, "whole blocks"


def test_a_pipeline_that_ends_in_time_stages_all() -> None:
    rows = ray.data.range(30, override_num_blocks=3)
    staging = Staging(rows, lambda piece, table: table.num_rows, 10, prefix="p", is_over=lambda: False)
    assert sum(staging.receipts()) == 30
