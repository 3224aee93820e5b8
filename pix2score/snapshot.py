"""Numbered snapshots: the manifests that say which files are live, how one becomes live, and how readers see it.

A manifest created if absent is the whole commit. What the files hold is ``layout``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pix2score.engine import parquet_batches
from pix2score.errors import ConflictError, DataError
from pix2score.layout import DataFile, Layout, Table, data_file, layout_from_dict
from pix2score.schema import SCHEMA_VERSION, dead_schema
from pix2score.storage import Folder

if TYPE_CHECKING:  # imports pandas, which takes longer than all else here: only where it is used
    import pyarrow.dataset as pds

SNAPSHOTS = "snapshots"
REMOVED = b'{"removed": "by jobs.vacuum"}'
"""In place of the manifest of a removed snapshot, and known by its size: a manifest is never so short."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A published snapshot: its number and its manifest."""

    number: int
    manifest: dict[str, Any]

    @property
    def files(self) -> list[DataFile]:
        """Every live file."""
        return [data_file(file) for file in self.manifest["files"]]

    def files_of(self, table: Table) -> list[DataFile]:
        """Live files of one table; those of SCORES in key order."""
        return [file for file in self.files if file.table == table]

    @property
    def same_scores(self) -> tuple[int, ...]:
        """Numbers of the snapshots before that hold the same scores: those whose embeddings ``vacuum`` compacted into this one's."""
        return tuple(self.manifest.get("compaction_of", ()))

    @property
    def layout(self) -> Layout:
        """Columns of its tables."""
        return layout_from_dict(self.manifest["layout"])


def new_run_id(now: str) -> str:
    """A name never used before that sorts by time; ``now`` as 20261121T080000."""
    return f"{now}-{uuid.uuid4().hex[:8]}"


def publish(folder: Folder, parent: int, manifest: dict[str, Any]) -> Snapshot:
    """The snapshot after ``parent`` is live. Raises ``ConflictError`` if another run made that number first."""
    number = parent + 1
    content = {"snapshot": number, "parent": parent or None, "schema_version": SCHEMA_VERSION, **manifest}
    data = json.dumps(content, indent=1, ensure_ascii=False).encode()
    try:
        folder.publish(path_of(number), data)
    except FileExistsError:
        raise conflict(folder, number) from None
    return Snapshot(number, json.loads(data))


def conflict(folder: Folder, number: int) -> ConflictError:
    """The error of a run that another one overtook."""
    return ConflictError(f"another run published snapshot {number} of {folder.uri} first: run again")


def path_of(number: int) -> str:
    """Where the manifest of a snapshot stands."""
    return f"{SNAPSHOTS}/{number:08}.json"


def numbers(folder: Folder) -> list[int]:
    """Numbers of all snapshots that still stand, ascending."""
    names = [
        entry.path.removesuffix(".json") for entry in (folder / SNAPSHOTS).top_entries(suffix=".json") if entry.size != len(REMOVED)
    ]
    return sorted(int(name) for name in names if name.isdigit())


def remove_manifests(folder: Folder, old: Sequence[int]) -> None:
    """Snapshots ``old`` are no more. ``REMOVED`` stays at each number, so that no run that was overtaken long ago can create it anew and
    believe that it published."""
    for number in old:
        folder.publish(path_of(number), REMOVED, replace=True)


def live_number(folder: Folder) -> int:
    """Number of the live snapshot, 0 if there is none."""
    return max(numbers(folder), default=0)


def live(place: str) -> Snapshot:
    """The live snapshot of a scores folder.

    Raises:
        DataError: no snapshot there, or its manifest is not one of a known version.
    """
    folder = Folder(place)
    number = live_number(folder)
    if not number:
        raise DataError(f"no scores at {place}: expected snapshots/00000001.json there")
    return read_snapshot(folder, number)


def read_snapshot(folder: Folder, number: int) -> Snapshot:
    """Snapshot ``number``. Raises ``DataError`` if it is gone, or not a manifest of a known version."""
    where = folder.full(path_of(number))
    try:
        data = folder.read(path_of(number))
        if data == REMOVED:
            raise FileNotFoundError(where)
        manifest = json.loads(data)
        version = manifest["schema_version"]
    except FileNotFoundError:
        standing = ", ".join(map(str, numbers(folder))) or "none"
        raise DataError(f"there is no snapshot {number} in {folder.uri}; those that stand: {standing}") from None
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{where} is not a snapshot manifest: {exc!r}") from None
    if version != SCHEMA_VERSION:
        raise DataError(f"{where} has schema version {version}; this version of pix2score reads {SCHEMA_VERSION}")
    return Snapshot(number, manifest)


def read_scores(place: str, snapshot: int | None = None) -> pds.Dataset:
    """SCORES of a snapshot (default: the live one) as a ``pyarrow.dataset``: each catalog key once, ``ok`` or ``failed``.

    Columns: ``schema.scores_schema``. Raises ``DataError`` if there is no such snapshot at ``place``; so does reading the dataset, once
    ``vacuum`` has removed the snapshot's files.
    """
    import pyarrow.dataset as pds

    folder, found = _open(place, snapshot)
    paths = [folder.fs._strip_protocol(folder.full(file.path)) for file in found.files_of("scores")]
    return pds.dataset(paths, schema=found.layout.scores, format="parquet", filesystem=files_of_snapshot(folder, found))


def read_embeddings(place: str, snapshot: int | None = None) -> pds.Dataset:
    """EMBEDDINGS of a snapshot (default: the live one) as a ``pyarrow.dataset``: one row per ``ok`` key, none that a later run replaced.

    Columns: ``illust_id``, ``page``, ``embedding`` (fixed list of float16 or float32), ``run`` (that scored the key). Raises ``DataError``
    as ``read_scores``.
    """
    import pyarrow.dataset as pds

    folder, found = _open(place, snapshot)
    schema = found.layout.embeddings.append(pa.field("run", pa.string()))
    parquet, files = pds.ParquetFileFormat(), files_of_snapshot(folder, found)
    fragments = [
        parquet.make_fragment(
            folder.fs._strip_protocol(folder.full(file.path)), filesystem=files, partition_expression=pc.field("run") == file.run
        )
        for file in found.files_of("embeddings")
    ]
    dataset = pds.FileSystemDataset(fragments, schema, parquet, files)
    dead = _is_dead(folder, found)
    return dataset if dead is None else dataset.filter(~dead)


def files_of_snapshot(folder: Folder, snapshot: Snapshot) -> PyFileSystem:
    """The folder's filesystem for pyarrow, on which a file that is gone is an error of ours."""
    return PyFileSystem(_SnapshotFiles(folder, snapshot))


class _SnapshotFiles(FSSpecHandler):  # type: ignore[misc]
    """Opens files of one snapshot."""

    def __init__(self, folder: Folder, snapshot: Snapshot) -> None:
        super().__init__(folder.fs)
        self._folder, self._number = folder, snapshot.number

    def open_input_file(self, path: str) -> Any:
        try:
            return super().open_input_file(path)
        except FileNotFoundError as exc:
            raise removed_meanwhile(self._folder, self._number, exc) from None


def removed_meanwhile(folder: Folder, number: int, exc: FileNotFoundError) -> DataError:
    """The error of a reader of snapshot ``number`` that finds a file gone."""
    newest = live_number(folder)
    what = "it is the live one: jobs.verify names the damage" if newest == number else f"live is {newest}: open that, or keep more"
    return DataError(f"a file of snapshot {number} of {folder.uri} is gone ({exc}); jobs.vacuum --keep removes old ones; {what}")


def _open(place: str, number: int | None) -> tuple[Folder, Snapshot]:
    folder = Folder(place)
    return folder, live(place) if number is None else read_snapshot(folder, number)


def dead_ids(folder: Folder, snapshot: Snapshot, runs: Collection[str] | None = None) -> pa.Table:
    """Keys with the run in whose files their embedding lost its place in SCORES, as ``schema.dead_schema``; of ``runs`` only, if given."""
    schema = dead_schema(snapshot.layout.id_type)
    batches = batches_of(folder, snapshot, snapshot.files_of("dead"), schema.names)
    tables = (pa.Table.from_batches([batch]) for batch in batches)
    if runs is not None:
        tables = (table.filter(pc.is_in(table.column("run"), pa.array(sorted(runs), pa.string()))) for table in tables)
    found = list(tables)
    return pa.concat_tables(found).cast(schema) if found else schema.empty_table()


def _is_dead(folder: Folder, snapshot: Snapshot) -> pc.Expression | None:
    """Whether a row of the embedding files is dead; None if none is.

    One test, however many runs and pages there are: with a term for each of them the time grew with their product (60 runs of 30 pages,
    3,600 rows: 17.7 s of CPU; this one 0.05 s, and 1.3 s for 1.2 million rows of 300 runs half of which are dead).
    """
    dead = dead_ids(folder, snapshot)
    if not dead.num_rows:
        return None
    named = pc.binary_join_element_wise(*(pc.cast(dead.column(name), pa.string()) for name in _PLACE), "/")
    expression: pc.Expression = pc.binary_join_element_wise(*(pc.field(name).cast(pa.string()) for name in _PLACE), "/")
    return expression.isin(named.combine_chunks())


_PLACE = ("run", "illust_id", "page")
"""What names an embedding; as one text ``run/id/page`` no two are equal, as a run holds no ``/`` and a page is a number."""


def batches_of(folder: Folder, snapshot: Snapshot, files: Sequence[DataFile], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of files of a snapshot, streamed. Raises ``DataError`` if one is gone, as ``vacuum`` removed the snapshot meanwhile."""
    try:
        yield from parquet_batches(folder, [file.path for file in files], columns)
    except FileNotFoundError as exc:
        raise removed_meanwhile(folder, snapshot.number, exc) from None
