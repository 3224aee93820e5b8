"""The live snapshot as datasets: scores and embeddings."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pix2score.errors import DataError
from pix2score.snapshots.dead import dead_batches
from pix2score.snapshots.lookup import DeadKeys, is_dead
from pix2score.snapshots.manifest import live, live_number, read_snapshot
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import DataFile, dead_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import BATCH_ROWS, open_parquet, parquet_batches

if TYPE_CHECKING:
    import pyarrow.dataset as pds


def read_scores(place: str, snapshot: int | None = None) -> pds.Dataset:
    """SCORES of a snapshot (default: the live one) as a ``pyarrow.dataset``.

    Each catalog key once, ``ok``, ``failed`` or ``pending``. Columns: ``tables.scores_schema``, and behind
    them those of the catalog that ``score --carry`` named. Raises ``DataError`` if there is no such snapshot
    at ``place``; so does reading the dataset, once ``vacuum`` has removed the snapshot's files.
    """
    import pyarrow.dataset as pds

    folder, found = _open(place, snapshot)
    paths = [folder.fs._strip_protocol(folder.full(file.path)) for file in found.files_of("scores")]
    return pds.dataset(
        paths,
        schema=schema_of_scores(folder, found),
        format="parquet",
        filesystem=files_of_snapshot(folder, found),
    )


def schema_of_scores(folder: Folder, snapshot: Snapshot) -> pa.Schema:
    """Columns of the scores table, with those that it has from the catalog."""
    schema, files = snapshot.layout.scores, snapshot.files_of("scores")
    carry = snapshot.manifest.get("carry")
    if not carry or not files:
        return schema
    try:
        with open_parquet(folder, files[0].path) as file:
            found = file.schema_arrow
    except FileNotFoundError as exc:
        raise removed_meanwhile(folder, snapshot.number, exc) from None
    return pa.schema([*schema, *(found.field(name) for name in carry["columns"])])


def read_embeddings(place: str, snapshot: int | None = None) -> pds.Dataset:
    """EMBEDDINGS of a snapshot (default: the live one) as a ``pyarrow.dataset``.

    One row per ``ok`` key, none that a later run replaced. Columns: ``illust_id``, ``page``, ``embedding``
    (fixed list of float16 or float32), ``run`` (that made it: ``embedding_run`` in SCORES). Raises
    ``DataError`` as ``read_scores``.
    """
    import pyarrow.dataset as pds

    folder, found = _open(place, snapshot)
    schema = found.layout.embeddings.append(pa.field("run", pa.string()))
    parquet, files = pds.ParquetFileFormat(), files_of_snapshot(folder, found)
    fragments = [
        parquet.make_fragment(
            folder.fs._strip_protocol(folder.full(file.path)),
            filesystem=files,
            partition_expression=pc.field("run") == file.run,
        )
        for file in found.files_of("embeddings")
    ]
    dataset = pds.FileSystemDataset(fragments, schema, parquet, files)
    if not found.files_of("dead"):
        return dataset
    dead = files.handler.dead = dead_keys(folder, found)  # held for as long as anybody reads
    return dataset.filter(~is_dead(dead, uuid.uuid4().hex, found.layout.id_type))


def files_of_snapshot(folder: Folder, snapshot: Snapshot) -> PyFileSystem:
    """The folder's filesystem for pyarrow, on which a missing file is an error of ours."""
    return PyFileSystem(_SnapshotFiles(folder, snapshot))


class _SnapshotFiles(FSSpecHandler):  # type: ignore[misc]
    """Opens files of one snapshot."""

    dead: DeadKeys | None = None

    def __init__(self, folder: Folder, snapshot: Snapshot) -> None:
        super().__init__(folder.fs)
        self._folder, self._number = folder, snapshot.number

    def open_input_file(self, path: str) -> Any:
        return pa.PythonFile(_SnapshotFile(self._folder, self._number, path), mode="r")


class _SnapshotFile:
    """A file of a snapshot, whose absence is told by name: also on S3, where it may go while it is read."""

    def __init__(self, folder: Folder, number: int, path: str) -> None:
        self._folder, self._number = folder, number
        with self._told():
            self._stream = folder.fs.open(path, mode="rb")

    def read(self, size: int = -1) -> bytes:
        with self._told():
            return bytes(self._stream.read(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as exc:
            raise removed_meanwhile(self._folder, self._number, exc) from None


def removed_meanwhile(folder: Folder, number: int, exc: FileNotFoundError) -> DataError:
    """The error of a reader of snapshot ``number`` that finds a file missing."""
    newest = live_number(folder)
    what = (
        "it is the live one: jobs.verify names the damage"
        if newest == number
        else f"live is {newest}: open that, or keep more"
    )
    return DataError(
        f"a file of snapshot {number} of {folder.uri} is missing ({exc}); jobs.vacuum --keep removes old "
        f"ones; {what}"
    )


def _open(place: str, number: int | None) -> tuple[Folder, Snapshot]:
    folder = Folder(place)
    return folder, live(place) if number is None else read_snapshot(folder, number)


def dead_ids(folder: Folder, snapshot: Snapshot, runs: Collection[str] | None = None) -> pa.Table:
    """Keys with the run in whose files their embedding lost its place in SCORES, all in memory.

    As ``tables.dead_schema``; of ``runs`` only, if given.
    """
    return pa.Table.from_batches(
        read_dead(folder, snapshot, runs), schema=dead_schema(snapshot.layout.id_type)
    )


def read_dead(
    folder: Folder, snapshot: Snapshot, runs: Collection[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """``dead_ids`` streamed; files of other runs than the given ones are not opened where that is known."""
    try:
        yield from dead_batches(folder, snapshot.files_of("dead"), snapshot.layout.id_type, runs)
    except FileNotFoundError as exc:
        raise removed_meanwhile(folder, snapshot.number, exc) from None


def dead_keys(folder: Folder, snapshot: Snapshot) -> DeadKeys:
    """The same to be asked key by key, a part of them in memory."""

    def told(exc: FileNotFoundError) -> DataError:
        return removed_meanwhile(folder, snapshot.number, exc)

    return DeadKeys(folder, snapshot.files_of("dead"), snapshot.layout.id_type, told)


def batches_of(
    folder: Folder,
    snapshot: Snapshot,
    files: Sequence[DataFile],
    columns: Sequence[str],
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Some columns of files of a snapshot, streamed.

    Raises ``DataError`` if one is missing, as ``vacuum`` removed the snapshot meanwhile.
    """
    try:
        yield from parquet_batches(folder, [file.path for file in files], columns, batch_rows)
    except FileNotFoundError as exc:
        raise removed_meanwhile(folder, snapshot.number, exc) from None
