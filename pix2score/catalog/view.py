"""One Parquet file in the columns of its catalog, where these are not simply the file's own.

Of a table with a log the columns are the table's: a file may know one by an earlier name, in a narrower type,
or not at all. Of a catalog that is text every column is text in the file, and something else to its readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from pix2score.errors import DataError

_FIELD_ID = b"PARQUET:field_id"
Positions: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a column of a file's view comes from."""

    name: str
    kind: pa.DataType
    physical: str | None = None
    """The file's own column; None if it has none."""
    constant: pa.Scalar | None = None
    """What all rows have then; None for null."""
    problem: str = ""
    """Why it cannot be read, if it cannot."""


@dataclass(frozen=True, slots=True)
class FileView:
    """As much of a ``ParquetFile`` as a catalog is read by, in other columns."""

    file: pq.ParquetFile
    sources: tuple[Source, ...]
    shown: pa.Schema | None = None
    """Types that readers are told, where they are not those of the values."""

    @property
    def metadata(self) -> pq.FileMetaData:
        """That of the file itself: all rows count, also those that are deleted."""
        return self.file.metadata

    @property
    def schema_arrow(self) -> pa.Schema:
        """The columns of the view."""
        return self.shown or pa.schema([pa.field(source.name, source.kind) for source in self.sources])

    def physical(self, path: str) -> str:
        """The file's own name of a column that it has, or of a struct's field by its dotted path."""
        name, dot, rest = self._split(path)
        return f"{self._source(name).physical}{dot}{rest}"

    def iter_batches(
        self, batch_size: int, row_groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Rows in order, deleted ones too; values in the file's own types, as narrow as they were written.

        Raises ``DataError`` for a column whose fields the table knows by other names.
        """
        paths = list(columns if columns is not None else [source.name for source in self.sources])
        wanted = [self._source(name) for name in dict.fromkeys(self._split(path)[0] for path in paths)]
        for problem in (source.problem for source in wanted if source.problem):
            raise DataError(problem)
        known = {source.name for source in wanted if source.physical is not None}
        read = [self.physical(path) for path in paths if self._split(path)[0] in known]
        read = read or self.file.schema_arrow.names[:1]  # how many rows there are, any column tells
        for batch in self.file.iter_batches(batch_size=batch_size, row_groups=row_groups, columns=read):
            arrays = [_values(source, batch) for source in wanted]
            yield pa.record_batch(arrays, names=[source.name for source in wanted])

    def _split(self, path: str) -> tuple[str, str, str]:
        names = {source.name for source in self.sources}
        return (path, "", "") if path in names else path.partition(".")

    def _source(self, name: str) -> Source:
        return next(source for source in self.sources if source.name == name)


CatalogFile: TypeAlias = pq.ParquetFile | FileView


def _values(source: Source, batch: pa.RecordBatch) -> pa.Array:
    if source.physical is None:
        if source.constant is None:
            return pa.nulls(batch.num_rows, source.kind)
        return pa.repeat(source.constant, batch.num_rows)
    return batch.column(source.physical)


def _is_single(kind: pa.DataType) -> bool:
    """Numbers, times, yes or no: what a table may widen."""
    return bool(pt.is_primitive(kind) or pt.is_decimal(kind))


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table with a log."""

    name: str
    kind: pa.DataType
    field_id: int | None = None
    """By which files know it; None where its name does."""
    default: pa.Scalar | None = None
    """Of rows written before the column was there."""
    physical: str | None = None
    """Its name in files, where that is another."""


@dataclass(frozen=True, slots=True)
class TableVersion:
    """One version of a table with a log: what its files have to be read as. They are ``Catalog.files``."""

    facts: Mapping[str, Any]
    """Format and version, for the manifest."""
    columns: tuple[TableColumn, ...]
    names: Mapping[str, int] = field(default_factory=dict)
    """Of files without field ids: name -> id."""
    constants: Mapping[str, Mapping[str, pa.Scalar]] = field(default_factory=dict)
    """Path -> column -> value: those of its partition."""
    deleted: Mapping[str, Positions] = field(default_factory=dict)
    """Path -> rows that the table does not have any more, ascending."""

    def view(self, path: str, file: pq.ParquetFile) -> FileView:
        """A file of the table in the table's columns. Raises ``DataError`` where its columns cannot be told
        apart."""
        schema = file.schema_arrow
        known = self._by_id(path, schema) if self._has_ids else {name: name for name in schema.names}
        constants = self.constants.get(path, {})
        sources = []
        for column in self.columns:
            found = known.get(column.field_id if self._has_ids else column.physical or column.name)
            constant = constants.get(column.name, column.default)
            if found is None:
                sources.append(Source(column.name, column.kind, None, constant))
            else:
                own = schema.field(found).type
                problem = _problem(path, column, own)
                is_tables = problem or (_is_single(own) and _is_single(column.kind))
                kind = column.kind if is_tables else own
                sources.append(Source(column.name, kind, found, problem=problem))
        return FileView(file, tuple(sources))

    @property
    def _has_ids(self) -> bool:
        return any(column.field_id is not None for column in self.columns)

    def _by_id(self, path: str, schema: pa.Schema) -> dict[Any, str]:
        ids = {f.name: int(f.metadata[_FIELD_ID]) for f in schema if _FIELD_ID in (f.metadata or {})}
        if not ids:
            ids = {name: self.names[name] for name in schema.names if name in self.names}
        if not ids:
            raise DataError(
                f"{path} has no field ids, and its table no mapping of names that knows its columns"
            )
        return {number: name for name, number in ids.items()}

    def without_rows(self) -> TableVersion:
        """The same for readers of known rows: columns alone."""
        return TableVersion(self.facts, self.columns, self.names)

    def is_live(self, path: str, first_row: int, num_rows: int) -> pa.Array | None:
        """Which of some rows of a file the table still has; None for all."""
        deleted = self.deleted.get(path)
        if deleted is None:
            return None
        low, high = np.searchsorted(deleted, (first_row, first_row + num_rows))
        keep = np.ones(num_rows, dtype=bool)
        keep[deleted[low:high] - first_row] = False
        return pa.array(keep)


def _problem(path: str, column: TableColumn, own: pa.DataType) -> str:
    """Why a struct of a file, of type ``own``, is not the table's; empty if it is."""
    if not (pt.is_struct(own) and pt.is_struct(column.kind)):
        return ""
    names = {f.name for f in column.kind}
    others = [f.name for f in own if f.name not in names]
    if not others:
        return ""
    return (
        f"{path}: column {column.name} has a field {others[0]}, which its table knows by another name or not "
        "any more; write the table anew, or name another column"
    )
