"""Embeddings as matrices: blocks of the live ones, their lengths, half precision widened.

Shapes, here and in the room: N rows of a block, Q queries, D embedding, d its projection, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from pix2score.catalog.keys import KEY
from pix2score.errors import DataError

Floats: TypeAlias = npt.NDArray[np.float32]
Positions: TypeAlias = npt.NDArray[np.int64]
BLOCK_ROWS = 1_024  # 8 MiB of float32[2048]: the passes over a block find it in the cache
READAHEAD_BLOCKS = 16  # the scanner's default of 16 blocks of 131,072 rows would be 8 GiB


def blocks(embeddings: pds.Dataset) -> Iterator[tuple[pa.Array, pa.Array, Floats]]:
    """Ids, pages and float32 [N, D] of all live rows, block by block."""
    for batch in scanner(embeddings).to_batches():
        if batch.num_rows:
            yield batch.column(0), batch.column(1), matrix(batch.column(2))


def scanner(
    embeddings: pds.Dataset,
    only: pc.Expression | None = None,
    columns: Sequence[str] = (*KEY, "embedding"),
    rows: int = BLOCK_ROWS,
) -> pds.Scanner:
    """Reads some columns in blocks of at most ``rows``, holding a few of them."""
    return embeddings.scanner(
        columns=list(columns),
        filter=only,
        batch_size=rows,
        batch_readahead=READAHEAD_BLOCKS,
        fragment_readahead=1,
        fragment_scan_options=pds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True),
    )


def stored(column: pa.Array) -> npt.NDArray[np.floating]:
    """[N, D] of a column of embeddings, in the precision that it has."""
    return np.asarray(column.flatten().to_numpy().reshape(-1, column.type.list_size))


def check_finite(rows_ND: npt.NDArray[np.floating], scores: str) -> None:
    """Raise ``DataError`` for NaN or infinity, which ``widened`` would make numbers of."""
    num = len(rows_ND) - int(np.isfinite(rows_ND).all(axis=1).sum())
    if num:
        raise DataError(
            f"{num} embeddings of {scores} have NaN or infinity: jobs.verify says what is wrong with the "
            "snapshot"
        )


def matrix(column: pa.Array) -> Floats:
    """[N, D] of a column of embeddings."""
    return wide(stored(column))


def wide(rows_ND: npt.NDArray[np.floating]) -> Floats:
    """The same numbers as float32."""
    return rows_ND if rows_ND.dtype == np.float32 else widened(rows_ND.astype(np.float16, copy=False))


def widened(halves: npt.NDArray[np.float16]) -> Floats:
    """The same finite numbers as float32.

    Seven times as fast as numpy's cast, which took a third of the whole search. Sign, exponent and fraction
    move to their places in float32, one bit pattern shift; the product mends the exponent's offset (127 -
    15).
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= ~0x70000000  # copies of the sign bit
    floats = bits.view(np.float32)
    floats *= np.float32(2.0**112)
    return floats


def length(rows_ND: Floats) -> Floats:
    """Length of each row, [N]; that of a row of zeros as a tiny number, so that it resembles nothing."""
    return np.asarray(np.maximum(np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND)), np.finfo(np.float32).tiny))


def unit(rows_ND: Floats) -> Floats:
    """The rows with length 1; a row of zeros stays one."""
    return np.asarray(rows_ND / length(rows_ND)[:, None], dtype=np.float32)
