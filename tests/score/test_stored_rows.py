"""Rows of a plan find their embeddings, whichever rows of which files they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.errors import DataError
from pix2score.score.again import _with_embeddings
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder


def vectors(ids: list[int]) -> np.ndarray:
    return np.array([[i, i + 0.5, -i] for i in ids], np.float16)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Two files of 10 rows in row groups of 4; ids 0 to 9, and 10 to 19."""
    for number in (0, 1):
        ids = list(range(10 * number, 10 * number + 10))
        columns = [pa.array(ids), pa.array([0] * 10, pa.int32()), fixed_lists(vectors(ids))]
        table = pa.table(columns, names=["illust_id", "page", "embedding"])
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=4, use_dictionary=False)
    return Folder(str(tmp_path))


def plan(ids: list[int]) -> pa.Table:
    return pa.table(
        {
            "illust_id": pa.array(ids),
            "page": pa.array([0] * len(ids), pa.int32()),
            "file": [f"{i // 10}.parquet" for i in ids],
            "position": pa.array([i % 10 for i in ids]),
        }
    )


@pytest.mark.parametrize(
    "ids", [[*range(20)], [1, 2], [0, 3, 4, 9, 10, 19], [9, 10], [5], [12, 13, 14, 15], [0, 1, 2, 3], []]
)
def test_each_row_gets_the_embedding_at_its_position(folder: Folder, ids: list[int]) -> None:
    found = list(_with_embeddings(folder, plan(ids)))
    assert [i for rows, _ in found for i in rows.column("illust_id").to_pylist()] == ids
    for rows, embedding in found:
        assert np.array_equal(embedding, vectors(rows.column("illust_id").to_pylist()))


def test_another_key_at_a_position_is_an_error(folder: Folder) -> None:
    rows = plan([1, 2, 6]).set_column(0, "illust_id", pa.array([1, 3, 6]))
    with pytest.raises(DataError, match=r"0\.parquet does not hold the embeddings that the plan found"):
        list(_with_embeddings(folder, rows))
