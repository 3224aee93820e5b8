"""An index in memory, ready for questions: 0.7 GiB for a million rows, and the embeddings where they lie."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.catalog.keys import KEY, Key
from pix2score.cli.packages import missing
from pix2score.errors import DataError
from pix2score.neighbours.parts import Vectors, read_keys
from pix2score.neighbours.vectors import Floats, Positions
from pix2score.snapshots.damage import broken_files, checked_content
from pix2score.snapshots.indexes import IndexCard, each_index, serves
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
NEEDED_RECALL = 0.98
"""Of the ten nearest, for an index to be used."""


class LoadedIndex:
    """Answers which stored embeddings may be the nearest ones; who asks compares them exactly."""

    def __init__(self, folder: Folder, card: IndexCard) -> None:
        """Load it. Raises ``DataError`` for a file that is missing or damaged; of the embeddings, which stay
        where they are, only the size is looked at."""
        from pix2score.neighbours.cells import Cells, add_codes, remove_positions  # loads faiss

        check_sizes(folder, card)
        self.card = card
        self.cells = Cells.read(checked_content(folder, card.projection), checked_content(folder, card.cells))
        self.vectors = Vectors(folder, card.parts, card.embedding_dim, card.embedding_dtype)
        self.vectors.open()
        keys = pa.concat_tables(read_keys(folder, card.parts, KEY)).combine_chunks()
        self._ids, self._pages = keys.column(0), keys.column(1)
        self.gone = read_gone(folder, card)
        self.faiss: Any = self.cells.empty()
        """By cell the code of each row."""
        for part in card.parts:
            add_codes(self.faiss, checked_content(folder, part.codes))
        remove_positions(self.faiss, self.gone)
        self.faiss.nprobe = card.num_probed

    def candidates(self, unit_QD: Floats, num: int) -> list[Positions]:
        """Of each question ``num`` rows, or fewer, among which its nearest are, by position."""
        _, found_QN = self.faiss.search(self.cells.project(unit_QD), num)
        return [np.sort(found_N[found_N >= 0]) for found_N in found_QN]

    def keys(self, positions: Positions) -> tuple[pa.Array, pa.Array]:
        """Ids and pages of the rows at ``positions``."""
        chosen = pa.array(positions)
        return self._ids.take(chosen).combine_chunks(), self._pages.take(chosen).combine_chunks()

    def position_of(self, key: Key) -> int | None:
        """Where the row of ``key`` is, if there is one. Raises Arrow's errors for an id of another type."""
        if not -(2**31) <= key[1] < 2**31:
            return None
        kind = self._ids.type
        is_key = pc.and_(
            pc.equal(self._ids, pa.scalar(key[0], kind)), pc.equal(self._pages, pa.scalar(key[1], pa.int32()))
        )
        found = np.flatnonzero(is_key.to_numpy())
        alive = found[~np.isin(found, self.gone)]
        return int(alive[-1]) if len(alive) else None

    @property
    def num_rows(self) -> int:
        """Live ones."""
        return int(self.faiss.ntotal)


def check_sizes(folder: Folder, card: IndexCard) -> None:
    """Raise ``DataError`` naming a file that is missing or cut, by listings alone."""
    for path, what in broken_files(folder, card.files).items():
        raise DataError(f"{path} {what}")


def check_whole(folder: Folder, card: IndexCard) -> None:
    """As ``check_sizes``, and every byte; not of the embeddings, which are most of all."""
    check_sizes(folder, card)
    vectors = {part.vectors.path for part in card.parts}
    for file in card.files:
        if file.path not in vectors:
            checked_content(folder, file)


def read_gone(folder: Folder, card: IndexCard) -> Positions:
    """Positions whose row is no longer live. Raises ``DataError`` for a damaged file."""
    if not card.gone:
        return np.empty(0, np.int64)
    rows = pq.read_table(pa.BufferReader(checked_content(folder, card.gone)))
    return np.asarray(rows.column(0).to_numpy())


def loaded_index(
    folder: Folder, snapshot: Snapshot, needed_recall: float = NEEDED_RECALL
) -> LoadedIndex | None:
    """The index of ``snapshot``; None if none fits or is whole, or if it finds less than ``needed_recall`` of
    the ten nearest, with a line in the log where there is one."""
    newest, card = 0, None
    for one in each_index(folder):
        newest = newest or one.snapshot
        if serves(one, snapshot):
            card = one
            break
    if not newest:
        return None
    if why := _why_not(card, newest, snapshot, needed_recall):
        logger.info("neighbours are looked for in every embedding: %s", why)
        return None
    assert card is not None, "there is a reason without a card"
    try:
        return LoadedIndex(folder, card)
    except DataError as exc:
        logger.warning(
            "neighbours are looked for in every embedding: the index of snapshot %d is damaged: %s; "
            "jobs.index makes it anew", card.snapshot, exc,
        )  # fmt: skip
        return None


def _why_not(card: IndexCard | None, newest: int, snapshot: Snapshot, needed_recall: float) -> str | None:
    """Why no index is used."""
    if card is None:
        return (
            f"the newest index is of snapshot {newest}, which has other embeddings than snapshot "
            f"{snapshot.number}; jobs.index brings it up to date"
        )
    if card.recall < needed_recall:
        return (
            f"the index of snapshot {card.snapshot} finds {card.recall:.1%} of the nearest, less than "
            f"{needed_recall:.0%}"
        )
    if missing(["faiss"]):
        return "the index needs faiss, not installed here: pip install 'pix2score[index]'"
    return None
