"""The catalog as the user has it: which columns mean what, its files as they stood when opened, and its rows in our names.

Never written. Which rows are worked on, and in what order, is ``plan``.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pix2score.engine import open_parquet
from pix2score.errors import DataError
from pix2score.storage import Entry, Folder

BATCH_ROWS = 65_536
IMAGE_BATCH_ROWS = 256  # embedded images: bounds the memory of a batch to some hundreds of MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Our name = the catalog's column. A column that is not there and was not asked for counts as absent."""

    id: str = "illust_id"
    """Id of the illustration, int64 or string."""
    page: str | None = None
    """Page within a work, from 0 (default: page, if there is one)."""
    uri: str | None = None
    """Where the image lies: s3://bucket/key or a path relative to the catalog (default: uri, if there is one)."""
    image: str | None = None
    """Embedded image bytes, instead of a uri (default: image, if there is one)."""
    group: str | None = None
    """Splits keep a group together (default: artist_id, if there is one, else the id)."""
    split: str | None = None
    """A given split (train, val, test) to honour instead of hashing."""
    fingerprint: str | None = None
    """Identifies an image's content (default: fingerprint or etag, if there is one)."""
    updated_at: str | None = None
    """Which of several rows of one key is newest (default: updated_at, if there is one)."""


_DEFAULTS = {
    "page": ("page",),
    "uri": ("uri",),
    "image": ("image",),
    "group": ("artist_id",),
    "split": (),
    "fingerprint": ("fingerprint", "etag"),
    "updated_at": ("updated_at",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """A catalog whose columns are resolved and whose files are pinned."""

    folder: Folder
    files: tuple[Entry, ...]
    columns: Columns
    schema: pa.Schema
    labels: tuple[str, ...] = ()
    """Label columns to read along, in the catalog's names."""

    @property
    def id_type(self) -> pa.DataType:
        """int64 or string."""
        return pa.int64() if pt.is_integer(self.schema.field(self.columns.id).type) else pa.string()

    @property
    def embedded(self) -> bool:
        """Whether image bytes stand in the catalog itself."""
        return self.columns.uri is None

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
            "uri": columns.uri,
            "group": columns.group,
            "split": columns.split,
            "fingerprint": columns.fingerprint,
            "updated_at": columns.updated_at,
        }
        labels = {f"label_{i}": name for i, name in enumerate(self.labels)}
        return {ours: theirs for ours, theirs in (named | labels).items() if theirs}

    def rows_schema(self) -> pa.Schema:
        """Schema of ``batches``: ``illust_id``, what the catalog has of ``plan``'s columns, and ``label_0`` … in their own types."""
        fields = [pa.field(ours, _plain(self.schema.field(theirs).type)) for ours, theirs in self._mapping.items()]
        fields[0] = pa.field("illust_id", self.id_type)
        if self.embedded:
            fields += [pa.field("file", pa.string()), pa.field("row", pa.int64()), pa.field("sha256", pa.string())]
        return pa.schema(fields)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows in file order, columns as ``rows_schema`` says.

        Raises ``DataError`` naming the file that lacks a column or holds another type than the first file.
        """
        schema = self.rows_schema()
        hashed = [self.columns.image] if self._hashes_images else []
        wanted = list(dict.fromkeys([*self._mapping.values(), *(name for name in hashed if name)]))
        for entry in self.files:
            with open_parquet(self.folder, entry.path) as file:
                absent = [name for name in wanted if name not in file.schema_arrow.names]
                if absent:
                    raise DataError(f"{self.folder.full(entry.path)} lacks column {', '.join(absent)}, which other files have")
                self._refuse_new_columns(file.schema_arrow.names, entry.path)
                row = 0
                for batch in file.iter_batches(batch_size=IMAGE_BATCH_ROWS if hashed else BATCH_ROWS, columns=wanted):
                    yield self._renamed(batch, schema, entry.path, row)
                    row += batch.num_rows

    def _refuse_new_columns(self, names: Sequence[str], path: str) -> None:
        """A column that means something by its name must not begin in a later file: its values would be lost without a word."""
        absent = [ours for ours in ("page", "group", "fingerprint", "updated_at") if getattr(self.columns, ours) is None]
        surplus = [name for ours in absent for name in _DEFAULTS[ours] if name in names]
        if surplus:
            raise DataError(
                f"{self.folder.full(path)} has column {', '.join(surplus)}, which the first file lacks; all files need the same"
            )

    def check_unchanged(self) -> None:
        """Raise ``DataError`` if a file is not what it was when the catalog was opened."""
        for entry in self.files:
            if self.folder.entry(entry.path) != entry:
                raise DataError(f"{self.folder.full(entry.path)} changed while it was read; run again")

    @property
    def _hashes_images(self) -> bool:
        return self.embedded and self.columns.fingerprint is None

    def _renamed(self, batch: pa.RecordBatch, schema: pa.Schema, path: str, first_row: int) -> pa.RecordBatch:
        where, mapping = self.folder.full(path), self._mapping
        arrays = [_cast(batch.column(mapping[f.name]), f.type, where, mapping[f.name]) for f in schema if f.name in mapping]
        if self.embedded:
            arrays.append(pa.repeat(pa.scalar(path), batch.num_rows))
            arrays.append(pa.array(range(first_row, first_row + batch.num_rows), pa.int64()))
            arrays.append(self._hashes(batch))
        return pa.record_batch(arrays, schema=schema)

    def _hashes(self, batch: pa.RecordBatch) -> pa.Array:
        if not self._hashes_images:
            return pa.nulls(batch.num_rows, pa.string())
        images = pc.cast(batch.column(self.columns.image), pa.large_binary())
        digests = [hashlib.sha256(image.as_buffer()).hexdigest() if image.is_valid else None for image in images]
        return pa.array(digests, pa.string())


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type a column is read as: dictionaries and large or view variants are undone, the rest is kept."""
    if pt.is_dictionary(kind):
        return _plain(kind.value_type)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_float16(kind) or pt.is_decimal256(kind):
        return pa.float64()
    return kind


def _cast(array: pa.Array, kind: pa.DataType, where: str, column: str) -> pa.Array:
    try:
        return pc.cast(array, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise DataError(f"{where}: column {column} cannot be read as {kind}: {exc}") from None


def open_catalog(place: str, columns: Columns, labels: Sequence[str] = ()) -> Catalog:
    """The catalog at ``place`` (one Parquet file, or a folder of them) with its columns resolved.

    In a folder, the Parquet files of its top level are the catalog; only if there are none, those of its subfolders: images may lie below.

    Raises:
        DataError: nothing there, not Parquet, or a column is missing (it is named, with those present and the flag that maps it).
    """
    folder, files = _find_files(place)
    with open_parquet(folder, files[0].path) as file:
        schema = file.schema_arrow
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        raise DataError(f"catalog {place} has more than one column {', '.join(repeated)}")
    resolved = _resolve_columns(columns, schema, place)
    for name in labels:
        _require(name, schema, place, "it is the label column of a head; [[heads]] column = … in --config names another")
    _check_types(resolved, schema, labels, place)
    return Catalog(folder=folder, files=tuple(files), columns=resolved, schema=schema, labels=tuple(labels))


def _find_files(place: str) -> tuple[Folder, list[Entry]]:
    whole = Folder(place)
    if whole.is_file():
        folder = whole.parent
        return folder, [folder.entry(whole.name)]
    files = whole.top_entries(suffix=".parquet") or whole.entries(suffix=".parquet")
    files = [f for f in files if not any(part.startswith(("_", ".")) for part in f.path.split("/"))]
    if not files:
        raise DataError(f"no catalog at {place}: expected a Parquet file or a folder with *.parquet files")
    return whole, files


def _resolve_columns(columns: Columns, schema: pa.Schema, place: str) -> Columns:
    _require(columns.id, schema, place, "--columns.id NAME maps another")
    found: dict[str, str | None] = {}
    for ours, candidates in _DEFAULTS.items():
        asked = getattr(columns, ours)
        if asked is not None:
            _require(asked, schema, place, f"--columns.{ours} NAME maps another")
        found[ours] = asked or next((name for name in candidates if name in schema.names), None)
    if columns.image and not columns.uri:
        found["uri"] = None
    if found["uri"] is None and found["image"] is None:
        raise DataError(
            f"catalog {place} has neither a column uri nor image; --columns.uri NAME or --columns.image NAME maps one of its "
            f"columns: {', '.join(schema.names)}"
        )
    return Columns(id=columns.id, **found)


def _require(name: str, schema: pa.Schema, place: str, mend: str) -> None:
    if name not in schema.names:
        near = difflib.get_close_matches(name, schema.names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(f"catalog {place} has no column {name!r}{hint}; it has {', '.join(schema.names)}; {mend}")


def _check_types(columns: Columns, schema: pa.Schema, labels: Sequence[str], place: str) -> None:
    rules = [
        (columns.id, "an integer or a string", lambda t: pt.is_integer(t) or _is_text(t)),
        (columns.page, "an integer", pt.is_integer),
        (columns.uri, "a string", _is_text),
        (columns.image, "bytes", lambda t: pt.is_binary(t) or pt.is_large_binary(t) or pt.is_binary_view(t)),
        *((name, "a number", _can_be_label) for name in labels),
    ]
    for name, wanted, is_fine in rules:
        if name and not is_fine(_plain(schema.field(name).type)):
            raise DataError(f"catalog {place}: column {name} is {schema.field(name).type}, expected {wanted}")


def _can_be_label(kind: pa.DataType) -> bool:
    """Numbers, and text that may hold them: what does not is dropped row by row."""
    is_number = pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind)
    return is_number or _is_text(kind) or pt.is_null(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(_plain(kind)))
