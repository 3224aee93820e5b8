"""A table with pgvector in a Postgres database.

Each chunk is one transaction: rows by COPY into a temporary table and from there by INSERT … ON CONFLICT,
deletes, and the position, which is the table's row in ``pix2score_push`` beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from pix2score.catalog.keys import KEY, Key
from pix2score.cli.packages import need
from pix2score.errors import ConfigError, TargetError
from pix2score.push.config import OWN_TABLES
from pix2score.push.position import Position, position_from_json
from pix2score.push.postgres_checks import check_table, check_visible
from pix2score.push.postgres_session import Session
from pix2score.push.postgres_types import Vectors, column_type, values_of, vectors_in
from pix2score.push.rows import EMBEDDING, Chunk
from pix2score.push.target import of_others, overtaken, without_secrets
from pix2score.storage.quoting import identifier

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
BATCH_ROWS = 5_000
POSITIONS, _INCOMING = OWN_TABLES
_ONE_BY_ONE = (
    7_595_447_220_981_760  # an advisory lock: of two pushes that begin at once, one makes the tables
)
_ORDERED_AS_UTF8 = ("UTF8", "LATIN1", "SQL_ASCII")
"""Encodings of a server in which text, by its bytes, has the order that it has in UTF-8."""


class PostgresTable:
    """``Target``: one table, and its position in a table beside it."""

    batch_rows = BATCH_ROWS

    def __init__(self, url: str, table: str) -> None:
        need("a push to Postgres", "postgres", ["psycopg", "pgvector"])
        self._schema, _, self._table = table.rpartition(".")
        self.name = f"{without_secrets(url, url).partition('?')[0]} table {table}"
        self._asked = ".".join(identifier(part) for part in table.split("."))
        self._quoted = self._positions = ""
        self._held: str | None = None
        self._columns: list[str] = []
        self._copied: list[str] = []
        self._vectors = Vectors("", {})
        self._session = Session(url, self.name)

    def close(self) -> None:
        """As ``Target``."""
        self._session.close()

    def position(self) -> Position | None:
        """As ``Target``."""
        self._held = self._transact(lambda _: self._stored() if self._is_found() else None)
        return position_from_json(self._held, self.name) if self._held else None

    def _is_found(self) -> bool:
        """Whether the table is there; from now on it, and that of positions, are named with their schemas:
        the first one of the search path need not be where the table is."""
        ((schema, is_there),) = self._session.rows(
            "SELECT coalesce((SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = "
            "to_regclass(%s)), nullif(%s, ''), quote_ident(current_schema())), to_regclass(%s) IS NOT NULL",
            [self._asked, identifier(self._schema) if self._schema else "", self._asked],
        )
        if schema is None:
            raise ConfigError(
                f"{self.name}: the role's search_path names no schema that is there: give --table SCHEMA."
                f"{self._table}"
            )
        self._quoted = f"{schema}.{identifier(self._table)}"
        self._positions = f"{self._schema_of_positions(schema)}.{POSITIONS}"
        return bool(is_there)

    def _schema_of_positions(self, schema: str) -> str:
        """Beside the table; if there is none, where the search path has one, or lets make one."""
        if self._exists(f"{schema}.{POSITIONS}") or self._schema:
            return schema
        ((found, own, may_make),) = self._session.rows(
            "SELECT (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass(%s)), "
            "quote_ident(current_schema()), has_schema_privilege(to_regnamespace(%s)::oid, 'CREATE')",
            [POSITIONS, schema],
        )
        return str(found or (schema if may_make or not own else own))

    def _exists(self, quoted: str) -> bool:
        return bool(self._session.rows("SELECT to_regclass(%s) IS NOT NULL", [quoted])[0][0])

    def _stored(self, lock: str = "") -> str | None:
        if not self._exists(self._positions):
            return None
        sql = f"SELECT position FROM {self._positions} WHERE target = %s {lock}"
        rows = self._session.rows(sql, [self._table])
        return str(rows[0][0]) if rows else None

    def prepare(self, schema: pa.Schema, position: Position, recreate: bool) -> None:
        """As ``Target``."""
        self._held = self._transact(lambda is_again: self._prepared(schema, position, recreate, is_again))

    def _transact(self, work: Callable[[bool], T]) -> T:
        named = [name for name in (self._quoted or self._asked, self._positions) if name]
        return self._session.transact(work, named)

    def _prepared(self, schema: pa.Schema, position: Position, recreate: bool, is_again: bool) -> str:
        self._execute("SELECT pg_advisory_xact_lock(%s)", [_ONE_BY_ONE])
        if not self._quoted:  # nobody asked for the position
            self._is_found()
        self._vectors, text = self._extension(), position.to_json()
        columns = {field.name: column_type(field, "halfvec" in self._vectors.oids) for field in schema}
        if recreate:
            self._execute(f"DROP TABLE IF EXISTS {self._quoted}")
        held = self._held
        if self._exists(self._quoted):
            check_table(self._session, self.name, self._quoted, columns, schema)
            if self._stored() not in ([held, text] if is_again else [held]):
                raise overtaken(self.name)
        elif held is not None:  # dropped since its position was asked for
            raise overtaken(self.name)
        else:
            self._create({name: kind for name, (kind, _) in columns.items()}, schema)
        self._columns, self._copied = list(columns), [copied for _, copied in columns.values()]
        self._make_positions()
        if held is None:
            self._execute(f"DELETE FROM {self._positions} WHERE target = %s", [self._table])
            if self._session.rows(f"SELECT 1 FROM {self._quoted} LIMIT 1"):
                raise of_others(self.name)
            self._keep(text)
        return held or text

    def _execute(self, sql: str, values: list[Any] | None = None) -> psycopg.Cursor[Any]:
        return self._session.connection.execute(sql, values)

    def _extension(self) -> Vectors:
        """pgvector's types; it is switched on if it is not."""
        import psycopg

        sql = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
        if not self._session.rows(sql):
            try:
                with self._session.connection.transaction():
                    self._execute("CREATE EXTENSION vector")
            except psycopg.Error as exc:
                said = self._session.said(exc, advise=False)
                raise TargetError(
                    f"{self.name}: the database has no pgvector, and it could not be switched on ({said}): "
                    "an administrator runs CREATE EXTENSION vector"
                ) from None
        ((schema,),) = self._session.rows(sql)
        return vectors_in(self._session, schema)

    def _create(self, columns: dict[str, str], schema: pa.Schema) -> None:
        given = [
            f"{identifier(name)} {self._vectors.sql(kind) if name == EMBEDDING else kind}"
            + (' COLLATE "C"' if name in KEY and kind == "text" else "")
            + ("" if schema.field(name).nullable else " NOT NULL")
            for name, kind in columns.items()
        ]
        self._execute(f"CREATE TABLE {self._quoted} ({', '.join(given)}, PRIMARY KEY ({', '.join(KEY)}))")

    def _make_positions(self) -> None:
        """Asked for first: IF NOT EXISTS wants the right to create where there is nothing to be made."""
        if not self._exists(self._positions):
            self._execute(
                f"CREATE TABLE {self._positions} "
                "(target text PRIMARY KEY, position text NOT NULL, pushed_at timestamptz NOT NULL)"
            )
        check_visible(self._session, self.name, self._positions)

    def write(self, chunk: Chunk, position: Position) -> None:
        """As ``Target``."""
        columns = [  # outside the transaction, which is not kept waiting
            values_of(name, chunk.rows.column(name), kind)
            for name, kind in zip(self._columns, self._copied, strict=True)
        ]
        text = position.to_json()
        self._transact(lambda is_again: self._write(chunk, columns, text, is_again))
        self._held = text

    def _write(self, chunk: Chunk, columns: list[list[Any]], text: str, is_again: bool) -> None:
        stored = self._stored("FOR UPDATE")
        if is_again and stored == text:
            return  # it was committed, and the connection lost before that was told
        if stored != self._held:
            raise overtaken(self.name)
        if chunk.rows.num_rows or chunk.is_whole:
            self._copy(columns)
        if chunk.rows.num_rows:
            self._upsert(chunk.rows.num_rows)
        if chunk.is_whole:
            self._delete_others(chunk.after, chunk.upto)
        elif chunk.deleted.num_rows:
            self._delete(chunk.deleted)
        self._keep(text)

    def _keep(self, text: str) -> None:
        self._execute(
            f"INSERT INTO {self._positions} VALUES (%s, %s, now()) ON CONFLICT (target) DO UPDATE SET "
            "position = EXCLUDED.position, pushed_at = EXCLUDED.pushed_at",
            [self._table, text],
        )

    def _copy(self, columns: list[list[Any]]) -> None:
        """Rows to a temporary table, which goes with the transaction."""
        names = ", ".join(identifier(name) for name in self._columns)
        self._execute(
            f"CREATE TEMP TABLE {_INCOMING} ON COMMIT DROP AS SELECT {names} FROM {self._quoted} WITH NO DATA"
        )
        sql = f"COPY pg_temp.{_INCOMING} FROM STDIN (FORMAT BINARY)"
        with self._session.connection.cursor() as cursor, cursor.copy(sql) as copy:
            copy.set_types([self._vectors.oids.get(copied, copied) for copied in self._copied])
            for row in zip(*columns, strict=True):
                copy.write_row(row)

    def _upsert(self, num_rows: int) -> None:
        names = [identifier(name) for name in self._columns]
        others = [identifier(name) for name in self._columns if name not in KEY]
        new = ", ".join(f"{name} = EXCLUDED.{name}" for name in others)
        done = self._execute(
            f"INSERT INTO {self._quoted} ({', '.join(names)}) SELECT {', '.join(names)} FROM "
            f"pg_temp.{_INCOMING} ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {new}"
        ).rowcount
        if done != num_rows:
            raise TargetError(
                f"{self.name} took {done} of {num_rows} rows: a trigger of it leaves some out, whose rows "
                "would be missing or old"
            )

    def _delete(self, keys: pa.Table) -> None:
        kind = "text" if pa.types.is_string(keys.schema.field("illust_id").type) else "bigint"
        self._execute(
            f"DELETE FROM {self._quoted} t USING unnest(%s::{kind}[], %s::int[]) AS gone (illust_id, page) "
            "WHERE t.illust_id = gone.illust_id AND t.page = gone.page",
            [keys.column(name).to_pylist() for name in KEY],
        )

    def _delete_others(self, after: Key | None, upto: Key | None) -> None:
        """Rows behind ``after`` up to ``upto`` that were not copied."""
        own, bound = self._in_order([key for key in (after, upto) if key])
        bounds = [f"{own} {sign} ({bound}, %s)" for sign, key in ((">", after), ("<=", upto)) if key]
        missing = (
            f"NOT EXISTS (SELECT 1 FROM pg_temp.{_INCOMING} i "
            "WHERE i.illust_id = t.illust_id AND i.page = t.page)"
        )
        self._execute(
            f"DELETE FROM {self._quoted} t WHERE {' AND '.join([*bounds, missing])}",
            [part for key in (after, upto) if key for part in key],
        )

    def _in_order(self, keys: list[Key]) -> tuple[str, str]:
        """A row's key, and the id of another one, as SQL that compares them in the order of what is sent:
        text by its bytes in UTF-8."""
        if not any(isinstance(key[0], str) for key in keys):
            return "(t.illust_id, t.page)", "%s"
        if self._session.connection.info.parameter_status("server_encoding") in _ORDERED_AS_UTF8:
            return '(t.illust_id COLLATE "C", t.page)', "%s"
        return "(convert_to(t.illust_id, 'UTF8'), t.page)", "convert_to(%s::text, 'UTF8')"

    def finish(self) -> None:
        """As ``Target``: the planner learns what is in the table."""
        self._transact(lambda _: self._execute(f"ANALYZE {self._quoted}"))
