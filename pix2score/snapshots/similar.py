"""Nearest neighbours of illustrations among the live embeddings: exact, out of core, no index to keep.

One pass over the embedding files answers any number of queries: each block of rows is one matrix product with
all of them.

Shapes: N rows of a block, Q queries, D embedding, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from pix2score.catalog.keys import KEY, Id, Key
from pix2score.errors import ConfigError, DataError
from pix2score.snapshots.read import read_embeddings

Floats: TypeAlias = npt.NDArray[np.float32]
BLOCK_ROWS = 1_024  # 8 MiB of float32[2048]: the passes over a block find it in the cache
READAHEAD_BLOCKS = 16  # the scanner's default of 16 blocks of 131,072 rows would be 8 GiB


def similar(scores: str, key: Id | Key | Sequence[Id | Key], k: int = 20) -> pa.Table:
    """The ``k`` illustrations most similar to each of the given ones, best first.

    By the cosine of their embeddings.

    Args:
        scores: scores folder; its live snapshot is searched.
        key: an ``illust_id`` (its page 0), an (``illust_id``, ``page``), or a list of those: a list costs one
            pass, not one each.

    Returns:
        Columns ``of_illust_id``, ``of_page`` (whom the row is a neighbour of, in the order asked),
        ``illust_id``, ``page``, ``similarity`` (float32 in [-1, 1]). An illustration is not its own
        neighbour; fewer than ``k`` rows if there are no more.

    Raises:
        ConfigError: ``k`` below 1.
        DataError: no snapshot, or a key without an embedding (not in the catalog, or its image failed); the
            first is named.
    """
    if k < 1:
        raise ConfigError(f"k {k}: at least 1")
    embeddings = read_embeddings(scores)
    keys = [_as_key(one) for one in (key if isinstance(key, list) else [key])]  # type: ignore[arg-type]
    queries_QD = np.stack([_embedding_of(embeddings, one, scores) for one in keys])
    found = [_Nearest(k + 1) for _ in keys]  # one more: an illustration finds itself
    for ids, pages, block_ND in _blocks(embeddings):
        similarity_NQ = block_ND @ queries_QD.T / _length(block_ND)[:, None]
        for column, nearest in enumerate(found):
            nearest.add(ids, pages, similarity_NQ[:, column])
    tables = [
        nearest.table(of, k, embeddings.schema.field("illust_id").type)
        for of, nearest in zip(keys, found, strict=True)
    ]
    return pa.concat_tables(tables)


def _as_key(key: Id | Key) -> Key:
    return key if isinstance(key, tuple) else (key, 0)


def _embedding_of(embeddings: pds.Dataset, key: Key, scores: str) -> Floats:
    """Unit vector [D] of one key.

    Files are sorted within a piece, so that Parquet's statistics skip most of them.
    """
    is_key = (pc.field("illust_id") == key[0]) & (pc.field("page") == pa.scalar(key[1], pa.int32()))
    try:
        rows = _scanner(embeddings, is_key).to_table()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        kind = embeddings.schema.field("illust_id").type
        raise DataError(f"illust_id {key[0]!r}: the ids of {scores} are {kind}") from None
    if not rows.num_rows:
        raise DataError(
            f"{key[0]!r}, page {key[1]}, has no embedding in {scores}: not in its catalog, or its image "
            "failed or is pending"
        )
    vector_1D = _matrix(rows.column("embedding").combine_chunks())
    return np.asarray(vector_1D[0] / _length(vector_1D), dtype=np.float32)


def _blocks(embeddings: pds.Dataset) -> Iterator[tuple[pa.Array, pa.Array, Floats]]:
    """Ids, pages and float32 [N, D] of all live rows, block by block."""
    for batch in _scanner(embeddings).to_batches():
        if batch.num_rows:
            yield batch.column(0), batch.column(1), _matrix(batch.column(2))


def _scanner(embeddings: pds.Dataset, only: pc.Expression | None = None) -> pds.Scanner:
    return embeddings.scanner(
        columns=[*KEY, "embedding"],
        filter=only,
        batch_size=BLOCK_ROWS,
        batch_readahead=READAHEAD_BLOCKS,
        fragment_readahead=1,
        fragment_scan_options=pds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True),
    )


def _matrix(column: pa.Array) -> Floats:
    flat = column.flatten().to_numpy()
    wide: Floats = flat if flat.dtype == np.float32 else _widened(flat)
    return wide.reshape(-1, column.type.list_size)


def _widened(halves: npt.NDArray[np.float16]) -> Floats:
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


def _length(rows_ND: Floats) -> Floats:
    """Length of each row, [N]; that of a row of zeros as a tiny number, so that it resembles nothing."""
    return np.asarray(np.maximum(np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND)), np.finfo(np.float32).tiny))


class _Nearest:
    """The ``size`` best rows seen so far of one query."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: list[tuple[float, Id, int]] = []

    def add(self, ids: pa.Array, pages: pa.Array, similarity_N: Floats) -> None:
        """Take what of a block is better than the worst kept."""
        worst = self._rows[-1][0] if len(self._rows) == self._size else -np.inf
        better = np.flatnonzero(similarity_N > worst)
        if len(better) > self._size:
            better = better[np.argpartition(-similarity_N[better], self._size - 1)[: self._size]]
        entering = zip(
            similarity_N[better].tolist(),
            ids.take(pa.array(better)).to_pylist(),
            pages.take(pa.array(better)).to_pylist(),
            strict=True,
        )
        self._rows = sorted([*self._rows, *entering], key=lambda row: (-row[0], row[1], row[2]))[: self._size]

    def table(self, of: Key, k: int, id_type: pa.DataType) -> pa.Table:
        """The ``k`` best that are not ``of`` itself."""
        rows = [row for row in self._rows if row[1:] != of][:k]
        columns = {
            "of_illust_id": pa.array([of[0]] * len(rows), id_type),
            "of_page": pa.array([of[1]] * len(rows), pa.int32()),
            "illust_id": pa.array([row[1] for row in rows], id_type),
            "page": pa.array([row[2] for row in rows], pa.int32()),
            "similarity": pa.array([row[0] for row in rows], pa.float32()),
        }
        return pa.table(columns)
