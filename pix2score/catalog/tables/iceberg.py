"""Iceberg tables as catalogs: the live files of the current snapshot, by the library ``pyiceberg``.

A place is the table's folder, if it says which metadata are current (``version-hint.text``), a metadata file,
or ``iceberg:CATALOG/namespace.table`` with a catalog of ``~/.pyiceberg.yaml`` or the environment, which alone
knows the current snapshot of most tables. Columns are told apart by field id, deleted rows taken out by
position; equality deletes and deletion vectors are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pix2score.catalog.tables.pinned import below, library, pinned, plain_location
from pix2score.catalog.view import Positions, TableColumn, TableVersion
from pix2score.errors import ConfigError, DataError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.parquet import open_parquet
from pix2score.storage.places import named_errors

_BY_CATALOG = "iceberg:"
_METADATA = re.compile(r"\.metadata\.json$|\.metadata\.json\.gz$|\.gz\.metadata\.json$")
_HINT = "version-hint.text"
_FILE_IO = {"py-io-impl": "pix2score.catalog.tables.iceberg_files.PlaceFiles"}
"""Reads every store with the standard chain's credentials and endpoint."""
_COMPACT = "let its engine write the deletes into the data files (rewrite_data_files), then run again"


def is_iceberg(place: str) -> bool:
    """Whether ``place`` names an Iceberg table in one of the three ways."""
    if place.startswith(_BY_CATALOG) or _METADATA.search(place):
        return True
    return bool(_metadata_files(Folder(place)))


def iceberg_table(place: str) -> tuple[Folder, list[Entry], TableVersion]:
    """Folder, live files and version of the table at ``place``.

    Raises ``DataError`` for metadata that cannot be read, a feature that is not read, and files that are
    gone; ``ConfigError`` for a catalog that there is not.
    """
    library("pyiceberg", f"{place}, an Iceberg table,", "iceberg")
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    try:
        table = _loaded(place)
        tasks = list(table.scan().plan_files())
    except (NoSuchTableError, NoSuchNamespaceError) as exc:
        raise DataError(f"{place}: {exc}") from None
    except (ValueError, NotImplementedError, OSError) as exc:
        if isinstance(exc, DataError):
            raise
        raise DataError(_reason(place, exc)) from exc
    folder = Folder(plain_location(table.metadata.location))
    snapshot = table.current_snapshot()
    if not tasks or snapshot is None:
        raise DataError(f"{place}: this Iceberg table has no rows")
    _check_formats(place, tasks)
    paths = [below(folder, task.file.file_path) for task in tasks]
    columns = _columns(table)
    version = TableVersion(
        facts={
            "format": "iceberg",
            "snapshot_id": snapshot.snapshot_id,
            "metadata": table.metadata_location,
            "id": str(table.metadata.table_uuid),
        },
        columns=columns,
        names=_names(table),
        constants=dict(zip(paths, _partitions(table, columns, tasks), strict=True)),
        deleted=_deleted(folder, paths, tasks),
    )
    sizes = {path: task.file.file_size_in_bytes for path, task in zip(paths, tasks, strict=True)}
    return folder, pinned(folder, sizes, f"snapshot {snapshot.snapshot_id} of the table"), version


def _loaded(place: str) -> Any:
    from pyiceberg.table import StaticTable

    if place.startswith(_BY_CATALOG):
        return _of_catalog(place)
    metadata = place if _METADATA.search(place) else _current(Folder(place))
    whole = Folder(metadata)
    table = StaticTable.from_metadata(whole.uri, _FILE_IO)
    location = Folder(plain_location(table.metadata.location)).uri
    if location != whole.parent.parent.uri:
        raise DataError(
            f"{whole.uri}: its table is at {location}, by what it says: an Iceberg table that was moved or "
            "copied names the files of the first place; give that, or write the table anew"
        )
    return table


def _of_catalog(place: str) -> Any:
    from pyiceberg.catalog import load_catalog

    name, _, identifier = place.removeprefix(_BY_CATALOG).partition("/")
    if not name or "." not in identifier:
        raise ConfigError(f"catalog {place}: expected iceberg:CATALOG/namespace.table")
    try:
        catalog = load_catalog(name)
    except ValueError as exc:
        raise ConfigError(
            f"catalog {place}: {name} is no catalog of ~/.pyiceberg.yaml or the environment: {exc}"
        ) from None
    return catalog.load_table(identifier)


def _metadata_files(folder: Folder) -> list[str]:
    with named_errors(folder.uri):
        if not folder.fs.isdir(folder.full("metadata")):
            return []
        found = folder.fs.ls(folder.full("metadata"), detail=False)
    names = [str(path).rstrip("/").rpartition("/")[2] for path in found]
    return sorted(name for name in names if _METADATA.search(name) or name == _HINT)


def _current(folder: Folder) -> str:
    """The metadata file that the folder itself says is current. Raises ``DataError`` where it says nothing:
    the last one could be of a commit that failed."""
    names = _metadata_files(folder)
    if _HINT not in names:
        raise DataError(
            f"{folder.uri}: only its catalog knows which metadata of this Iceberg table are current; give "
            f"iceberg:CATALOG/namespace.table, or the file, such as {folder.full(f'metadata/{names[-1]}')}"
        )
    hint = folder.read(f"metadata/{_HINT}").decode("utf-8", "replace").strip()
    candidates = (hint, f"v{hint}.metadata.json", f"{hint}.metadata.json", f"v{hint}.gz.metadata.json")
    found = next((name for name in candidates if name in names and name != _HINT), None)
    if found is None:
        raise DataError(f"{folder.uri}: {_HINT} says {hint!r}, and there are no such metadata")
    return folder.full(f"metadata/{found}")


def _reason(place: str, exc: Exception) -> str:
    text = " ".join(str(exc).split())[:300]
    if "equality delete" in text:
        return f"{place}: this Iceberg table has equality deletes, which are not read here; {_COMPACT}"
    return f"{place}: this Iceberg table cannot be read: {text}"


def _check_formats(place: str, tasks: Sequence[Any]) -> None:
    for task in tasks:
        if str(task.file.file_format.value).upper() != "PARQUET":
            raise DataError(
                f"{place}: {task.file.file_path} is {task.file.file_format.value}; only Parquet is read here"
            )
        for deletes in task.delete_files:
            if str(deletes.file_format.value).upper() != "PARQUET":
                raise DataError(
                    f"{place}: this Iceberg table has deletion vectors ({deletes.file_format.value}), which "
                    f"are not read here; {_COMPACT}"
                )


def _columns(table: Any) -> tuple[TableColumn, ...]:
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    schema = table.schema()
    kinds = schema_to_pyarrow(schema, include_field_ids=False)
    return tuple(
        TableColumn(
            field.name,
            kinds.field(field.name).type,
            field.field_id,
            None
            if field.initial_default is None
            else _scalar(field.initial_default, kinds.field(field.name).type),
        )
        for field in schema.fields
    )


def _names(table: Any) -> dict[str, int]:
    mapping = table.name_mapping()
    found = {} if mapping is None else {name: f.field_id for f in mapping.root for name in f.names}
    return {name: number for name, number in found.items() if number is not None}


def _partitions(
    table: Any, columns: Sequence[TableColumn], tasks: Sequence[Any]
) -> Iterator[Mapping[str, pa.Scalar]]:
    """Of each file the columns that its partition gives whole."""
    by_id = {column.field_id: column for column in columns}
    specs = table.specs()
    for task in tasks:
        fields = specs[task.file.spec_id].fields
        yield {
            by_id[field.source_id].name: _scalar(task.file.partition[i], by_id[field.source_id].kind)
            for i, field in enumerate(fields)
            if str(field.transform) == "identity" and field.source_id in by_id
        }


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    if isinstance(value, int) and pt.is_date32(kind):
        return pa.scalar(value, pa.int32()).cast(kind)
    if isinstance(value, int) and (pt.is_timestamp(kind) or pt.is_time(kind)):
        return pa.scalar(value, pa.int64()).cast(kind)
    return pa.scalar(value, kind)


def _deleted(folder: Folder, paths: Sequence[str], tasks: Sequence[Any]) -> dict[str, Positions]:
    """Of each file with deletes, the rows that they take out."""
    tables: dict[str, pa.Table] = {}
    found = {}
    for path, task in zip(paths, tasks, strict=True):
        positions = []
        for deletes in sorted(deletes.file_path for deletes in task.delete_files):
            if deletes not in tables:
                with open_parquet(folder, below(folder, deletes)) as file:
                    tables[deletes] = file.read(columns=["file_path", "pos"])
            rows = tables[deletes]
            positions.append(
                rows.filter(pc.equal(rows.column("file_path"), task.file.file_path)).column("pos")
            )
        if positions:
            found[path] = np.unique(np.concatenate([column.to_numpy() for column in positions])).astype(
                np.int64
            )
    return found
