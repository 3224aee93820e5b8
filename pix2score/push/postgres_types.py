"""Postgres's types of what is sent, and values as psycopg takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pix2score.errors import ConfigError
from pix2score.neighbours.vectors import stored
from pix2score.push.postgres_session import Session
from pix2score.push.rows import EMBEDDING

if TYPE_CHECKING:
    from psycopg.types import TypeInfo

MAX_VECTOR_DIM = 16_000  # of vector and halfvec, as pgvector documents it
MAX_NAME_BYTES = 63  # NAMEDATALEN - 1: a longer name is cut by the server, and not found again
_TYPES: dict[str, tuple[str, str]] = {
    "bool": ("boolean", "bool"),
    "int8": ("smallint", "int2"),
    "int16": ("smallint", "int2"),
    "int32": ("integer", "int4"),
    "int64": ("bigint", "int8"),
    "uint8": ("smallint", "int2"),
    "uint16": ("integer", "int4"),
    "uint32": ("bigint", "int8"),
    "uint64": ("numeric", "numeric"),
    "float": ("real", "float4"),
    "double": ("double precision", "float8"),
    "string": ("text", "text"),
    "large_string": ("text", "text"),
    "binary": ("bytea", "bytea"),
    "large_binary": ("bytea", "bytea"),
    "date32[day]": ("date", "date"),
}
"""Arrow's type -> Postgres's as it tells it, and as COPY is told."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The types of a database's pgvector, wherever it is installed."""

    schema: str
    """As SQL."""
    oids: dict[str, int]
    """vector, and halfvec where there is one (pgvector 0.7 and later)."""

    def sql(self, kind: str) -> str:
        """``kind``, whatever the search path is."""
        return f"{self.schema}.{kind}"


def vectors_in(session: Session, schema: str) -> Vectors:
    """Have the types of the pgvector that is in ``schema``."""
    from pgvector.psycopg.halfvec import register_halfvec_info
    from pgvector.psycopg.vector import register_vector_info
    from psycopg.types import TypeInfo

    oids = {}
    for name, register in (("vector", register_vector_info), ("halfvec", register_halfvec_info)):
        info: TypeInfo | None = TypeInfo.fetch(session.connection, f"{schema}.{name}")
        if info is not None:
            session.register(register, info)
            oids[name] = info.oid
    return Vectors(schema, oids)


def column_type(field: pa.Field, has_halves: bool) -> tuple[str, str]:
    """Postgres's type of a column, as the server tells it and as COPY is told.

    Raises ``ConfigError`` where there is none, or the name is too long.
    """
    if len(field.name.encode()) > MAX_NAME_BYTES:
        raise ConfigError(
            f"column {field.name}: names in Postgres have at most {MAX_NAME_BYTES} bytes, this one has "
            f"{len(field.name.encode())}: carry it by a shorter one"
        )
    kind = field.type
    if field.name == EMBEDDING:
        if kind.list_size > MAX_VECTOR_DIM:
            raise ConfigError(
                f"embeddings of {kind.list_size} numbers: pgvector holds at most {MAX_VECTOR_DIM}"
            )
        name = "halfvec" if has_halves and pa.types.is_float16(kind.value_type) else "vector"
        return f"{name}({kind.list_size})", name
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        shown, copied = column_type(pa.field(field.name, kind.value_type), has_halves)
        return f"{shown.removesuffix('[]')}[]", f"{copied.removesuffix('[]')}[]"  # of any depth
    if pa.types.is_timestamp(kind):
        shown = "timestamp with time zone" if kind.tz else "timestamp without time zone"
        return shown, "timestamptz" if kind.tz else "timestamp"
    if pa.types.is_decimal(kind):
        return "numeric", "numeric"
    if str(kind) not in _TYPES:
        raise ConfigError(f"column {field.name} is {kind}, which has no type in Postgres: do not carry it")
    return _TYPES[str(kind)]


def values_of(name: str, column: pa.ChunkedArray, copied: str) -> list[Any]:
    """Values of a column as psycopg takes them for a type.

    Raises ``ConfigError`` for dates that Python does not have: before the year 1, after 9999.
    """
    if copied not in ("halfvec", "vector"):
        try:
            return list(column.to_pylist())
        except (OverflowError, ValueError) as exc:
            raise ConfigError(
                f"column {name} has a value that is not to be sent to Postgres ({exc}): do not carry it"
            ) from None
    from pgvector import HalfVector, Vector

    rows_ND = stored(column.combine_chunks())
    return [*map(HalfVector if copied == "halfvec" else Vector, rows_ND)]
