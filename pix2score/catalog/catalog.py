"""The catalog as the user has it: which columns mean what, and its files as they stood when opened.

Never written. ``catalog.find`` says which files it has, ``catalog.shape`` of which types their columns are,
``nightly.plan`` and ``dataset.plan`` which rows are worked on, in what order; ``catalog.row_reader`` reads
them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from pix2score.catalog.files import relist
from pix2score.catalog.find import find_catalog
from pix2score.catalog.hashes import KeptHashes
from pix2score.catalog.read import FileRows
from pix2score.catalog.row_reader import RowReader
from pix2score.catalog.shape import Shape, column_field, hive_kinds, shape_of
from pix2score.catalog.text.names import is_text_table
from pix2score.catalog.view import TableVersion
from pix2score.errors import DataError
from pix2score.heads.spec import HeadSpec
from pix2score.storage.folder import Entry, Folder

__all__ = ["Catalog", "Columns", "open_catalog"]


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
        reader = RowReader(
            folder=self.folder,
            table=self.table,
            schema=self.rows_schema(),
            mapping=self._mapping,
            hive_kinds=hive_kinds(self.files),
            embedded=self.embedded,
            hashed=self.image_path if self.hashes_images else None,
            kept=self.kept,
        )
        return reader.batches([FileRows(entry) for entry in self.files] if share is None else share)

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
