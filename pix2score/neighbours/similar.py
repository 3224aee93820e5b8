"""Nearest neighbours of illustrations among the live embeddings, by the cosine of their embeddings.

By the index of ``jobs.index`` where there is one of these embeddings: it names candidates, and their stored
embeddings are compared. Else one pass over the embedding files answers any number of questions, out of core:
each block of rows is one matrix product with all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import Id, Key
from pix2score.errors import ConfigError, DataError
from pix2score.neighbours.loaded import LoadedIndex, loaded_index
from pix2score.neighbours.vectors import Floats, blocks, length, matrix, scanner, unit
from pix2score.snapshots.identity import model_of
from pix2score.snapshots.manifest import live
from pix2score.snapshots.read import read_embeddings, removed_meanwhile
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
MOST_BY_INDEX = 100
"""Neighbours of one question; the recall of an index is that of ten."""
CANDIDATES_PER_NEIGHBOUR = 4


def similar(scores: str, key: Id | Key | Sequence[Id | Key], k: int = 20) -> pa.Table:
    """The ``k`` illustrations most similar to each of the given ones, best first.

    By the cosine of their embeddings. ``Neighbours`` answers many questions and loads an index once.

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
    _check(k)
    return Neighbours(scores).of(key, k)


class Neighbours:
    """The live snapshot of a scores folder, for questions; its index is loaded once, if it has one.

    Safe to use from several threads.
    """

    def __init__(self, scores: str) -> None:
        self._scores = scores
        snapshot = live(scores)
        self._embeddings = read_embeddings(scores, snapshot.number)
        self.id_type = snapshot.layout.id_type
        """Of the ids: int64 or string."""
        self._dim = snapshot.layout.embedding_dim
        self._index = loaded_index(Folder(scores), snapshot)
        self.snapshot = snapshot.number
        """Its number."""
        self.trunk_version = snapshot.manifest.get("trunk_version")
        """Of the models whose embeddings can be compared with its own, as far as the snapshot says."""

    @property
    def is_indexed(self) -> bool:
        """Whether an index answers, rather than a pass over every embedding."""
        return self._index is not None

    @property
    def recall(self) -> float:
        """Share of the ten nearest that are found, as measured when the index was made; 1 without one."""
        return self._index.card.recall if self._index else 1.0

    def of(self, key: Id | Key | Sequence[Id | Key], k: int = 20) -> pa.Table:
        """As ``similar``."""
        _check(k)
        keys = [_as_key(one) for one in (key if isinstance(key, list) else [key])]  # type: ignore[arg-type]
        if not keys:
            return Nearest(1).table(None, k, self.id_type)
        with self._told():
            unit_QD = self._embeddings_of(keys)
            # one more: an illustration finds itself
            found = self._nearest(unit_QD, k + 1)
        return pa.concat_tables(
            nearest.table(of, k, self.id_type) for of, nearest in zip(keys, found, strict=True)
        )

    def like(self, embedding: npt.ArrayLike, k: int = 20) -> pa.Table:
        """The ``k`` illustrations most similar to a picture that need not be among them, best first.

        Args:
            embedding: [D], as ``Model.predict`` gives it by a model of ``trunk_version``.

        Returns:
            Columns ``illust_id``, ``page``, ``similarity``.

        Raises:
            ConfigError: ``k`` below 1, or an embedding of another size or not finite.
        """
        _check(k)
        vector_D = np.asarray(embedding, np.float32)
        if vector_D.shape != (self._dim,) or not np.isfinite(vector_D).all():
            raise ConfigError(
                f"embedding of shape {vector_D.shape}: expected {self._dim} finite numbers, as those of "
                f"{self._scores}"
            )
        with self._told():
            (nearest,) = self._nearest(unit(vector_D[None]), k)
        return nearest.table(None, k, self.id_type).select(["illust_id", "page", "similarity"])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A file that ``vacuum`` removed meanwhile, as a ``DataError`` that says so."""
        try:
            yield
        except FileNotFoundError as exc:
            raise removed_meanwhile(Folder(self._scores), self.snapshot, exc) from None

    def _nearest(self, unit_QD: Floats, num: int) -> list[Nearest]:
        found = [Nearest(num) for _ in unit_QD]
        if self._index and num <= MOST_BY_INDEX + 1:
            _by_index(self._index, unit_QD, found, num)
            return found
        if self._index:
            logger.info(
                "neighbours are looked for in every embedding: more than %d are asked for", MOST_BY_INDEX
            )
        for ids, pages, block_ND in blocks(self._embeddings):
            similarity_NQ = block_ND @ unit_QD.T / length(block_ND)[:, None]
            for column, nearest in enumerate(found):
                nearest.add(ids, pages, similarity_NQ[:, column])
        return found

    def _embeddings_of(self, keys: Sequence[Key]) -> Floats:
        """Unit vector of each key, [Q, D]."""
        for key in keys:
            try:
                pa.scalar(key[0], self.id_type)
            except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                what = f"illust_id {key[0]!r}: the ids of {self._scores} are {self.id_type}"
                raise DataError(what) from None
        found = self._by_position(keys) if self._index else self._by_files(keys)
        for key in keys:
            if key not in found:
                raise DataError(
                    f"{key[0]!r}, page {key[1]}, has no embedding in {self._scores}: not in its catalog, or "
                    "its image failed or is pending"
                )
        return unit(np.stack([found[key] for key in keys]))

    def _by_position(self, keys: Sequence[Key]) -> dict[Key, Floats]:
        assert self._index is not None, "asked without an index"
        positions = {key: self._index.position_of(key) for key in keys}
        return {
            key: self._index.vectors.read(np.array([position], np.int64))[0]
            for key, position in positions.items()
            if position is not None
        }

    def _by_files(self, keys: Sequence[Key]) -> dict[Key, Floats]:
        """All in one pass. Files are sorted within a piece, so that Parquet's statistics skip most of them
        where a few are asked for."""
        ids = pa.array(sorted({key[0] for key in keys}), self.id_type)  # type: ignore[type-var]
        field = pc.field("illust_id")
        is_wanted = field == ids[0] if len(ids) == 1 else field.isin(ids)
        found: dict[Key, Floats] = {}
        for batch in scanner(self._embeddings, is_wanted).to_batches():
            of_batch = zip(*(batch.column(i).to_pylist() for i in (0, 1)), strict=True)
            found |= dict(zip(of_batch, matrix(batch.column(2)), strict=True))
        return found


def _by_index(index: LoadedIndex, unit_QD: Floats, found: Sequence[Nearest], num: int) -> None:
    """Fill ``found`` with the nearest among the candidates."""
    wanted = max(index.card.num_candidates, CANDIDATES_PER_NEIGHBOUR * num)
    for unit_D, positions, nearest in zip(unit_QD, index.candidates(unit_QD, wanted), found, strict=True):
        rows_ND = index.vectors.read(positions)
        nearest.add(*index.keys(positions), rows_ND @ unit_D / length(rows_ND))


def check_trunk(model: str, version: str | None, scores: str, number: int, theirs: str | None) -> None:
    """Raise ``ConfigError`` if embeddings of a model cannot be compared with those of a snapshot.

    ``model``: how it is named; ``version``, ``theirs``: the trunk's of the model and of the snapshot, by
    whichever engine each embeds.
    """
    if not is_same_trunk(version, theirs):
        raise ConfigError(
            f"{model} has trunk {version}, the embeddings of snapshot {number} of {scores} are of trunk "
            f"{theirs}: they cannot be compared; give the model that the snapshot was scored by"
        )


def is_same_trunk(version: str | None, theirs: str | None) -> bool:
    """Whether embeddings of two trunks can be compared: they are one, but for the engine that ran it."""
    return version is not None and theirs is not None and model_of(version) == model_of(theirs)


def _check(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k {k}: at least 1")


def _as_key(key: Id | Key) -> Key:
    return key if isinstance(key, tuple) else (key, 0)


class Nearest:
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

    def table(self, of: Key | None, k: int, id_type: pa.DataType) -> pa.Table:
        """The ``k`` best that are not ``of`` itself."""
        rows = [row for row in self._rows if row[1:] != of][:k]
        of_id, of_page = of if of else (None, None)
        columns = {
            "of_illust_id": pa.array([of_id] * len(rows), id_type),
            "of_page": pa.array([of_page] * len(rows), pa.int32()),
            "illust_id": pa.array([row[1] for row in rows], id_type),
            "page": pa.array([row[2] for row in rows], pa.int32()),
            "similarity": pa.array([row[0] for row in rows], pa.float32()),
        }
        return pa.table(columns)
