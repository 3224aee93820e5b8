"""Which columns the files of a catalog have, in their own schemas and in their paths, and the one type that
each is read as."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from pix2score.catalog.files import hive_values
from pix2score.catalog.read import schemas
from pix2score.catalog.text.names import is_csv
from pix2score.catalog.types import (
    bare,
    common_label_type,
    common_type,
    is_bytes,
    is_list,
    is_text,
    is_uuid,
    label_read_type,
)
from pix2score.catalog.view import TableVersion
from pix2score.errors import DataError
from pix2score.heads.kinds import kinds_for
from pix2score.heads.spec import HeadSpec
from pix2score.storage.folder import Entry, Folder

logger = logging.getLogger(__name__)
FROM_BYTES = {b"pix2score": b"bytes"}
"""Mark on a text column that the files hold as bytes."""


def field_type(schema: pa.Schema, path: str) -> pa.DataType | None:
    """Type of a column, or of a struct's field by its dotted path; None if there is none."""
    if path in schema.names:
        return schema.field(path).type
    name, *rest = path.split(".")
    kind = schema.field(name).type if name in schema.names else None
    for part in rest:
        position = kind.get_field_index(part) if kind is not None and pt.is_struct(kind) else -1
        kind = kind.field(position).type if kind is not None and position >= 0 else None
    return kind


def hive_kinds(files: Sequence[Entry]) -> dict[str, pa.DataType]:
    """Columns that the paths name: int64 where all their values are whole numbers, also as writers of floats
    have them (``7.0``), else string."""
    texts: dict[str, bool] = {}
    for entry in files:
        for name, value in hive_values(entry.path).items():
            texts[name] = texts.get(name, False) or (value is not None and not _is_int64(value))
    return {name: pa.string() if is_other else pa.int64() for name, is_other in texts.items()}


def _is_int64(text: str) -> bool:
    digits = text.removesuffix(".0").removeprefix("-")
    is_whole = digits.isascii() and digits.isdigit() and len(digits) < 20
    return is_whole and -(2**63) <= whole_number(text) < 2**63


def hive_value(text: str | None, kind: pa.DataType) -> int | str | None:
    """A path's value in a column of ``kind``; as text ``7.0`` is ``7`` too, whatever other paths say: groups
    keep their names, and so their splits."""
    if text is None or not _is_int64(text):
        return text
    return whole_number(text) if pt.is_integer(kind) else text.removesuffix(".0")


def whole_number(text: str) -> int:
    """The number of a path's value in a column that ``hive_kinds`` calls int64."""
    return int(text.removesuffix(".0"))


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of every file that has rows."""

    place: str
    files: tuple[tuple[Entry, pa.Schema], ...]
    hive: dict[str, pa.DataType]
    table: TableVersion | None = None
    """The version of the table with a log that the files are of."""

    @property
    def is_written(self) -> bool:
        """Whether every value is the text that someone wrote, which the types only interpret: of CSV."""
        return any(is_csv(entry.path) for entry, _ in self.files)

    @property
    def names(self) -> list[str]:
        """Every column of any file, first seen first; then those of the paths."""
        distinct = {id(schema): schema for _, schema in self.files}.values()
        return list(dict.fromkeys([*(name for schema in distinct for name in schema.names), *self.hive]))

    def has(self, name: str) -> bool:
        """Whether any file has a column, or a struct's field of that dotted path."""
        return name in self.hive or any(field_type(schema, name) is not None for schema in self._distinct())

    def kinds(self, name: str) -> Iterator[tuple[Entry, pa.DataType | None]]:
        """Each file with its type of a column: its own column goes before one of its path; None if it has
        neither."""
        for entry, schema in self.files:
            kind = field_type(schema, name)
            yield entry, kind if kind is not None or name not in hive_values(entry.path) else self.hive[name]

    def kind(self, name: str) -> pa.DataType:
        """The type of the first file that has the column."""
        return next(kind for _, kind in self.kinds(name) if kind is not None)

    def _distinct(self) -> Iterable[pa.Schema]:
        return {id(schema): schema for _, schema in self.files}.values()

    def require(self, name: str, mend: str) -> None:
        """Raise ``DataError`` if no file has the column: it is named with those present and ``mend``."""
        if not self.has(name):
            known = {other.lower(): other for other in self.names}
            near = difflib.get_close_matches(name.lower(), known, n=1)
            hint = f" (did you mean {known[near[0]]}?)" if near else ""
            raise DataError(
                f"catalog {self.place} has no column {name!r}{hint}; it has {', '.join(self.names)}; {mend}"
            )

    def refuse(
        self, name: str, wanted: str, entry: Entry | None = None, kind: pa.DataType | None = None
    ) -> DataError:
        """The error for a column of a type that cannot be what it is mapped to."""
        where = f" ({entry.path})" if entry and len(self.files) > 1 else ""
        return DataError(
            f"catalog {self.place}: column {name} is {kind or self.kind(name)}{where}, expected {wanted}"
        )

    def known_kinds(self, name: str, *, may_lack: bool = False) -> list[pa.DataType]:
        """The types of a column over the files. Raises ``DataError`` naming a file that lacks it, unless it
        may."""
        found = list(self.kinds(name))
        lacking = [entry.path for entry, kind in found if kind is None]
        if lacking and not may_lack:
            first_with = next(entry.path for entry, kind in found if kind is not None)
            if found[0][1] is None:
                raise DataError(
                    f"{self.place}: {first_with} has column {name}, which the first file lacks "
                    f"({lacking[0]}); all files need the same"
                )
            raise DataError(f"{self.place}: {lacking[0]} lacks column {name}, which other files have")
        if lacking:
            logger.warning(
                "column %s is missing in %d files, such as %s: their rows have no value of it",
                name,
                len(lacking),
                lacking[0],
            )
        return [kind for _, kind in found if kind is not None]


def shape_of(place: str, folder: Folder, files: Sequence[Entry], table: TableVersion | None = None) -> Shape:
    """The shape of a catalog's files; those without rows say nothing, as writers leave their types open."""
    known: dict[str, pa.Schema] = {}
    shapes: list[tuple[Entry, pa.Schema]] = []
    empty: list[tuple[Entry, pa.Schema]] = []
    for entry, (found, num_rows) in zip(files, schemas(folder, files, table), strict=True):
        schema = known.setdefault(str(found.remove_metadata()), found)
        (shapes if num_rows else empty).append((entry, schema))
    for schema in known.values():
        repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if repeated:
            raise DataError(f"catalog {place} has more than one column {', '.join(repeated)}")
    return Shape(place, tuple(shapes or empty[:1]), hive_kinds(files), table)


def id_field(shape: Shape, name: str) -> pa.Field:
    """int64 or string. Raises ``DataError`` for other types, or if files differ."""
    shape.known_kinds(name)
    found: dict[pa.DataType, tuple[str, pa.DataType]] = {}
    for entry, kind in shape.kinds(name):
        assert kind is not None, "known_kinds refuses a file without it"
        plain = bare(kind)
        if shape.is_written and not (pt.is_integer(plain) or pt.is_null(plain)):
            plain = pa.string()
        if pt.is_floating(plain):
            raise shape.refuse(
                name,
                "an integer or a string: as floats, ids beyond 2^53 are rounded already. Write them as "
                "integers (pandas: "
                "astype('Int64'), which keeps missing ones; DuckDB: CAST(… AS BIGINT)), from the source if "
                "they are that large",
                entry,
                kind,
            )
        if pt.is_integer(plain) or (pt.is_decimal(plain) and plain.scale <= 0):
            found.setdefault(pa.int64(), (entry.path, kind))
        elif is_text(plain) or is_bytes(plain) or is_uuid(plain):
            found.setdefault(pa.string(), (entry.path, kind))
        elif not pt.is_null(plain):
            raise shape.refuse(name, "an integer or a string; cast it to one of them", entry, kind)
    if len(found) == 2 and not shape.is_written:
        (first, (path, before)), (_, (other, there)) = found.items()
        raise DataError(
            f"{shape.place}: {other}: column {name} cannot be read as {first}: it is {there} there and "
            f"{before} in {path}; cast one of them"
        )
    return pa.field(name, pa.string() if pa.string() in found else pa.int64())


def text_field(shape: Shape, name: str, wanted: str) -> pa.Field:
    """A string. Raises ``DataError`` for anything else but bytes."""
    for entry, kind in shape.kinds(name):
        is_fit = kind is None or is_text(kind) or is_bytes(kind) or pt.is_null(bare(kind))
        if not (is_fit or shape.is_written):
            raise shape.refuse(name, wanted, entry, kind)
    shape.known_kinds(name)
    return pa.field(name, pa.string())


def value_field(shape: Shape, name: str) -> pa.Field:
    """The type that all files' values have in common, else their texts; of CSV what is written there."""
    if not shape.is_written:
        return column_field(shape, name)
    shape.known_kinds(name)
    return pa.field(name, pa.string())


def column_field(shape: Shape, name: str) -> pa.Field:
    """As ``value_field``, of a column that is read as what it holds: of CSV as numbers if all are."""
    kinds = shape.known_kinds(name)
    return pa.field(
        name, common_type(kinds), metadata=FROM_BYTES if all(is_bytes(kind) for kind in kinds) else None
    )


def page_field(shape: Shape, name: str) -> pa.Field:
    """Numbers, or texts of whole numbers. Raises ``DataError`` for other types."""
    for entry, kind in shape.kinds(name):
        if kind is not None and not (is_page(kind) or shape.is_written):
            raise shape.refuse(name, "an integer", entry, kind)
    return value_field(shape, name)


def is_page(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold pages."""
    plain = bare(kind)
    is_number = pt.is_integer(plain) or pt.is_floating(plain) or pt.is_decimal(plain)
    return bool(is_number or is_text(plain) or pt.is_null(plain))


def label_field(shape: Shape, name: str, head: HeadSpec) -> pa.Field:
    """A label column of ``head``; single values that are no label are dropped row by row. Raises
    ``DataError`` for a type that can hold none, naming the kinds of heads that fit it."""
    for entry, kind in shape.kinds(name):
        if kind is None:
            continue
        plain = label_read_type(kind) if is_list(kind) else bare(kind)
        if not head.accepts(plain):
            raise shape.refuse(name, f"{head.LABEL}{_which_fit(plain, head)}", entry, kind)
    return pa.field(name, common_label_type(shape.known_kinds(name, may_lack=True)))


def _which_fit(kind: pa.DataType, head: HeadSpec) -> str:
    fitting = kinds_for(kind)
    if not fitting:
        return ""
    return f" for head {head.name!r} of kind {head.kind}; kind {' or '.join(fitting)} would fit"
