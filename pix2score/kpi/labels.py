"""The table of labels as the user has it: which columns it has, and its rows by our names.

A KPI is a rate, when ``clicks`` and ``impressions`` are given or ``kpi`` is 0 and 1, else a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pix2score.catalog.files import find_files
from pix2score.catalog.read import BATCH_ROWS, opened
from pix2score.catalog.shape import Shape, id_field, page_field, shape_of, value_field
from pix2score.catalog.types import bare, is_text, read_as
from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder

KPI, CLICKS, IMPRESSIONS = "kpi", "clicks", "impressions"


@dataclass(frozen=True, slots=True)
class SideColumn:
    """A column of the labels that is a feature; of texts those that the train split has."""

    name: str
    is_text: bool
    values: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What it is called in tables of ours, where it meets other columns."""
        return f"side {self.name}"


@dataclass(frozen=True, slots=True)
class Labels:
    """A table of labels as it stood when it was opened."""

    place: str
    folder: Folder
    files: tuple[Entry, ...]
    columns: tuple[str, ...]
    """Those in use, by the names that they have there."""
    schema: pa.Schema
    """The same by our names, in the types that they are read as."""
    side: tuple[SideColumn, ...]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows. Raises ``DataError`` for a value that is not of its column's type."""
        for entry, opening in opened(self.folder, self.files):
            with opening as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=self.columns):
                    yield self._read(batch, entry)

    def _read(self, batch: pa.RecordBatch, entry: Entry) -> pa.RecordBatch:
        try:
            named = zip(self.columns, self.schema, strict=True)
            return pa.record_batch([_read(batch, *one) for one in named], schema=self.schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            raise DataError(f"labels {self.folder.full(entry.path)} cannot be read: {exc}") from None


def _read(batch: pa.RecordBatch, name: str, field: pa.Field) -> pa.Array:
    if pt.is_float64(field.type):  # of whole numbers, decimals and yes or no too
        plain = read_as(batch.column(name), bare(batch.schema.field(name).type))
        return pc.cast(pc.cast(plain, pa.int8()) if pt.is_boolean(plain.type) else plain, field.type)
    return read_as(batch.column(name), field.type)


def open_labels(place: str, side_names: Sequence[str], *, with_kpi: bool) -> Labels:
    """The table at ``place``; without its KPI if it is read for its side columns alone.

    Raises ``DataError``: no Parquet there, a column is missing (it is named, with those present), or of a
    type that it cannot be.
    """
    folder, files = find_files(place)
    shape = shape_of(place, folder, files)
    _require(shape, ["illust_id"])
    fields = [id_field(shape, "illust_id")]
    if _has(shape, "page"):
        fields.append(page_field(shape, "page"))
    if with_kpi:
        fields += [_number_field(shape, name) for name in _label_names(shape)]
        fields += [value_field(shape, name) for name in ("group", "split") if _has(shape, name)]
    _require(shape, side_names)
    _refuse_own(side_names, place)
    side = tuple(SideColumn(name, is_text(shape.kind(name))) for name in side_names)
    for column in side:
        text = pa.field(column.name, pa.string())
        fields.append(text if column.is_text else _number_field(shape, column.name))
    columns = tuple(field.name for field in fields)
    ours = [*columns[: len(columns) - len(side)], *(column.key for column in side)]
    schema = pa.schema([field.with_name(name) for field, name in zip(fields, ours, strict=True)])
    return Labels(place, folder, tuple(files), columns, schema, side)


def _has(shape: Shape, name: str) -> bool:
    return any(name in schema.names for _, schema in shape.files)


def _require(shape: Shape, names: Sequence[str]) -> None:
    missing = [name for name in names if not _has(shape, name)]
    if missing:
        raise DataError(
            f"labels {shape.place} have no column {', '.join(missing)}; they have {', '.join(shape.names)}"
        )


def _refuse_own(side_names: Sequence[str], place: str) -> None:
    own = [
        name
        for name in side_names
        if name in (KPI, CLICKS, IMPRESSIONS, "illust_id", "page", "group", "split")
    ]
    if own:
        raise DataError(
            f"--features {', '.join(own)}: cannot be features of labels {place}: they are the key, the "
            "group, the split, or what is to be predicted"
        )


def _label_names(shape: Shape) -> list[str]:
    """``kpi``, or ``clicks`` and ``impressions``. Raises ``DataError`` unless it is one or the other."""
    found = [name for name in (KPI, CLICKS, IMPRESSIONS) if _has(shape, name)]
    if found in ([KPI], [CLICKS, IMPRESSIONS]):
        return found
    raise DataError(
        f"labels {shape.place} need a column {KPI}, or {CLICKS} and {IMPRESSIONS}, not both; they have "
        f"{', '.join(shape.names)}"
    )


def _number_field(shape: Shape, name: str) -> pa.Field:
    for kind in map(bare, shape.known_kinds(name)):
        if not (
            pt.is_integer(kind)
            or pt.is_floating(kind)
            or pt.is_decimal(kind)
            or pt.is_boolean(kind)
            or pt.is_null(kind)
        ):
            raise DataError(f"labels {shape.place}: column {name} is {kind}, expected numbers")
    return pa.field(name, pa.float64())
