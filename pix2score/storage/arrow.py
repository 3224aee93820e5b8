"""Arrow columns as numpy matrices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """[N, K] of a fixed list column without nulls."""
    array = column.combine_chunks()
    return np.asarray(array.flatten().to_numpy().reshape(-1, array.type.list_size))
