"""Lists: the files of a snapshot that has too many for its manifest, as Parquet files that it names.

    lists/<run>/<16 hex digits>.parquet     path, rows, bytes, sha256, facts (JSON: the rest of ``DataFile``)

Each holds some thousand files of one table, in their order, or receipts (table ``consumed``, column path
alone). Where one ends depends on the file at its end and on nothing before, as in a store that deduplicates:
what stays the same from night to night gives the same lists, which are named again and not written.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.snapshots.damage import checked_content
from pix2score.snapshots.tables import DataFile, data_file
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.sql import side_by_side

LISTS = "lists"
CONSUMED = "consumed"
LISTED_FROM = 4_096
"""Files that a manifest names itself, about 1 MB; of more it names lists."""
MEAN_FILES = 4_096
"""Of a list, some 300 kB; four times as many at most."""
_NUM_READERS = 8
_OWN = ("path", "rows", "bytes", "sha256")
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("facts", pa.string(), nullable=False),
    ]
)
_DEFAULTS = {f.name: f.default for f in fields(DataFile)}


@dataclass(frozen=True, slots=True)
class FileList:
    """A list as a manifest names it."""

    table: str
    """Of its files, or ``CONSUMED``."""
    path: str
    files: int
    """How many it names."""
    rows: int
    """Of all of them."""
    file_bytes: int
    """Of all of them."""
    bytes: int
    sha256: str


def are_many(files: Sequence[Any], consumed: Sequence[str]) -> bool:
    """Whether a manifest with these files and receipts names lists."""
    return len(files) > LISTED_FROM or len(consumed) > LISTED_FROM


def write_lists(
    folder: Folder,
    run: str,
    files: Sequence[Mapping[str, Any]],
    consumed: Sequence[str],
    known: Sequence[FileList],
) -> list[FileList]:
    """Lists of plain ``files`` and of receipts, those of ``known`` that hold the same as they are.

    Of each table in the order given. ``known``: lists of a snapshot that stays live meanwhile.
    """
    named = {(one.table, one.sha256): one for one in known}
    tables = dict.fromkeys(str(file["table"]) for file in files)
    made = [
        _written(folder, run, table, _file_rows(some), named)
        for table in tables
        for some in _cut([file for file in files if file["table"] == table])
    ]
    chunks = (consumed[i : i + 4 * MEAN_FILES] for i in range(0, len(consumed), 4 * MEAN_FILES))
    return [*made, *(_written(folder, run, CONSUMED, pa.table({"path": some}), named) for some in chunks)]


def _cut(files: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    some: list[Mapping[str, Any]] = []
    for file in files:
        some.append(file)
        if int(str(file["sha256"])[:8], 16) % MEAN_FILES == 0 or len(some) >= 4 * MEAN_FILES:
            yield some
            some = []
    if some:
        yield some


def _file_rows(files: Sequence[Mapping[str, Any]]) -> pa.Table:
    facts = [
        {
            name: value
            for name, value in file.items()
            if name not in (*_OWN, "table") and value != _DEFAULTS[name]
        }
        for file in files
    ]
    columns: dict[str, list[Any]] = {name: [file[name] for file in files] for name in _OWN}
    columns["facts"] = [json.dumps(one, ensure_ascii=False) for one in facts]
    return pa.table(columns, schema=_SCHEMA)


def _written(
    folder: Folder, run: str, table: str, rows: pa.Table, named: Mapping[tuple[str, str], FileList]
) -> FileList:
    data = parquet_bytes(rows)
    digest = hashlib.sha256(data).hexdigest()
    if (table, digest) in named:
        return named[table, digest]
    path = f"{LISTS}/{run}/{uuid.uuid4().hex[:16]}.parquet"
    size = folder.publish(path, data)
    num_rows, num_bytes = (
        (pc.sum(rows.column(name)).as_py() or 0 if name in rows.column_names else 0)
        for name in ("rows", "bytes")
    )
    return FileList(table, path, rows.num_rows, num_rows, num_bytes, size, digest)


def list_from_dict(plain: Mapping[str, Any]) -> FileList:
    """The ``FileList`` that ``dataclasses.asdict`` and JSON made plain."""
    return FileList(**plain)


def read_lists(folder: Folder, lists: Sequence[FileList]) -> Iterator[list[DataFile]]:
    """Files that each of ``lists`` names, in order; a few are fetched ahead.

    Raises ``DataError`` naming a list that is missing or was altered.
    """
    for one, rows in zip(lists, _tables(folder, lists), strict=True):
        yield [
            data_file({"table": one.table, **{name: row[name] for name in _OWN}, **json.loads(row["facts"])})
            for row in rows.to_pylist()
        ]


def read_consumed(folder: Folder, lists: Sequence[FileList]) -> list[str]:
    """Receipts that the lists of table ``CONSUMED`` name. Raises as ``read_lists``."""
    tables = _tables(folder, [one for one in lists if one.table == CONSUMED])
    return [path for rows in tables for path in rows.column("path").to_pylist()]


def _tables(folder: Folder, lists: Sequence[FileList]) -> Iterator[pa.Table]:
    return side_by_side(lambda one: _table(folder, one), lists, _NUM_READERS)


def _table(folder: Folder, one: FileList) -> pa.Table:
    why = "files of a snapshot are named in it"
    data = checked_content(folder, one, missing=why, altered=why)
    return pq.read_table(pa.BufferReader(data), use_threads=False)


def as_files(lists: Sequence[FileList]) -> list[DataFile]:
    """The lists themselves as files, for checks of size and content."""
    return [DataFile("scores", one.path, one.files, one.bytes, one.sha256) for one in lists]


def plain_lists(lists: Sequence[FileList]) -> list[dict[str, Any]]:
    """For a manifest."""
    return [asdict(one) for one in lists]
