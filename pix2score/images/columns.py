"""Pixels as an Arrow column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.images.preprocess import Preprocess

ENCODED = "encoded"
"""Column of JPEGs that the predictor decodes."""


def pixel_type(preprocess: Preprocess) -> pa.DataType:
    """Arrow type of one image's pixels."""
    return pa.binary(preprocess.size * preprocess.size * 3)


def pixels_of(column: pa.ChunkedArray, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Pixels [N, S, S, 3] of a column without nulls, as a read-only view where its rows lie together."""
    size = preprocess.size
    if not len(column):
        return np.zeros((0, size, size, 3), dtype=np.uint8)
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    flat = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    return flat.reshape(-1, size, size, 3)[array.offset : array.offset + len(array)]
