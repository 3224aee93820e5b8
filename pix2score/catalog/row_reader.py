"""Reads rows of a catalog's files in our names and types, with hashes of embedded images where needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pix2score.catalog.files import hive_values
from pix2score.catalog.hashes import KeptHashes, as_text, digests
from pix2score.catalog.read import BATCH_ROWS, FileRows, image_batches, image_values, leaf, opened
from pix2score.catalog.shape import field_type, hive_value
from pix2score.catalog.types import read_as
from pix2score.catalog.view import CatalogFile, TableVersion
from pix2score.errors import DataError
from pix2score.host.cores import num_cores
from pix2score.storage.folder import Folder


@dataclass(frozen=True, kw_only=True, slots=True)
class RowReader:
    """How rows of a catalog's files are read; ``Catalog.batches`` makes one."""

    folder: Folder
    table: TableVersion | None
    """The version of the table with a log that the files are of, if they are of one."""
    schema: pa.Schema
    """Of the batches: ``Catalog.rows_schema``."""
    mapping: Mapping[str, str]
    """Our name -> the catalog's column, of everything but the image bytes."""
    hive_kinds: Mapping[str, pa.DataType]
    """Types of the columns that the files' paths give."""
    embedded: bool
    """Whether image bytes are in the catalog itself: then ``file``, ``row`` and ``sha256`` are columns."""
    hashed: str | None
    """The Parquet column of image bytes to be hashed; None: ``sha256`` is null."""
    kept: KeptHashes | None
    """Where hashes are kept from night to night."""

    def batches(self, parts: Sequence[FileRows]) -> Iterator[pa.RecordBatch]:
        """The rows of ``parts`` in their order, but for those that the table's log says are deleted.

        Raises ``DataError`` naming the file that lacks a column or holds a value that is not of the column's
        type.
        """
        files = opened(self.folder, [part.entry for part in parts], self.table)
        for part, (entry, opening) in zip(parts, files, strict=True):
            with opening as file:
                row = part.first_row
                hive = {
                    name: (value, self.hive_kinds[name]) for name, value in hive_values(entry.path).items()
                }
                for batch, hashes in self._hashed_batches(part, file):
                    found = self._renamed(batch, hive, entry.path, row, hashes)
                    live = self.table and self.table.is_live(entry.path, row, batch.num_rows)
                    yield found if live is None else found.filter(live)
                    row += batch.num_rows

    def _hashed_batches(
        self, part: FileRows, file: CatalogFile
    ) -> Iterator[tuple[pa.RecordBatch, pa.Array | None]]:
        """The mapped columns that are in the file itself, and the hashes of its images if they are needed."""
        names = dict.fromkeys(self.mapping.values())
        wanted = [name for name in names if field_type(file.schema_arrow, name) is not None]
        image = self.hashed
        kept = self.kept if image and wanted else None
        hashes = kept.of(part.entry, str(image), file.metadata.num_rows) if kept else None
        if image and hashes is None:
            yield from self._hashed_now(part, file, wanted, image)
            return
        row, columns = part.first_row, wanted or file.schema_arrow.names[:1]
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=part.groups, columns=columns):
            yield batch, None if hashes is None else as_text(hashes.slice(row, batch.num_rows))
            row += batch.num_rows

    def _hashed_now(
        self, part: FileRows, file: CatalogFile, wanted: Sequence[str], image: str
    ) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        """Batches with the hashes of their images; those of a whole file are noted."""
        noted = []
        with ThreadPoolExecutor(num_cores()) as pool:
            for batch in image_batches(file, [*wanted, image], image, part.groups):
                noted.append(digests(image_values(leaf(batch, image)), pool))
                yield batch, noted[-1]
        if self.kept and part.groups is None:
            self.kept.add(part.entry, image, noted)

    def _renamed(
        self,
        batch: pa.RecordBatch,
        hive: Mapping[str, tuple[str | None, pa.DataType]],
        path: str,
        first_row: int,
        hashes: pa.Array | None,
    ) -> pa.RecordBatch:
        """A batch by our names; of embedded images also its file, its rows' numbers, and their hashes."""
        arrays = [
            self._column(batch, self.mapping[f.name], f, hive, path, first_row)
            for f in self.schema
            if f.name in self.mapping
        ]
        if self.embedded:
            arrays.append(pa.repeat(_path_scalar(path), batch.num_rows))
            arrays.append(pa.array(range(first_row, first_row + batch.num_rows), pa.int64()))
            arrays.append(pa.nulls(batch.num_rows, pa.string()) if hashes is None else hashes)
        return pa.record_batch(arrays, schema=self.schema)

    def _column(
        self,
        batch: pa.RecordBatch,
        name: str,
        field: pa.Field,
        hive: Mapping[str, tuple[str | None, pa.DataType]],
        path: str,
        first_row: int,
    ) -> pa.Array:
        """One column of a batch in its read type; a column of the file itself goes before one of its path."""
        if field_type(batch.schema, name) is not None:
            array = leaf(batch, name)
        elif name in hive:
            value, kind = hive[name]
            array = pa.repeat(pa.scalar(hive_value(value, kind), kind), batch.num_rows)
        elif field.name.startswith("label_"):
            return pa.nulls(batch.num_rows, field.type)
        else:
            raise DataError(f"{self.folder.full(path)} lacks column {name}, which other files have")
        try:
            return read_as(array, field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            raise DataError(
                _misfit(array, field.type, f"{self.folder.full(path)}: column {name}", first_row, exc)
            ) from None


def _path_scalar(path: str) -> pa.Scalar:
    try:
        return pa.scalar(path)
    except UnicodeEncodeError:
        raise DataError(f"{path!a} holds images, and its name is no UTF-8: rename it") from None


def _misfit(array: pa.Array, kind: pa.DataType, what: str, first_row: int, exc: Exception) -> str:
    """The message for a value that does not fit, with its row."""
    for i in range(len(array)):
        try:
            read_as(array.slice(i, 1), kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return f"{what} cannot be read as {kind}: row {first_row + i} holds {_shown(array[i])}"
    return f"{what} cannot be read as {kind}: {exc}"


def _shown(value: Any) -> str:
    try:
        return str(value.as_py())[:100]
    except UnicodeDecodeError:
        value = getattr(value, "value", value)  # of a dictionary
        return f"{value.as_buffer().to_pybytes()[:60]!r}, which is no UTF-8; a binary column may hold it"
    except (ValueError, OverflowError):  # a time beyond Python's
        return f"{value.value} ({value.type})"
