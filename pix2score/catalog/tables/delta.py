"""Delta Lake tables as catalogs: the live files of the newest version, by the library ``deltalake``.

Partition values and deletion vectors are taken from the log; a table whose files name their columns otherwise
than the table does (column mapping) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from pix2score.catalog.tables.pinned import below, library, pinned
from pix2score.catalog.view import Positions, TableColumn, TableVersion
from pix2score.errors import AccessError, DataError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.places import named_errors
from pix2score.storage.rust_options import storage_options

_LOG = "_delta_log"
_READ = {
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "variantType",
}
"""Reader features that are read right; another one could mean rows that are not."""
_PHYSICAL = b"delta.columnMapping.physicalName"
_REFUSED = ("PermissionDenied", "AccessDenied", "403", "401", "necessary privileges")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_EXPORT = (
    'export it as plain Parquet and give that: python -c "import deltalake, pyarrow.parquet as pq, pyarrow '
    "as pa; r = pa.RecordBatchReader.from_stream(deltalake.DeltaTable('{}').scan()); w = "
    "pq.ParquetWriter('catalog.parquet', r.schema); [w.write_batch(b) for b in r]; w.close()\""
)


def is_delta(place: str) -> bool:
    """Whether a table's log is in the folder at ``place``."""
    folder = Folder(place)
    with named_errors(folder.uri):
        return bool(folder.fs.isdir(folder.full(_LOG)))


def delta_table(place: str) -> tuple[Folder, list[Entry], TableVersion]:
    """Folder, live files and version of the table at ``place``, as its log has it now.

    Raises ``DataError`` for a log that cannot be read, a feature that is not read, and files that are gone.
    """
    deltalake = library("deltalake", f"{place}, a Delta Lake table,", "delta")
    folder = Folder(place)
    try:
        table = deltalake.DeltaTable(folder.uri, storage_options=storage_options(folder.uri))
        _check_features(folder, table)
        actions = pa.table(table.get_add_actions())
        vectors = _vectors(table)
    except (deltalake.exceptions.DeltaError, OSError, ValueError) as exc:
        raise _error(folder, exc) from exc
    if not actions.num_rows:
        raise DataError(f"{folder.uri}: this Delta Lake table has no rows")
    paths = [_relative(folder, path) for path in actions.column("path").to_pylist()]
    sizes = dict(zip(paths, actions.column("size_bytes").to_pylist(), strict=True))
    columns = tuple(map(_column, pa.schema(table.schema().to_arrow())))
    version = TableVersion(
        facts={"format": "delta", "version": table.version(), "id": str(table.metadata().id)},
        columns=columns,
        constants=_constants(columns, paths, actions),
        deleted={_listed(folder, place, sizes): positions for place, positions in vectors},
    )
    return folder, pinned(folder, sizes, f"version {table.version()} of the table"), version


def _check_features(folder: Folder, table: Any) -> None:
    features = {str(name) for name in table.protocol().reader_features or ()}
    if unread := sorted(features - _READ):
        raise DataError(
            f"{folder.uri}: this Delta Lake table uses {', '.join(unread)}, which is not read here; "
            f"{_EXPORT.replace('{}', folder.uri)}"
        )


def _column(field: pa.Field) -> TableColumn:
    physical = (field.metadata or {}).get(_PHYSICAL)
    return TableColumn(field.name, field.type, physical=physical.decode() if physical else None)


def _relative(folder: Folder, path: str) -> str:
    """The path of a file as storage has it; the log has it escaped."""
    plain = unquote(path)
    return below(folder, plain) if "://" in path or path.startswith(("/", "file:")) else plain


def _listed(folder: Folder, place: str, sizes: Mapping[str, int]) -> str:
    """The path among ``sizes`` of a file that the library names by its url, perhaps escaped."""
    found = next(
        (path for path in (below(folder, place), below(folder, unquote(place))) if path in sizes), None
    )
    if found is None:
        raise DataError(f"{folder.uri}: its log deletes rows of {place}, which it does not list")
    return found


def _constants(
    columns: Sequence[TableColumn], paths: Sequence[str], actions: pa.Table
) -> dict[str, Mapping[str, pa.Scalar]]:
    if "partition" not in actions.column_names:
        return {}
    values, parts = actions.column("partition").combine_chunks(), {}
    for field in values.type:
        column = next(column for column in columns if field.name in (column.name, column.physical))
        parts[column.name] = values.field(field.name).cast(column.kind)
    return {path: {name: part[i] for name, part in parts.items()} for i, path in enumerate(paths)}


def _vectors(table: Any) -> list[tuple[str, Positions]]:
    """Of each file with deleted rows: its full place, and which they are."""
    if "deletionVectors" not in {str(name) for name in table.protocol().reader_features or ()}:
        return []
    return [*_positions(pa.RecordBatchReader.from_stream(table.deletion_vectors()))]


def _positions(vectors: pa.RecordBatchReader) -> Iterator[tuple[str, Positions]]:
    for batch in vectors:
        for place, kept in zip(batch.column("filepath"), batch.column("selection_vector"), strict=True):
            is_kept = kept.values.to_numpy(zero_copy_only=False).astype(bool)
            yield place.as_py(), np.flatnonzero(~is_kept).astype(np.int64)


def _error(folder: Folder, exc: Exception) -> DataError:
    if isinstance(exc, DataError):
        return exc
    text = " ".join(_COLOUR.sub("", str(exc)).split())
    if any(sign in text for sign in _REFUSED):
        return AccessError(f"{folder.uri}: access to this Delta Lake table was refused: {text[:300]}")
    return DataError(f"{folder.uri}: this Delta Lake table cannot be read: {text[:300]}")
