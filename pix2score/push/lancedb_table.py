"""A table of a LanceDB folder.

Each chunk is one merge of rows, then one delete of keys, then the position: its row in the table
``pix2score_push`` beside it. A push that was killed between them writes that chunk again, which changes
nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pix2score.catalog.keys import KEY
from pix2score.cli.packages import need
from pix2score.errors import ConflictError, TargetError
from pix2score.push.config import OWN_TABLES
from pix2score.push.position import Position, as_unknown, columns_of, position_from_json
from pix2score.push.rows import EMBEDDING, Chunk
from pix2score.push.sql import in_range, key_groups
from pix2score.push.target import check_fits, of_others, overtaken, without_secrets
from pix2score.storage.quoting import literal
from pix2score.storage.rust_options import storage_options

logger = logging.getLogger(__name__)
BATCH_ROWS = 65_536
POSITIONS = OWN_TABLES[0]
_IS_KEY = {"lance-schema:unenforced-primary-key": "true"}
"""By which LanceDB tells that two merges at one moment insert the same row: one is done again."""
_POSITION = pa.schema(
    [
        pa.field("target", pa.string(), nullable=False, metadata=_IS_KEY),
        pa.field("position", pa.string(), nullable=False),
        pa.field("pushed_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
_MARK = "pix2score:positions"
"""Metadata of the column of embeddings: hashes of the positions that fit the table's rows. They go back with
the rows if a version of the table is restored, which the table of positions knows nothing of."""
_CONFLICT = re.compile(
    r"commit conflict|concurrent (transaction|commit|writer|modification)|already exists", re.IGNORECASE
)
"""In what LanceDB says of two writers at the same moment."""
_TRIES = 20
"""To note that a table is not to be trusted: each is lost to a batch of another push at most."""


class LanceTable:
    """``Target``: one table, and its position in a table beside it."""

    batch_rows = BATCH_ROWS

    def __init__(self, place: str, table: str) -> None:
        need("a push to LanceDB", "lancedb", ["lancedb"])
        import lancedb

        self.name, self._table = f"lancedb:{place} table {table}", table
        self._held: str | None = None
        self._rows: Any = None
        with self._told():
            self._database: Any = lancedb.connect(place, storage_options=storage_options(place) or None)

    def close(self) -> None:
        """As ``Target``."""
        self._database = self._rows = None

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What LanceDB says, as one line: its errors are of Python's own kinds."""
        try:
            yield
        except (RuntimeError, ValueError, OSError, pa.ArrowException) as exc:
            said = without_secrets(str(exc))
            if _CONFLICT.search(said):
                raise ConflictError(
                    f"another one wrote to {self.name} meanwhile: run again ({said})"
                ) from None
            raise TargetError(f"{self.name}: {said}") from None

    def position(self) -> Position | None:
        """As ``Target``."""
        with self._told():
            rows = self._opened(self._table)
            self._held = None if rows is None else self._stored()
        if rows is None or self._held is None:
            return None
        found = position_from_json(self._held, self.name)
        if _fits(rows, self._held):
            return found
        logger.warning(
            "%s is not as the last push left it: an earlier version was restored; all rows are sent",
            self.name,
        )
        return as_unknown(found)

    def _opened(self, name: str) -> Any:
        try:
            return self._database.open_table(name)
        except ValueError as exc:
            if "was not found" in str(exc):
                return None
            raise

    def _stored(self) -> str | None:
        positions = self._opened(POSITIONS)
        if positions is None:
            return None
        rows = positions.search().where(f"target = {literal(self._table)}").limit(1).to_arrow()
        return rows.column("position")[0].as_py() if rows.num_rows else None

    def prepare(self, schema: pa.Schema, position: Position, recreate: bool) -> None:
        """As ``Target``."""
        with self._told():
            if recreate:
                self._database.drop_table(self._table, ignore_missing=True)
            found = self._opened(self._table)
            if found is None and self._held is not None:  # dropped since its position was asked for
                raise overtaken(self.name)
            if found is None:
                self._forget()
                marked = _marked(schema, position.to_json())
                self._rows = self._database.create_table(self._table, schema=marked)
            else:
                check_fits(self.name, columns_of(schema), columns_of(found.schema))
                self._rows = found
            if self._held is None:
                if self._rows.count_rows():
                    raise of_others(self.name)
                self._mark(position)
                self._keep(position)

    def _forget(self) -> None:
        """No position, so that an empty table has none when it is made."""
        positions, self._held = self._opened(POSITIONS), None
        if positions is not None:
            positions.delete(f"target = {literal(self._table)}")

    def write(self, chunk: Chunk, position: Position) -> None:
        """As ``Target``. Of two pushes at the same moment one may still write a chunk before it is told: if
        the other one is at another snapshot by then, the next push compares all rows."""
        with self._told():
            if self._stored() != self._held:
                raise overtaken(self.name)
            try:
                with self._told():  # a conflict of LanceDB's own is one too
                    self._bring(chunk)
                    self._mark(position)
                    self._keep(position)
            except ConflictError:
                self._distrust(position)
                raise

    def _bring(self, chunk: Chunk) -> None:
        others = in_range(chunk.after, chunk.upto) if chunk.is_whole else None
        if chunk.rows.num_rows:
            merge = self._rows.merge_insert(list(KEY))
            merge = merge.when_matched_update_all().when_not_matched_insert_all()
            if others:
                merge = merge.when_not_matched_by_source_delete(others)
            merge.execute(chunk.rows)
            if others and self._rows.count_rows(others) != chunk.rows.num_rows:  # others wrote a key twice
                self._rows.delete(others)
                self._rows.add(chunk.rows)
        elif others:
            self._rows.delete(others)
        for condition in key_groups(chunk.deleted):
            self._rows.delete(condition)

    def _mark(self, position: Position) -> None:
        """Note in the table itself that its rows fit the position that is known, and ``position``."""
        marks = ",".join(_hash(text) for text in (self._held, position.to_json()) if text)
        self._rows.update_field_metadata({"path": EMBEDDING, "metadata": {_MARK: marks}})

    def _distrust(self, position: Position) -> None:
        """Have all rows compared by the next push, if rows of another snapshot than the one that the table is
        brought to have just been written to it."""
        for _ in range(_TRIES):
            self._held = self._stored()
            found = position_from_json(self._held, self.name) if self._held else None
            if not found or found.manifest == position.manifest:
                return
            with contextlib.suppress(ConflictError), self._told():  # the other one is further by now
                self._keep(as_unknown(found))
                return
        logger.warning("%s: others keep writing to it: push again with --full", self.name)

    def _keep(self, position: Position) -> None:
        """Note ``position`` in the place of the one that is known, and of no other."""
        text = position.to_json()
        row = pa.table(
            {"target": [self._table], "position": [text], "pushed_at": [datetime.now(UTC)]}, schema=_POSITION
        )
        positions = self._opened(POSITIONS)
        if positions is None:
            positions = self._database.create_table(POSITIONS, schema=_POSITION, exist_ok=True)
        known = f"target.position = {literal(self._held)}" if self._held else "false"
        merge = positions.merge_insert("target").when_matched_update_all(where=known)
        done = merge.when_not_matched_insert_all().execute(row)
        if not done.num_updated_rows + done.num_inserted_rows:
            raise overtaken(self.name)
        self._held = text

    def finish(self) -> None:
        """As ``Target``: small files become large ones, indexes take up what is new; versions of the last
        seven days stay."""
        with self._told():
            self._rows.optimize()
            self._opened(POSITIONS).optimize()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _marked(schema: pa.Schema, text: str) -> pa.Schema:
    """Columns of a new table that is at a position, the key among them marked as such."""
    notes = {**dict.fromkeys(KEY, _IS_KEY), EMBEDDING: {_MARK: _hash(text)}}
    return pa.schema([field.with_metadata(notes.get(field.name)) for field in schema])


def _fits(rows: Any, text: str) -> bool:
    """Whether a table's rows are those of a position; taken to be so if no push noted it there."""
    marks = (
        (rows.schema.field(EMBEDDING).metadata or {}).get(_MARK.encode())
        if EMBEDDING in rows.schema.names
        else None
    )
    return marks is None or _hash(text) in marks.decode().split(",")
