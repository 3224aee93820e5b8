"""Embeddings as short codes in cells, by faiss: projected onto their main axes, 8 bits a number.

A question looks at the cells nearest to it, and at the codes in them. Distances are Euclidean between unit
vectors, whose order is that of cosines: |a - b|^2 = 2 - 2 cos. Loads faiss.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from pix2score.neighbours.vectors import Floats, Positions, unit, wide

logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells which instructions it lacks
import faiss  # noqa: E402

CODE_DIM = 256
"""Axes of the projection, each a byte of a row's code."""
ROWS_PER_CELL = 39
"""Least rows to learn a cell's centre from; faiss warns below."""
AXES_ROWS = 32_768
"""Rows that the axes are learnt from: sixteen for each of 2,048 numbers."""
MAX_CELLS = 16_384
ROUNDS = 8
"""Of k-means."""
BLOCK_ROWS = 4_096


class Cells:
    """A projection, the centres of cells, the range of each number of a code; and no row."""

    def __init__(self, mean_D: Floats, axes_Dd: Floats, empty: bytes) -> None:
        self._mean_D, self._axes_Dd = mean_D, axes_Dd
        self.content = empty
        """As faiss writes it: an index without rows."""

    @property
    def num_cells(self) -> int:
        """How many there are."""
        return int(self.empty().nlist)

    @property
    def dim(self) -> int:
        """Numbers of a code."""
        return int(self._axes_Dd.shape[1])

    @classmethod
    def learnt(cls, sample_ND: npt.NDArray[np.floating], num_rows: int, seed: int = 0) -> Cells:
        """Cells for ``num_rows`` embeddings, learnt from a sample of them in the precision that they have."""
        drawn = np.random.default_rng(seed).permutation(len(sample_ND))
        mean_D, axes_Dd = _main_axes(unit(wide(sample_ND[np.sort(drawn[:AXES_ROWS])])))
        learnt = cls(mean_D, axes_Dd, b"")
        projected_Nd = np.concatenate(
            [learnt.project(wide(sample_ND[i : i + BLOCK_ROWS])) for i in range(0, len(drawn), BLOCK_ROWS)]
        )
        cells = max(1, min(_cells_for(num_rows), len(drawn) // ROWS_PER_CELL, MAX_CELLS))
        centres = faiss.IndexFlatL2(learnt.dim)
        index = faiss.IndexIVFScalarQuantizer(
            centres, learnt.dim, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2, False
        )
        index.cp.niter, index.cp.seed = ROUNDS, seed + 1
        index.train(projected_Nd)
        learnt.content = faiss.serialize_index(index).tobytes()
        return learnt

    @classmethod
    def read(cls, projection: bytes, content: bytes) -> Cells:
        """Those that ``projection`` and ``content`` are of."""
        tensors = load_tensors(projection)
        return cls(tensors["mean"], tensors["axes"], content)

    @property
    def projection(self) -> bytes:
        """Mean and axes, as safetensors."""
        return bytes(save_tensors({"mean": self._mean_D, "axes": np.ascontiguousarray(self._axes_Dd)}))

    def project(self, rows_ND: Floats) -> Floats:
        """[N, d] of embeddings of any length."""
        return np.ascontiguousarray((unit(rows_ND) - self._mean_D) @ self._axes_Dd)

    def empty(self) -> Any:
        """A faiss index of these cells that holds nothing."""
        return faiss.deserialize_index(np.frombuffer(self.content, np.uint8))

    def coded(self, rows_ND: Floats, positions_N: Positions) -> Any:
        """A faiss index that holds these rows alone."""
        index = self.empty()
        for start in range(0, len(rows_ND), BLOCK_ROWS):
            some = slice(start, start + BLOCK_ROWS)
            index.add_with_ids(self.project(rows_ND[some]), positions_N[some])
        return index


def _cells_for(num_rows: int) -> int:
    """The power of two next to four roots of the rows: a question compares as many cells as rows, or so."""
    return int(2 ** round(np.log2(max(1.0, 4 * num_rows**0.5))))


def _main_axes(rows_ND: Floats) -> tuple[Floats, Floats]:
    """Mean [D] and the axes [D, d] of most variance."""
    mean_D = rows_ND.mean(axis=0)
    centred_ND = rows_ND - mean_D
    covariance = (centred_ND.T @ centred_ND).astype(np.float64)
    _, axes = np.linalg.eigh(covariance)  # ascending
    return mean_D, np.ascontiguousarray(axes[:, ::-1][:, :CODE_DIM], dtype=np.float32)


def codes_of(index: Any) -> bytes:
    """Rows of a faiss index by cell: positions and codes."""
    writer = faiss.VectorIOWriter()
    faiss.write_InvertedLists(index.invlists, writer)
    return bytes(faiss.vector_to_array(writer.data).tobytes())


def add_codes(index: Any, content: bytes) -> None:
    """Add to ``index`` the rows that ``codes_of`` wrote."""
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(np.frombuffer(content, np.uint8), reader.data)
    index.invlists.merge_from(faiss.read_InvertedLists(reader, 0), 0)
    index.ntotal = index.invlists.compute_ntotal()


def remove_positions(index: Any, positions: Positions) -> None:
    """Take rows out of ``index``."""
    if len(positions):
        index.remove_ids(positions)
