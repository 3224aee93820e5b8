"""Numbered snapshots: the manifests that say which files are live, how one becomes live, and how readers see it.

A manifest created if absent is the whole commit. What the files hold is ``layout``.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
    names = [entry.path.removesuffix(".json") for entry in (folder / SNAPSHOTS).top_entries(suffix=".json")]
    return sorted(int(name) for name in names if name.isdigit())


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
        manifest = json.loads(folder.read(path_of(number)))
        version = manifest["schema_version"]
    except FileNotFoundError:
        standing = ", ".join(map(str, numbers(folder))) or "none"
        raise DataError(f"there is no snapshot {number} in {folder.uri}; those that stand: {standing}") from None
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{where} is not a snapshot manifest: {exc!r}") from None
    if version != SCHEMA_VERSION:
        raise DataError(f"{where} has schema version {version}; this version of pix2score reads {SCHEMA_VERSION}")
    return Snapshot(number, manifest)


def read_scores(place: str) -> pds.Dataset:
    """SCORES of the live snapshot as a ``pyarrow.dataset``: each catalog key once, ``ok`` or ``failed``.

    Columns: ``schema.scores_schema``. Raises ``DataError`` if there is no snapshot at ``place``.
    """
    import pyarrow.dataset as pds

    folder, snapshot = Folder(place), live(place)
    paths = [folder.fs._strip_protocol(folder.full(file.path)) for file in snapshot.files_of("scores")]
    return pds.dataset(paths, schema=snapshot.layout.scores, format="parquet", filesystem=folder.fs)


def read_embeddings(place: str) -> pds.Dataset:
    """EMBEDDINGS of the live snapshot as a ``pyarrow.dataset``: one row per ``ok`` key, none that a later run replaced.

    Columns: ``illust_id``, ``page``, ``embedding`` (fixed list of float16 or float32), ``run`` (that scored the key). Raises ``DataError``
    as ``read_scores``.
    """
    import pyarrow.dataset as pds

    folder, snapshot = Folder(place), live(place)
    schema = snapshot.layout.embeddings.append(pa.field("run", pa.string()))
    parquet, files = pds.ParquetFileFormat(), PyFileSystem(FSSpecHandler(folder.fs))
    fragments = [
        parquet.make_fragment(
            folder.fs._strip_protocol(folder.full(file.path)), filesystem=files, partition_expression=pc.field("run") == file.run
        )
        for file in snapshot.files_of("embeddings")
    ]
    dataset = pds.FileSystemDataset(fragments, schema, parquet, files)
    dead = _is_dead(folder, snapshot)
    return dataset if dead is None else dataset.filter(~dead)


def dead_ids(folder: Folder, snapshot: Snapshot) -> dict[tuple[str, int], pa.Array]:
    """(run, page) -> ids whose embedding in the files of that run lost its place in SCORES."""
    ids: dict[tuple[str, int], list[pa.Array]] = defaultdict(list)
    for batch in parquet_batches(
        folder, [file.path for file in snapshot.files_of("dead")], dead_schema(snapshot.layout.id_type).names
    ):
        groups = pa.Table.from_batches([batch]).group_by(["run", "page"]).aggregate([("illust_id", "list")])
        for row in range(groups.num_rows):
            ids[groups["run"][row].as_py(), groups["page"][row].as_py()].append(groups["illust_id_list"][row].values)
    return {key: pa.concat_arrays(arrays) for key, arrays in ids.items()}


def _is_dead(folder: Folder, snapshot: Snapshot) -> pc.Expression | None:
    """Whether a row of the embedding files is dead; None if none is."""
    expression = None
    for (run, page), ids in dead_ids(folder, snapshot).items():
        test = (pc.field("run") == run) & (pc.field("page") == pa.scalar(page, pa.int32())) & pc.field("illust_id").isin(ids)
        expression = test if expression is None else expression | test
    return expression


def batches_of(folder: Folder, files: Sequence[DataFile], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of snapshot files, streamed."""
    return parquet_batches(folder, [file.path for file in files], columns)
