"""Arrow columns of lists of one length, from and to numpy matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def fixed_lists(values_NK: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """Column of N lists of K values, without nulls."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values_NK.ravel()), values_NK.shape[1])


def matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """[N, K] of a fixed list column without nulls."""
    array = column.combine_chunks()
    return np.asarray(array.flatten().to_numpy().reshape(-1, array.type.list_size))


def lists_of(values_MK: npt.NDArray[Any], counts_N: npt.NDArray[np.int64]) -> pa.ListArray:
    """Column of N lists of the rows of a matrix, ``counts_N`` in each."""
    offsets = np.concatenate([[0], counts_N.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), fixed_lists(values_MK))


def flat_lists(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """[M, K] of a column of ``lists_of``: all lists one after the other."""
    items = column.combine_chunks().flatten()
    return np.asarray(items.flatten().to_numpy().reshape(-1, items.type.list_size))
