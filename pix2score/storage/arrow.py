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
