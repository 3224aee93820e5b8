"""A Delta table.

Each chunk is one commit: a merge that inserts, updates and deletes, with the position among the commit's
properties. The transaction id of the format (``txn``) makes of two pushes at the same moment one fail.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pix2score.catalog.keys import KEY
from pix2score.cli.packages import need
from pix2score.errors import ConfigError, ConflictError, TargetError
from pix2score.push.delta_log import is_ours, last_push
from pix2score.push.position import Position, as_unknown, position_from_json
from pix2score.push.rows import CHANGE, Chunk
from pix2score.push.sql import in_range, value_sql
from pix2score.push.target import APPLICATION, check_fits, of_others, overtaken, without_secrets
from pix2score.storage.quoting import identifier
from pix2score.storage.rust_options import storage_options

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable, Schema

logger = logging.getLogger(__name__)
BATCH_ROWS = 65_536
_WIDER = {
    "halffloat": pa.float32(),
    "uint8": pa.int16(),
    "uint16": pa.int32(),
    "uint32": pa.int64(),
    "uint64": pa.decimal128(20, 0),
}
"""Arrow's types that Delta does not have, and those that hold their values."""


class DeltaTarget:
    """``Target``: the table at a place, and its position in its log."""

    batch_rows = BATCH_ROWS

    def __init__(self, place: str) -> None:
        need("a push to a Delta table", "delta", ["deltalake"])
        self.name, self._place = f"delta:{place}", place
        self._options = storage_options(place)
        self._held: str | None = None
        self._schema = pa.schema([])

    def close(self) -> None:
        """As ``Target``. Nothing is held open."""

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the library says, as one line."""
        from deltalake.exceptions import CommitFailedError, DeltaError

        try:
            yield
        except CommitFailedError as exc:
            said = without_secrets(str(exc))
            raise ConflictError(f"another one wrote to {self.name} meanwhile: run again ({said})") from None
        except (DeltaError, OSError, ValueError, pa.ArrowException) as exc:
            said = without_secrets(str(exc))
            if "already exists" in said:
                raise overtaken(self.name) from None
            raise TargetError(f"{self.name}: {said}") from None

    def position(self) -> Position | None:
        """As ``Target``."""
        with self._told():
            table = self._opened()
            if table is None:
                return None
            found = last_push(table)
            self._held = found.position
            is_lost = self._held is None and is_ours(table)
        if is_lost:
            logger.warning("the log of %s does not go back to the last push: all rows are sent", self.name)
        if self._held is None:
            return None
        position = position_from_json(self._held, self.name)
        if found.is_gone:
            logger.warning("%s: %s since the last push: all rows are sent", self.name, found.is_gone)
            return as_unknown(position)
        if found.others:
            logger.warning(
                "%s: others wrote to it since the last push (%s): --full compares all rows", self.name,
                ", ".join(sorted(found.others)),
            )  # fmt: skip
        return position

    def _opened(self) -> DeltaTable | None:
        from deltalake import DeltaTable

        options = self._options or None
        if not DeltaTable.is_deltatable(self._place, options):
            return None
        return DeltaTable(self._place, storage_options=options)

    def prepare(self, schema: pa.Schema, position: Position, recreate: bool) -> None:
        """As ``Target``. The files of a table that is made anew stay until it is vacuumed."""
        from deltalake import DeltaTable, Schema

        self._schema = pa.schema([_held_by_delta(field) for field in schema])
        wanted = Schema.from_arrow(self._schema)
        with self._told():
            table = self._opened()
            if table is None and self._held is not None:  # gone since its position was asked for
                raise overtaken(self.name)
            if table is None or recreate:
                self._held = position.to_json()
                DeltaTable.create(
                    self._place,
                    wanted,
                    mode="overwrite" if recreate else "error",
                    name=APPLICATION,
                    storage_options=self._options or None,
                    commit_properties=_properties(position),
                )
                return
            check_fits(self.name, _types(wanted), _types(table.schema()))
            if self._held is None:
                if not is_ours(table) and table.count():
                    raise of_others(self.name)
                self._note(table, position)

    def write(self, chunk: Chunk, position: Position) -> None:
        """As ``Target``."""
        with self._told():
            table = self._opened()
            if table is None or last_push(table).position != self._held:
                raise overtaken(self.name)
            version = table.version()
            if chunk.is_whole:
                self._replace(table, chunk, position)
            else:
                self._merge(table, chunk, position)
            if table.version() == version:  # nothing changed: a merge makes no commit of that
                self._note(table, position)
            self._held = position.to_json()

    def _merge(self, table: DeltaTable, chunk: Chunk, position: Position) -> None:
        source = _source(chunk, self._schema)
        values = {identifier(name): f"s.{identifier(name)}" for name in self._schema.names}
        same = " AND ".join(f"t.{name} = s.{name}" for name in KEY)
        merge = table.merge(
            source,
            f"{same}{_bounds(source)}",
            source_alias="s",
            target_alias="t",
            commit_properties=_properties(position),
        )
        merge = merge.when_matched_delete(f"s.{CHANGE}")
        merge = merge.when_matched_update(values, f"NOT s.{CHANGE}")
        merge = merge.when_not_matched_insert(values, f"NOT s.{CHANGE}")
        merge.execute()

    def _replace(self, table: DeltaTable, chunk: Chunk, position: Position) -> None:
        """Rows of a chunk instead of all that are between its keys: a merge would leave a key twice that
        others wrote twice."""
        from deltalake import write_deltalake

        write_deltalake(
            table,
            _rows(chunk, self._schema),
            mode="overwrite",
            predicate=in_range(chunk.after, chunk.upto) if chunk.after or chunk.upto else None,
            commit_properties=_properties(position),
        )

    def _note(self, table: DeltaTable, position: Position) -> None:
        """A commit without rows, for the position alone."""
        from deltalake import write_deltalake

        write_deltalake(
            table, self._schema.empty_table(), mode="append", commit_properties=_properties(position)
        )
        self._held = position.to_json()

    def finish(self) -> None:
        """As ``Target``: nothing. Compaction and vacuum are the table's owner's."""


def _properties(position: Position) -> CommitProperties:
    from deltalake import CommitProperties, Transaction

    return CommitProperties(
        custom_metadata={APPLICATION: position.to_json()},
        app_transactions=[Transaction(APPLICATION, position.snapshot)],
    )


def _types(schema: Schema) -> dict[str, str]:
    """Name -> type of the columns of a Delta table."""
    fields: list[Mapping[str, Any]] = json.loads(schema.to_json())["fields"]
    return {field["name"]: _type_name(field["type"]) for field in fields}


def _type_name(kind: Any) -> str:
    if isinstance(kind, Mapping) and kind.get("type") == "array":
        return f"array<{_type_name(kind['elementType'])}>"
    return kind if isinstance(kind, str) else json.dumps(kind, sort_keys=True)


def _held_by_delta(field: pa.Field) -> pa.Field:
    """The column that holds its values in a Delta table. Raises ``ConfigError`` if it has no such type."""
    from deltalake import Schema

    held = field.with_type(_delta_type(field.type))
    try:
        Schema.from_arrow(pa.schema([held]))
    except Exception as exc:  # the library raises the base class itself, with a stack trace
        said = without_secrets(str(exc).partition("\n")[0])
        raise ConfigError(f"column {field.name} is {field.type}: do not carry it to Delta ({said})") from None
    return held


def _delta_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_delta_type(kind.value_type))
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return _WIDER.get(str(kind), kind)


def _rows(chunk: Chunk, schema: pa.Schema) -> pa.Table:
    """Rows of a chunk as the table has them; of nanoseconds the microseconds."""
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    columns = [
        column.cast(field.type, safe="timestamp" not in str(field.type))
        for column, field in zip(chunk.rows.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=nullable)


def _source(chunk: Chunk, schema: pa.Schema) -> pa.Table:
    """Rows of a chunk and keys to be deleted, told apart by a last column."""
    rows = _rows(chunk, schema)
    deleted = [
        chunk.deleted.column(field.name)
        if field.name in KEY
        else pa.nulls(chunk.deleted.num_rows, field.type)
        for field in rows.schema
    ]
    both = pa.concat_tables([rows, pa.Table.from_arrays(deleted, schema=rows.schema)])
    marks = pa.array([False] * rows.num_rows + [True] * chunk.deleted.num_rows, pa.bool_())
    return both.append_column(CHANGE, marks)


def _bounds(source: pa.Table) -> str:
    """Ids between which the source's are: files of others need not be read."""
    if not source.num_rows:
        return ""
    import pyarrow.compute as pc

    found = pc.min_max(source.column("illust_id")).as_py()
    return f" AND t.illust_id >= {value_sql(found['min'])} AND t.illust_id <= {value_sql(found['max'])}"
