"""Rows given back in order of their rank, whether they stayed in memory or went by way of the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.storage.external_sort import LEFT_OUT, in_order, ranks_of


def table_of(numbers: np.ndarray) -> pa.Table:
    """Rows as wide and as odd as those of the narrow table: nulls, texts, fixed-size lists with nulls."""
    lists = pa.array(
        [None if n % 5 == 0 else [n, n + 0.5] for n in numbers.tolist()], pa.list_(pa.float32(), 2)
    )
    texts = pa.array([None if n % 3 == 0 else f"text {n}" for n in numbers.tolist()], pa.string())
    return pa.table({"number": pa.array(numbers), "text": texts, "probs": lists})


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=6),
    share_left_out=st.floats(0, 1),
    bucket_rows=st.integers(1, 50),
    pending_bytes=st.sampled_from([0, 500, 2**30]),
    seed=st.integers(0, 99),
)
def test_rows_come_back_each_once_in_order_of_rank(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    share_left_out: float,
    bucket_rows: int,
    pending_bytes: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("buckets")
    rng = np.random.default_rng(seed)
    order = rng.permutation(sum(sizes))
    order = order[: len(order) - int(share_left_out * len(order))]
    ranks, number = ranks_of(np.array_split(order, 3), sum(sizes))
    assert number == len(order) and (ranks == LEFT_OUT).sum() == sum(sizes) - number
    starts = np.cumsum([0, *sizes])
    tables = [(table_of(np.arange(a, b)), ranks[a:b]) for a, b in zip(starts, starts[1:], strict=False)]
    found = list(in_order(tables, number, folder, bucket_rows, pending_bytes))
    assert [table.num_rows for table in found[:-1]] == [bucket_rows] * (len(found) - 1)
    if found:
        assert pa.concat_tables(found).equals(table_of(order))
    assert sum(table.num_rows for table in found) == number
    assert list(folder.iterdir()) == []


def test_rows_go_to_disk_only_when_too_many_wait_in_memory(tmp_path: Path) -> None:
    rows, ranks = table_of(np.arange(1000)), np.random.default_rng(0).permutation(1000).astype(np.int32)
    next(in_order([(rows, ranks)], 1000, tmp_path, 100))
    assert list(tmp_path.iterdir()) == []
    next(in_order([(rows, ranks)], 1000, tmp_path, 100, pending_bytes=1000))
    assert len(list(tmp_path.iterdir())) == 9
