"""Groups of near-identical pictures: connected components of pairs at least so alike, in bounded memory.

Copies of one embedding are joined first, by a hash, and one of them stands for all: a placeholder that stands
in a table ten thousand times would otherwise be 50 million pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from pix2score.neighbours.loaded import LoadedIndex
from pix2score.neighbours.vectors import Floats, Positions, length, unit, wide

Stored = npt.NDArray[np.floating]
Told = Callable[[int], None]
"""Is told how many rows are done."""
BLOCK_ROWS = 1_024
SEARCHED_ROWS = 256
"""Most rows that the index is asked about at a time."""
MAX_FOUND = 4_000_000
"""Most rows that these may find together, some 100 MB in faiss: each may find all others of its cells."""
CODE_ERROR = 0.02
"""By which codes may make two unit vectors look further apart than they are: measured at most 0.006."""
PROBED = 16
"""Cells that are searched from each side of a pair. Of pairs at 0.98 that lie towards other pictures 8 cells
held 99.8 % and 16 all; at 0.95 98.0 and 99.6 %, at 0.9 88 and 95 % (12,000 rows in 307 cells, one side)."""


class Components:
    """Which of N rows are joined."""

    def __init__(self, num_rows: int) -> None:
        self._parent = np.arange(num_rows)

    def root(self, row: int) -> int:
        """The row that stands for those that ``row`` is joined with."""
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    def join(self, one: int, other: int) -> None:
        """Put both into one group, whose root is the smaller of their roots."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low

    def join_all(self, row: int, others: Positions) -> None:
        """Put ``row`` and all of ``others`` into one group; those that are in it cost no more than a look."""
        root = self.root(row)
        roots = self.roots_of(others)
        for other in np.unique(roots[roots != root]).tolist():
            self.join(root, other)

    def roots_of(self, rows: Positions) -> Positions:
        """The root of each of ``rows``, found for all at once: groups of thousands make millions of pairs."""
        parent = self._parent
        found = parent[rows]
        while (parent[found] != found).any():
            found = parent[found]
        parent[rows] = found
        return np.asarray(found)

    def roots(self) -> Positions:
        """[N]: the root of each row."""
        parent = self._parent
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]
        return np.asarray(parent)


def hashes(rows_ND: Stored) -> npt.NDArray[np.uint64]:
    """[N]: equal for equal rows, and for others by a chance of 2^-64."""
    content = np.ascontiguousarray(rows_ND).view(np.uint8).reshape(len(rows_ND), -1)
    padded = np.pad(content, ((0, 0), (0, -content.shape[1] % 8))).view(np.uint64)
    factors = np.random.default_rng(0).integers(0, 2**63, padded.shape[1], np.uint64) * 2 + 1
    mixed = padded ^ (padded >> np.uint64(29))
    return np.asarray((mixed * factors).sum(axis=1, dtype=np.uint64))


def join_copies(
    found: Components, hash_N: npt.NDArray[np.uint64], is_row: npt.NDArray[np.bool_]
) -> Positions:
    """Join rows of equal hash; the positions of one of each. Only where ``is_row`` is there a row at all."""
    rows = np.flatnonzero(is_row)
    _, first, which = np.unique(hash_N[rows], return_index=True, return_inverse=True)
    representative = rows[first[which]]
    is_copy = rows != representative
    for row, other in zip(rows[is_copy].tolist(), representative[is_copy].tolist(), strict=True):
        found.join(row, other)
    return np.sort(rows[first])


def join_exactly(
    found: Components, rows_ND: Stored, chosen: Positions, threshold: float, told: Told = lambda _: None
) -> None:
    """Compare every pair of the rows at ``chosen``, which are few."""
    unit_MD = unit(wide(rows_ND[chosen]))
    for start in range(0, len(chosen), BLOCK_ROWS):
        is_alike = unit_MD[start : start + BLOCK_ROWS] @ unit_MD[start:].T >= threshold
        for number, alike in enumerate(is_alike):
            others = number + 1 + np.flatnonzero(alike[number + 1 :])
            if len(others):
                found.join_all(int(chosen[start + number]), chosen[start + others])
        told(start + len(is_alike))


def join_by_index(
    found: Components,
    index: LoadedIndex,
    chosen: Positions,
    threshold: float,
    told: Told = lambda _: None,
) -> None:
    """Compare the rows at ``chosen`` with those that the index says are near.

    What a pair is like is computed from the stored embeddings; the index only leaves out what is far. It
    loses all other rows first, so that no row finds the thousands of copies of another.
    """
    remove_others(index, chosen)
    index.faiss.nprobe = min(PROBED, index.cells.num_cells)
    num_rows = _searched_rows(index)
    for start in range(0, len(chosen), num_rows):
        positions = chosen[start : start + num_rows]
        rows_ND = unit(index.vectors.read(positions))
        for row, unit_D, near in zip(
            positions.tolist(), rows_ND, _near(index, rows_ND, threshold), strict=True
        ):
            _join_near(found, index, row, unit_D, near, threshold)
        told(start + len(positions))


def remove_others(index: LoadedIndex, chosen: Positions) -> None:
    """Leave only the rows at ``chosen`` in the index that is in memory."""
    from pix2score.neighbours.cells import remove_positions  # loads faiss

    is_chosen = np.zeros(sum(part.rows for part in index.card.parts), bool)
    is_chosen[chosen] = True
    remove_positions(index.faiss, np.flatnonzero(~is_chosen))


def _searched_rows(index: LoadedIndex) -> int:
    """How many rows are searched at a time, so that they find ``MAX_FOUND`` at most."""
    lists = index.faiss.invlists
    sizes = np.sort([lists.list_size(cell) for cell in range(index.cells.num_cells)])
    return int(np.clip(MAX_FOUND // max(1, sizes[-index.faiss.nprobe :].sum()), 1, SEARCHED_ROWS))


def _near(index: LoadedIndex, unit_ND: Floats, threshold: float) -> Iterator[Positions]:
    """Rows of the index that may be that alike, for each of a block."""
    radius = (np.sqrt(2 - 2 * threshold) + CODE_ERROR) ** 2
    limits, _, positions = index.faiss.range_search(index.cells.project(unit_ND), float(radius))
    for first, last in zip(limits[:-1].tolist(), limits[1:].tolist(), strict=True):
        yield np.sort(positions[first:last])


def _join_near(
    found: Components, index: LoadedIndex, row: int, unit_D: Floats, near: Positions, threshold: float
) -> None:
    """Join ``row`` with those of ``near`` that are as alike, but for those it is joined with already."""
    others = near
    while len(others := others[found.roots_of(others) != found.root(row)]):
        some, others = others[:BLOCK_ROWS], others[BLOCK_ROWS:]
        rows_MD = index.vectors.read(some)
        found.join_all(row, some[rows_MD @ unit_D / length(rows_MD) >= threshold])
