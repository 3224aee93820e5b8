"""Questions whose exact answer is known, by which an index says its recall.

They are drawn from the stored embeddings. Their nearest rows are kept up to date as rows come and go, and
questions about new rows take the place of the oldest, so that an index that takes up another one is measured
without reading everything again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from pix2score.neighbours.cells import Cells
from pix2score.neighbours.parts import Vectors
from pix2score.neighbours.vectors import Floats, Positions, length, unit

logger = logging.getLogger(__name__)
NUM_QUESTIONS = 200
NUM_NEW = 40
"""Of them about new rows, after a night that is taken up."""
FROM_ALL = 100
NEAREST = 10
KEPT = 64
"""Exact neighbours that are held of each: as rows leave, ten remain for long."""
ITSELF = 1 - 1e-5
"""Similarity from which a row is the question itself, or a copy of it: it says nothing of the search."""
AIM = 0.99
"""Recall that the search is set to: above what is asked of it, as it is measured on few questions."""
PROBED = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
CANDIDATES = (50, 100, 200, 400)
_NONE = -1


class Questions:
    """Unit vectors [Q, D], and position and similarity of the ``KEPT`` rows nearest to each."""

    def __init__(self, unit_QD: Floats, position_QK: Positions, similarity_QK: Floats) -> None:
        self._unit_QD, self._position_QK, self._similarity_QK = unit_QD, position_QK, similarity_QK

    @classmethod
    def about(cls, rows_QD: Floats) -> Questions:
        """Questions for rows like these, not answered yet."""
        shape = len(rows_QD), KEPT
        return cls(unit(rows_QD), np.full(shape, _NONE, np.int64), np.full(shape, -np.inf, np.float32))

    @classmethod
    def read(cls, content: bytes) -> Questions:
        """Those that ``content`` holds."""
        tensors = load_tensors(content)
        return cls(tensors["unit"], tensors["position"], tensors["similarity"])

    @property
    def content(self) -> bytes:
        """As safetensors."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "unit": self._unit_QD,
            "position": self._position_QK,
            "similarity": self._similarity_QK,
        }
        return bytes(save_tensors(tensors))

    def add(self, rows_ND: Floats, positions_N: Positions) -> None:
        """Take into the answers what of these rows is near."""
        similarity_QN = (rows_ND @ self._unit_QD.T / length(rows_ND)[:, None]).T
        positions_QN = np.broadcast_to(positions_N, similarity_QN.shape)
        self._keep(
            np.hstack([self._position_QK, positions_QN]), np.hstack([self._similarity_QK, similarity_QN])
        )

    def remove(self, positions: Positions) -> None:
        """Take rows out of the answers."""
        is_gone = np.isin(self._position_QK, positions)
        self._keep(
            np.where(is_gone, _NONE, self._position_QK),
            np.where(is_gone, np.float32(-np.inf), self._similarity_QK),
        )

    def renew(self, rows_MD: Floats, index: Any, cells: Cells, vectors: Vectors) -> None:
        """Ask about these rows in place of the oldest questions; ``index`` holds them already.

        What is near is looked for in all cells: only what a code hides among the best ``FROM_ALL`` is missed.
        """
        index.nprobe = cells.num_cells
        _, found_MN = index.search(cells.project(rows_MD), FROM_ALL)
        new = Questions.about(rows_MD)
        for number, found_N in enumerate(found_MN):
            near = found_N[found_N >= 0][:FROM_ALL]
            one = Questions.about(rows_MD[number : number + 1])
            one.add(vectors.read(near), near)
            new._position_QK[number], new._similarity_QK[number] = one._position_QK[0], one._similarity_QK[0]
        stay = slice(max(0, len(self._unit_QD) + len(rows_MD) - NUM_QUESTIONS), None)
        self._unit_QD = np.concatenate([self._unit_QD[stay], new._unit_QD])
        self._position_QK = np.concatenate([self._position_QK[stay], new._position_QK])
        self._similarity_QK = np.concatenate([self._similarity_QK[stay], new._similarity_QK])

    def _keep(self, position_QM: Positions, similarity_QM: Floats) -> None:
        near = np.argpartition(-similarity_QM, KEPT - 1, axis=1)[:, :KEPT]
        near = np.take_along_axis(near, np.argsort(-np.take_along_axis(similarity_QM, near, 1), axis=1), 1)
        self._position_QK = np.take_along_axis(position_QM, near, 1)
        self._similarity_QK = np.take_along_axis(similarity_QM, near, 1)

    def set_search(self, index: Any, cells: Cells) -> Search:
        """The cheapest search by ``index`` that reaches ``AIM``, else the best."""
        projected_Qd = cells.project(self._unit_QD)
        best = Search(0, 0, -1.0, 0)
        probed = sorted({min(number, cells.num_cells) for number in PROBED})
        for num_probed in probed:
            index.nprobe = num_probed
            _, found_QN = index.search(projected_Qd, CANDIDATES[-1])
            for num_candidates in CANDIDATES:
                search = Search(num_probed, num_candidates, *self._recall(found_QN[:, :num_candidates]))
                if search.recall >= AIM:
                    return search
                best = max(best, search, key=lambda one: one.recall)
        return best

    def _recall(self, found_QN: Positions) -> tuple[float, int]:
        """Share of the nearest that are among the candidates, which are compared exactly; questions asked."""
        num_found = num_nearest = num_asked = 0
        for position_K, similarity_K, found_N in zip(
            self._position_QK, self._similarity_QK, found_QN, strict=True
        ):
            nearest = position_K[(position_K != _NONE) & (similarity_K < ITSELF)][:NEAREST]
            num_found += int(np.isin(nearest, found_N).sum())
            num_nearest += len(nearest)
            num_asked += bool(len(nearest))
        return (num_found / num_nearest if num_nearest else 1.0), num_asked


@dataclass(frozen=True, slots=True)
class Search:
    """How an index is asked, and what that reached."""

    num_probed: int
    num_candidates: int
    recall: float
    num_questions: int
