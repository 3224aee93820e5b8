"""The catalog as the user has it: which columns mean what, its files as they stood when opened, and its rows
in our names.

Never written. Which files it has is ``catalog_files``, which types their columns ``catalog_shape``; which
rows are worked on, and in what order, is ``nightly.plan`` and ``dataset.plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from pix2score.catalog.columns import (
    Columns,
    fields_of,
    mapped_as_before,
    path_beside,
    resolve_columns,
    without_absent,
)
from pix2score.catalog.files import hive_values, relist
from pix2score.catalog.find import find_catalog
from pix2score.catalog.hashes import KeptHashes, as_text, digests
from pix2score.catalog.read import BATCH_ROWS, FileRows, image_batches, image_values, leaf, opened
from pix2score.catalog.shape import Shape, column_field, field_type, hive_kinds, shape_of, whole_number
from pix2score.catalog.text.names import is_text_table
from pix2score.catalog.types import read_as
from pix2score.catalog.view import CatalogFile, TableVersion
from pix2score.errors import DataError
from pix2score.heads.spec import HeadSpec
from pix2score.host.cores import num_cores
from pix2score.storage.folder import Entry, Folder

__all__ = ["Catalog", "Columns", "image_values", "open_catalog"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """A catalog whose columns are resolved and whose files are pinned."""

    folder: Folder
    files: tuple[Entry, ...]
    columns: Columns
    asked: Columns
    """Those that were mapped; ``columns`` has those found by their usual names, too."""
    schema: pa.Schema
    """Every column, those of the files' paths too; mapped ones and labels in the type that they are read
    as."""
    labels: tuple[str, ...] = ()
    """Label columns to read along, in the catalog's names; those that it lacks are null."""
    extras: Mapping[str, str] = field(default_factory=dict)
    """Our name -> the catalog's column, of further columns to read along."""
    table: TableVersion | None = None
    """The version of the table with a log that the files are of, if they are of one."""
    place: str = ""
    """As the user named it."""
    kept: KeptHashes | None = field(default=None, compare=False)
    """Where hashes of embedded images are kept from night to night."""

    @property
    def id_type(self) -> pa.DataType:
        """int64 or string."""
        return self.schema.field(self.columns.id).type

    @property
    def embedded(self) -> bool:
        """Whether image bytes are in the catalog itself."""
        return self.columns.uri is None

    @property
    def image_path(self) -> str | None:
        """The Parquet column that holds the image bytes: ``image``, or ``image.bytes`` in a struct; None if a
        uri names them."""
        name = self.columns.image
        if not self.embedded or name is None:
            return None
        return f"{name}.bytes" if pt.is_struct(self.schema.field(name).type) else name

    @property
    def path_column(self) -> str | None:
        """The column of paths beside the image bytes, where all files have it: for rows without bytes."""
        name = path_beside(self.columns.image or "")
        return name if self.embedded and name in self.schema.names else None

    @property
    def fingerprint_kind(self) -> str:
        """What identifies content: the fingerprint column's name, else ``sha256`` (embedded) or ``uri``."""
        return self.columns.fingerprint or ("sha256" if self.embedded else "uri")

    @property
    def _mapping(self) -> dict[str, str]:
        """Our name -> the catalog's column, of everything but the image bytes."""
        columns = self.columns
        named = {
            "illust_id": columns.id,
            "page": columns.page,
            "uri": columns.uri or self.path_column,
            "group": columns.group,
            "split": columns.split,
            "fingerprint": columns.fingerprint,
            "updated_at": columns.updated_at,
        }
        labels = {f"label_{i}": name for i, name in enumerate(self.labels)}
        return {ours: theirs for ours, theirs in (named | labels | dict(self.extras)).items() if theirs}

    def rows_schema(self) -> pa.Schema:
        """Schema of ``batches``: ``illust_id``, what the catalog has of ``plan``'s columns, and ``label_0``
        …, as ``schema`` says."""
        fields = [
            self.schema.field(theirs).with_name(ours).remove_metadata()
            for ours, theirs in self._mapping.items()
        ]
        if self.embedded:
            fields += [
                pa.field("file", pa.string()),
                pa.field("row", pa.int64()),
                pa.field("sha256", pa.string()),
            ]
        return pa.schema(fields)

    def batches(self, share: Sequence[FileRows] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in file order, or those of a ``share``, columns as ``rows_schema`` says.

        Raises ``DataError`` naming the file that lacks a column or holds a value that is not of the column's
        type.
        """
        schema, kinds = self.rows_schema(), hive_kinds(self.files)
        parts = [FileRows(entry) for entry in self.files] if share is None else share
        files = opened(self.folder, [part.entry for part in parts], self.table)
        for part, (entry, opening) in zip(parts, files, strict=True):
            with opening as file:
                row = part.first_row
                hive = {name: (value, kinds[name]) for name, value in hive_values(entry.path).items()}
                for batch, hashes in self._hashed_batches(part, file):
                    found = self._renamed(batch, schema, hive, entry.path, row, hashes)
                    live = self.table and self.table.is_live(entry.path, row, batch.num_rows)
                    yield found if live is None else found.filter(live)
                    row += batch.num_rows

    def pin(self) -> dict[str, Any]:
        """What a manifest says of it: folder, files, and of a table with a log its version."""
        plain: dict[str, Any] = {"uri": self.folder.uri, "files": [asdict(entry) for entry in self.files]}
        if self.table:
            plain["version"] = dict(self.table.facts)
        if self.table or any(is_text_table(entry.path) for entry in self.files):
            plain["place"] = self.place
        return plain

    def check_unchanged(self) -> None:
        """Raise ``DataError`` if a file is not what it was when the catalog was opened."""
        today = relist(self.folder, self.files)
        for entry in self.files:
            if today.get(entry.path) != entry:
                raise DataError(f"{self.folder.full(entry.path)} changed while it was read; run again")

    @property
    def hashes_images(self) -> bool:
        """Whether images in the catalog are told apart by their content."""
        return self.embedded and self.columns.fingerprint is None

    def _hashed_batches(
        self, part: FileRows, file: CatalogFile
    ) -> Iterator[tuple[pa.RecordBatch, pa.Array | None]]:
        """The mapped columns that are in the file itself, and the hashes of its images if they are needed."""
        names = dict.fromkeys(self._mapping.values())
        wanted = [name for name in names if field_type(file.schema_arrow, name) is not None]
        image = self.image_path if self.hashes_images else None
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
        schema: pa.Schema,
        hive: Mapping[str, tuple[str | None, pa.DataType]],
        path: str,
        first_row: int,
        hashes: pa.Array | None,
    ) -> pa.RecordBatch:
        mapping = self._mapping
        arrays = [
            self._column(batch, mapping[f.name], f, hive, path, first_row)
            for f in schema
            if f.name in mapping
        ]
        if self.embedded:
            arrays.append(pa.repeat(_path_scalar(path), batch.num_rows))
            arrays.append(pa.array(range(first_row, first_row + batch.num_rows), pa.int64()))
            arrays.append(pa.nulls(batch.num_rows, pa.string()) if hashes is None else hashes)
        return pa.record_batch(arrays, schema=schema)

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
            array = pa.repeat(
                pa.scalar(whole_number(value) if value is not None and pt.is_integer(kind) else value, kind),
                batch.num_rows,
            )
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


def open_catalog(
    place: str,
    columns: Columns,
    heads: Sequence[HeadSpec] = (),
    *,
    before: Mapping[str, str | None] | None = None,
    extras: Mapping[str, str] | None = None,
    may_lack: Collection[str] = (),
    others: Sequence[str] | Callable[[Shape], Sequence[str]] = (),
) -> Catalog:
    """The catalog at ``place`` (one file, a folder of them, or a table with a log) with its columns resolved.

    In a folder, the Parquet files of its top level are the catalog; only if there are none, those of its
    subfolders: images may lie below. ``name=value`` folders are columns, unless the file itself has one of
    that name.

    ``before``: how columns of an earlier catalog were mapped, for those that have no usual name here and are
    not asked for. ``extras``: further columns to read, by our name for them. ``may_lack``: names of label
    columns, extras and mapped columns, but for id and image, that need not be there.
    ``others``: columns to read along as label columns are, in the type that their values have in common;
    or what names them, once it is known which columns there are.

    Raises:
        DataError: nothing there, not Parquet, a column is missing (it is named, with those present and the
            flag that maps it), or a label column of ``heads`` cannot hold their labels.
    """
    folder, files, table = find_catalog(place)
    shape = shape_of(place, folder, files, table)
    asked = without_absent(mapped_as_before(columns, before or {}, shape), may_lack, shape)
    resolved = resolve_columns(asked, shape, folder)
    labels = tuple(dict.fromkeys(name for head in heads for name in head.label_columns))
    for name in labels:
        if name not in may_lack:
            shape.require(
                name, "it is the label column of a head; [[heads]] column = … in --config names another"
            )
    others = others(shape) if callable(others) else others
    for name in others:
        shape.require(name, "name one of these")
    extra = {ours: name for ours, name in (extras or {}).items() if name not in may_lack or shape.has(name)}
    for ours, name in extra.items():
        shape.require(name, f"--{ours}-column names another")
    fields = fields_of(resolved, shape, heads, extra.values())
    fields |= {name: column_field(shape, name) for name in others if name not in fields}
    rest = {name: pa.field(name, shape.kind(name)) for name in shape.names if name not in fields}
    return Catalog(
        folder=folder,
        files=tuple(files),
        columns=resolved,
        asked=asked,
        schema=pa.schema([*fields.values(), *rest.values()]),
        labels=tuple(dict.fromkeys((*labels, *others))),
        extras=extra,
        table=table,
        place=place,
    )


def place_of(pin: Mapping[str, Any]) -> str:
    """Where the catalog of a ``Catalog.pin`` is found again."""
    return str(pin.get("place", pin["uri"]))
