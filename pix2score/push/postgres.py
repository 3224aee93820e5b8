"""A table with pgvector in a Postgres database.

Each chunk is one transaction: rows by COPY into a temporary table and from there by INSERT … ON CONFLICT,
deletes, and the position, which is the table's row in ``pix2score_push`` beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pix2score.catalog.keys import KEY, Key
from pix2score.cli.packages import need
from pix2score.errors import ConfigError, TargetError
from pix2score.neighbours.vectors import stored
from pix2score.push.config import OWN_TABLES
from pix2score.push.position import Position, position_from_json
from pix2score.push.rows import EMBEDDING, Chunk
from pix2score.push.target import APPLICATION, check_fits, of_others, overtaken, without_secrets
from pix2score.storage.quoting import identifier

if TYPE_CHECKING:
    import psycopg

BATCH_ROWS = 5_000
MAX_VECTOR_DIM = 16_000  # of vector and halfvec, as pgvector documents it
POSITIONS, _INCOMING = OWN_TABLES
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


class PostgresTable:
    """``Target``: one table, and its position in a table beside it."""

    batch_rows = BATCH_ROWS

    def __init__(self, url: str, table: str) -> None:
        need("a push to Postgres", "postgres", ["psycopg", "pgvector"])
        schema, _, name = table.rpartition(".")
        self._schema, self._table = schema, name
        self._url = url
        self.name = f"{without_secrets(url, url).partition('?')[0]} table {table}"
        self._quoted = ".".join(identifier(part) for part in table.split("."))
        self._positions = ".".join(identifier(part) for part in (schema, POSITIONS) if part)
        self._held: str | None = None
        self._columns: list[str] = []
        self._types: list[str] = []
        with self._told():
            self._connection = self._connected()

    def _connected(self) -> psycopg.Connection[Any]:
        import psycopg

        return psycopg.connect(self._url, autocommit=True, application_name=APPLICATION)

    def close(self) -> None:
        """As ``Target``."""
        self._connection.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the server or the way to it says, as one line that names the target and no password."""
        import psycopg

        try:
            yield
        except psycopg.Error as exc:
            said = without_secrets(str(exc), self._url) or type(exc).__name__
            raise TargetError(f"{self.name}: {said}") from None

    def position(self) -> Position | None:
        """As ``Target``."""
        with self._told():
            if not self._exists(self._quoted) or not self._exists(self._positions):
                return None
            sql = f"SELECT position FROM {self._positions} WHERE target = %s"
            row = self._connection.execute(sql, [self._table]).fetchone()
        self._held = row[0] if row else None
        return position_from_json(row[0], self.name) if row else None

    def _exists(self, quoted: str) -> bool:
        row = self._connection.execute("SELECT to_regclass(%s) IS NOT NULL", [quoted]).fetchone()
        return bool(row and row[0])

    def prepare(self, schema: pa.Schema, position: Position, recreate: bool) -> None:
        """As ``Target``."""
        with self._told(), self._connection.transaction():
            has_halves = self._extension()
            columns = {field.name: _column_type(field, has_halves) for field in schema}
            if recreate:
                self._connection.execute(f"DROP TABLE IF EXISTS {self._quoted}")
            if not self._exists(self._quoted):
                self._create({name: kind for name, (kind, _) in columns.items()}, schema)
                self._held = None
            else:
                self._check(columns, schema)
            self._columns = list(columns)
            self._types = [copied for _, copied in columns.values()]
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._positions} "
                "(target text PRIMARY KEY, position text NOT NULL, pushed_at timestamptz NOT NULL)"
            )
            if self._held is None:
                self._forget()
                self._check_empty()
                self._keep(position)
        self._begin_session()

    def _extension(self) -> bool:
        """See that pgvector is there; whether it has halfvec."""
        from pgvector.psycopg import register_vector
        from psycopg.types import TypeInfo

        sql = "SELECT 1 FROM pg_extension WHERE extname = 'vector'"
        if self._connection.execute(sql).fetchone() is None:
            import psycopg

            try:
                with self._connection.transaction():
                    self._connection.execute("CREATE EXTENSION vector")
            except psycopg.Error as exc:
                raise TargetError(
                    f"{self.name}: the database has no pgvector, and it could not be switched on "
                    f"({without_secrets(str(exc), self._url)}): an administrator runs CREATE EXTENSION vector"
                ) from None
        register_vector(self._connection)
        return TypeInfo.fetch(self._connection, "halfvec") is not None

    def _create(self, columns: dict[str, str], schema: pa.Schema) -> None:
        given = [
            f"{identifier(name)} {kind}"
            + (' COLLATE "C"' if name in KEY and kind == "text" else "")
            + ("" if schema.field(name).nullable else " NOT NULL")
            for name, kind in columns.items()
        ]
        self._connection.execute(
            f"CREATE TABLE {self._quoted} ({', '.join(given)}, PRIMARY KEY ({', '.join(KEY)}))"
        )

    def _check(self, columns: dict[str, tuple[str, str]], schema: pa.Schema) -> None:
        rows = self._connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod), attnotnull AND NOT atthasdef "
            "FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            [self._quoted],
        ).fetchall()
        found = {name: kind for name, kind, _ in rows}
        as_vector = f"vector({schema.field(EMBEDDING).type.list_size})"
        if found.get(EMBEDDING) == as_vector:
            columns[EMBEDDING] = (as_vector, "vector")
        check_fits(self.name, {name: kind for name, (kind, _) in columns.items()}, found, surplus=False)
        needed = [name for name, _, is_needed in rows if is_needed and name not in columns]
        if needed:
            raise ConfigError(
                f"{self.name}: {', '.join(needed)} must not be null, and a push does not know it"
            )
        self._check_key()

    def _check_key(self) -> None:
        found = self._connection.execute(
            "SELECT 1 FROM pg_index i WHERE indrelid = %s::regclass AND indisunique AND indisvalid AND "
            "indpred IS NULL AND indnkeyatts = 2 AND ARRAY(SELECT attname::text FROM pg_attribute a WHERE "
            "a.attrelid = indrelid AND a.attnum = ANY (indkey) ORDER BY 1) = %s",
            [self._quoted, list(KEY)],
        ).fetchone()
        if found is None:
            raise ConfigError(
                f"{self.name} has no unique index on ({', '.join(KEY)}): CREATE UNIQUE INDEX makes it"
            )

    def _check_empty(self) -> None:
        if self._connection.execute(f"SELECT 1 FROM {self._quoted} LIMIT 1").fetchone():
            raise of_others(self.name)

    def _forget(self) -> None:
        self._connection.execute(f"DELETE FROM {self._positions} WHERE target = %s", [self._table])

    def _begin_session(self) -> None:
        """The temporary table that rows are copied to."""
        columns = ", ".join(identifier(name) for name in self._columns)
        with self._told(), self._connection.transaction():
            self._connection.execute(f"DROP TABLE IF EXISTS pg_temp.{_INCOMING}")
            self._connection.execute(
                f"CREATE TEMP TABLE {_INCOMING} ON COMMIT DELETE ROWS AS "
                f"SELECT {columns} FROM {self._quoted} WITH NO DATA"
            )

    def write(self, chunk: Chunk, position: Position) -> None:
        """As ``Target``."""
        with self._told(), self._connection.transaction():
            self._check_alone()
            if chunk.rows.num_rows:
                self._copy(chunk.rows)
                self._upsert()
            if chunk.is_whole:
                self._delete_others(chunk.after, chunk.upto)
            elif chunk.deleted.num_rows:
                self._delete(chunk.deleted)
            self._keep(position)

    def _check_alone(self) -> None:
        sql = f"SELECT position FROM {self._positions} WHERE target = %s FOR UPDATE"
        row = self._connection.execute(sql, [self._table]).fetchone()
        if row is None or row[0] != self._held:
            raise overtaken(self.name)

    def _keep(self, position: Position) -> None:
        self._held = position.to_json()
        self._connection.execute(
            f"INSERT INTO {self._positions} VALUES (%s, %s, now()) ON CONFLICT (target) DO UPDATE SET "
            "position = EXCLUDED.position, pushed_at = EXCLUDED.pushed_at",
            [self._table, self._held],
        )

    def _copy(self, rows: pa.Table) -> None:
        columns = [
            _values(rows.column(name), copied)
            for name, copied in zip(self._columns, self._types, strict=True)
        ]
        with self._connection.cursor() as cursor:
            sql = f"COPY {_INCOMING} FROM STDIN (FORMAT BINARY)"
            with cursor.copy(sql) as copy:
                copy.set_types(self._types)
                for row in zip(*columns, strict=True):
                    copy.write_row(row)

    def _upsert(self) -> None:
        names = [identifier(name) for name in self._columns]
        new = ", ".join(f"{name} = EXCLUDED.{name}" for name in names if name.strip('"') not in KEY)
        self._connection.execute(
            f"INSERT INTO {self._quoted} ({', '.join(names)}) SELECT {', '.join(names)} FROM {_INCOMING} "
            f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {new}"
        )

    def _delete(self, keys: pa.Table) -> None:
        kind = "text" if pa.types.is_string(keys.schema.field("illust_id").type) else "bigint"
        self._connection.execute(
            f"DELETE FROM {self._quoted} t USING unnest(%s::{kind}[], %s::int[]) AS gone (illust_id, page) "
            "WHERE t.illust_id = gone.illust_id AND t.page = gone.page",
            [keys.column(name).to_pylist() for name in KEY],
        )

    def _delete_others(self, after: Key | None, upto: Key | None) -> None:
        """Rows behind ``after`` up to ``upto`` that were not copied."""
        is_text = any(isinstance(key[0], str) for key in (after, upto) if key)
        own = '(t.illust_id COLLATE "C", t.page)' if is_text else "(t.illust_id, t.page)"
        bounds = [f"{own} {sign} (%s, %s)" for sign, key in ((">", after), ("<=", upto)) if key]
        missing = (
            f"NOT EXISTS (SELECT 1 FROM {_INCOMING} i WHERE i.illust_id = t.illust_id AND i.page = t.page)"
        )
        self._connection.execute(
            f"DELETE FROM {self._quoted} t WHERE {' AND '.join([*bounds, missing])}",
            [part for key in (after, upto) if key for part in key],
        )

    def finish(self) -> None:
        """As ``Target``: the planner learns what is in the table."""
        with self._told():
            self._connection.execute(f"ANALYZE {self._quoted}")


def _column_type(field: pa.Field, has_halves: bool) -> tuple[str, str]:
    """Postgres's type of a column, as the server tells it and as COPY is told."""
    kind = field.type
    if field.name == EMBEDDING:
        if kind.list_size > MAX_VECTOR_DIM:
            raise ConfigError(
                f"embeddings of {kind.list_size} numbers: pgvector holds at most {MAX_VECTOR_DIM}"
            )
        name = "halfvec" if has_halves and pa.types.is_float16(kind.value_type) else "vector"
        return f"{name}({kind.list_size})", name
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        shown, copied = _column_type(pa.field(field.name, kind.value_type), has_halves)
        return f"{shown}[]", f"{copied}[]"
    if pa.types.is_timestamp(kind):
        shown = "timestamp with time zone" if kind.tz else "timestamp without time zone"
        return shown, "timestamptz" if kind.tz else "timestamp"
    if pa.types.is_decimal(kind):
        return "numeric", "numeric"
    if str(kind) not in _TYPES:
        raise ConfigError(f"column {field.name} is {kind}, which has no type in Postgres: do not carry it")
    return _TYPES[str(kind)]


def _values(column: pa.ChunkedArray, copied: str) -> list[Any]:
    """Values of a column as psycopg takes them for a type."""
    if copied not in ("halfvec", "vector"):
        return list(column.to_pylist())
    from pgvector import HalfVector, Vector

    rows_ND = stored(column.combine_chunks())
    return [*map(HalfVector if copied == "halfvec" else Vector, rows_ND)]
