"""Whether an embedding is dead, asked batch by batch: files of the dead are opened when rows need them."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY
from pix2score.errors import DataError
from pix2score.snapshots.dead import Hashes, OfRun, dead_batches, hashes_of, of_run, organise
from pix2score.snapshots.tables import DataFile, dead_schema
from pix2score.storage.folder import Folder

HELD_BYTES = 256 * 2**20
"""Of organised files in memory, those used last."""
LOOSE_ROWS = 4_000_000
"""Of files that hold the dead of any run: more of them are sorted on the disk of temporary files first."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Block:
    """Dead keys of one run in order of their hash."""

    hashes: Hashes
    keys: pa.Table

    @property
    def nbytes(self) -> int:
        return int(self.hashes.nbytes + self.keys.nbytes)

    def holds(self, keys: pa.Table, hashes: Hashes) -> Flags:
        """Whether each of ``keys`` is among them. Equal hashes are looked at key by key."""
        found = np.zeros(len(hashes), bool)
        rows = np.arange(len(hashes))
        places = np.searchsorted(self.hashes, hashes)
        while True:
            is_near = places < len(self.hashes)
            is_near[is_near] = self.hashes[places[is_near]] == hashes[rows[is_near]]
            rows, places = rows[is_near], places[is_near]
            if not len(rows):
                return found
            found[rows] = _equal(keys.take(pa.array(rows)), self.keys.take(pa.array(places)))
            rows, places = rows[~found[rows]], places[~found[rows]] + 1


def _equal(left: pa.Table, right: pa.Table) -> Flags:
    same = pc.and_(*(pc.equal(left.column(name), right.column(name)) for name in KEY))
    return np.asarray(same.to_numpy(), dtype=bool)


@dataclass(frozen=True, slots=True)
class _Placed:
    """An organised file, and the folder that it is in."""

    folder: Folder
    file: DataFile
    name: OfRun


class DeadKeys:
    """The dead of a snapshot, of whom only what was asked for of late is in memory.

    Args:
        folder: the scores folder.
        files: its files of the dead.
        told: the error of a file that is missing.
    """

    def __init__(
        self,
        folder: Folder,
        files: Sequence[DataFile],
        id_type: pa.DataType,
        told: Callable[[FileNotFoundError], Exception] = lambda exc: exc,
    ) -> None:
        named = [(file, of_run(file)) for file in files]
        self._folder, self._id_type, self._told = folder, id_type, told
        self._placed = [_Placed(folder, file, name) for file, name in named if name]
        self._loose = [file for file, name in named if name is None]
        self._blocks: OrderedDict[str, _Block] = OrderedDict()
        self._kept: dict[str, _Block] | None = None
        self._lock = threading.RLock()

    @classmethod
    def of_rows(cls, rows: pa.Table, id_type: pa.DataType) -> DeadKeys:
        """Of keys in memory, as ``tables.dead_schema``."""
        found = cls(Folder("."), [], id_type)
        found._kept = _by_run(rows)
        return found

    def are_dead(self, run: str, ids: Any, pages: Any) -> Flags:
        """Whether the embedding of each key in the files of ``run`` is dead; [N].

        Raises ``DataError`` if a file is not what its name says, what ``told`` makes if one is missing.
        """
        keys = pa.table([ids, pages], names=list(KEY))
        found = np.zeros(keys.num_rows, bool)
        if not keys.num_rows:
            return found
        kept = self._of_loose().get(run)
        placed = [one for one in self._placed if one.name.run == run]
        if kept is None and not placed:
            return found
        hashes = hashes_of(keys)
        if kept is not None:
            found |= kept.holds(keys, hashes)
        ordered = np.sort(hashes)
        for one in placed:
            at = np.searchsorted(ordered, np.uint64(one.name.first))
            if at < len(ordered) and ordered[at] <= one.name.last:
                found |= self._block(one).holds(keys, hashes)
        return found

    def _block(self, one: _Placed) -> _Block:
        with self._lock:
            path = one.file.path
            if path in self._blocks:
                self._blocks.move_to_end(path)
            else:
                self._blocks[path] = self._read(one)
                while len(self._blocks) > 1 and sum(b.nbytes for b in self._blocks.values()) > HELD_BYTES:
                    self._blocks.popitem(last=False)
            return self._blocks[path]

    def _read(self, one: _Placed) -> _Block:
        rows = self._rows(one.folder, [one.file])
        block = _Block(hashes_of(rows), rows.select(list(KEY)))
        is_sorted = len(block.hashes) and (np.diff(block.hashes.view(np.uint64)) < 2**63).all()
        if not is_sorted or (block.hashes[0], block.hashes[-1]) != (one.name.first, one.name.last):
            raise DataError(f"{one.folder.full(one.file.path)} does not hold the keys that its name says")
        return block

    def _of_loose(self) -> dict[str, _Block]:
        """Run -> its dead in files of all runs; of many rows those files are organised here first."""
        with self._lock:
            if self._kept is None:
                if sum(file.rows for file in self._loose) > LOOSE_ROWS:
                    self._placed, self._kept = [*self._placed, *self._organised()], {}
                else:
                    self._kept = _by_run(self._rows(self._folder, self._loose))
            return self._kept

    def _organised(self) -> list[_Placed]:
        scratch = tempfile.TemporaryDirectory(prefix="pix2score-")
        weakref.finalize(self, scratch.cleanup)
        place = Folder(scratch.name)
        try:
            batches = dead_batches(self._folder, self._loose, self._id_type)
            files = organise(place, "here", self._id_type, batches)
        except FileNotFoundError as exc:
            raise self._told(exc) from None
        return [_Placed(place, file, name) for file in files if (name := of_run(file))]

    def _rows(self, folder: Folder, files: Sequence[DataFile]) -> pa.Table:
        try:
            batches = list(dead_batches(folder, files, self._id_type))
        except FileNotFoundError as exc:
            raise self._told(exc) from None
        return pa.Table.from_batches(batches, schema=dead_schema(self._id_type)).combine_chunks()


def _by_run(rows: pa.Table) -> dict[str, _Block]:
    if not rows.num_rows:
        return {}
    runs, hashes = rows.column("run").combine_chunks().dictionary_encode(), hashes_of(rows)
    numbers, keys = runs.indices.to_numpy(), rows.select(list(KEY))
    order = np.lexsort((hashes, numbers))
    numbers, hashes, keys = numbers[order], hashes[order], keys.take(pa.array(order))
    starts = np.searchsorted(numbers, np.arange(len(runs.dictionary) + 1))
    return {
        run: _Block(hashes[start:stop], keys.slice(start, stop - start))
        for run, start, stop in zip(runs.dictionary.to_pylist(), starts, starts[1:], strict=False)
    }


_OPEN: weakref.WeakValueDictionary[str, DeadKeys] = weakref.WeakValueDictionary()
"""Lookups that a dataset refers to by name: an expression holds no objects."""
_FUNCTIONS: set[str] = set()


def is_dead(dead: DeadKeys, name: str, id_type: pa.DataType) -> pc.Expression:
    """Whether a row of the embedding files, with column ``run``, is dead; asked as batches are read.

    ``name``: any that no other lookup of the process has; whoever reads with it must hold ``dead``.
    """
    _OPEN[name] = dead
    function = f"pix2score_is_dead_{id_type}"
    if function not in _FUNCTIONS:
        kinds = {"name": pa.string(), "run": pa.string(), "illust_id": id_type, "page": pa.int32()}
        about = {"summary": "whether an embedding is dead", "description": "pix2score.snapshots.lookup"}
        pc.register_scalar_function(_ask, function, about, kinds, pa.bool_())
        _FUNCTIONS.add(function)
    columns = [pc.scalar(name), *(pc.field(column) for column in ("run", *KEY))]
    found: pc.Expression = pc.Expression._call(function, columns)
    return found


def _ask(context: Any, name: Any, run: Any, ids: Any, pages: Any) -> pa.Array:
    """The function behind the expression: each argument is an array, or one value for all rows."""
    length: int = context.batch_length
    columns = [
        pa.repeat(column, length) if isinstance(column, pa.Scalar) else column for column in (ids, pages)
    ]
    dead = _OPEN[str(name.as_py() if isinstance(name, pa.Scalar) else name[0].as_py())]
    if isinstance(run, pa.Scalar):
        return pa.array(dead.are_dead(run.as_py(), *columns))
    found = np.zeros(length, bool)
    for one in pc.unique(run).to_pylist():
        of_one = pc.equal(run, one)
        found[of_one.to_numpy(zero_copy_only=False)] = dead.are_dead(
            one, *(c.filter(of_one) for c in columns)
        )
    return pa.array(found)
