"""Tags from the texts beside the pictures, of which a later run reads only those that are new or changed.

    .catalog.texts-00000, …    beside catalog.parquet; of a catalog that is a folder .texts-00000, … in it

Kept there is what was read, by path and by what the listing told of the text. It holds whatever becomes of
the catalog, whose rows may be edited and whose column renamed; and a text that was written anew with the same
words makes no row another one. Written last; without it, or without a catalog, every text is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import duckdb
import pyarrow as pa

from pix2score.catalog.pictures.out import Out
from pix2score.errors import DataError, StorageError
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet, parquet_bytes
from pix2score.storage.sql import load, one_row, query, side_by_side

logger = logging.getLogger(__name__)
TEXTS_AT_ONCE = 1_024
MAX_TEXT_BYTES = 2**20
FORMAT = 1
"""Of what is kept: raised when the same text would give other tags."""
PART_ROWS = 2**18
SETTLED_S = 10
"""A file that changed so shortly before the listing may change once more and look the same: file systems tell
times by steps of up to 2 s, clocks of servers differ."""
_MADE_OF = b"pix2score.texts"
_SCHEMA = pa.schema(
    [
        pa.field("text_path", pa.string()),
        pa.field("facts", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
    ]
)
"""``facts``: the text has these tags as long as the listing tells the same; null: it cannot be known."""
_FACTS = "concat_ws('/', size, tag, epoch_us(modified), epoch_us(changed), inode)"


@dataclass(slots=True)
class Texts:
    """The texts of one run."""

    connection: duckdb.DuckDBPyConnection
    images: Folder
    out: Out
    began: datetime
    """Before the listing."""
    counts: dict[str, int] = field(default_factory=lambda: {"read": 0, "kept": 0})
    """How many were read, and of how many the tags are those of an earlier run."""
    _is_new: bool = False
    """Whether what is known differs from what was kept."""

    def find(self, *, is_first: bool) -> None:
        """Make table ``beside``, which text each of ``pictures`` has (``of``, ``text_path``), and table
        ``texts`` of their tags; of a first run every text is read."""
        self._find_beside()
        num_kept = 0 if is_first else self._load_kept()
        if not num_kept:
            self.connection.execute("DROP TABLE IF EXISTS texts")
            load(self.connection, "texts", _SCHEMA, [])
        (known,) = one_row(self.connection, "SELECT count(*) FROM texts")
        load(self.connection, "fresh", _SCHEMA, self._read())
        (read, told) = one_row(self.connection, "SELECT count(*), count(facts) FROM fresh")
        self.connection.execute("INSERT INTO texts FROM fresh")
        self.connection.execute("DROP TABLE fresh")
        self.counts = {"read": read, "kept": known}
        self._is_new = bool(told or num_kept > known)
        logger.info("texts: %d read, %d as an earlier run read them", read, known)

    def keep(self) -> None:
        """Write what is known for the next run, unless it is there. What cannot be written is read again."""
        if not self._is_new:
            return
        mark = {_MADE_OF: json.dumps({**self._mark, "run": uuid.uuid4().hex}).encode()}
        sql = "SELECT * FROM texts WHERE facts IS NOT NULL ORDER BY text_path"
        try:
            number = -1
            for number, rows in enumerate(query(self.connection, sql, _SCHEMA, PART_ROWS)):
                data = parquet_bytes(rows.replace_schema_metadata(mark))
                self.out.folder.publish(self._path(number), data, replace=True)
            self.out.folder.delete(list(self._parts(number + 1)))
        except (DataError, StorageError) as exc:
            logger.warning("the next run reads all texts, as their tags cannot be kept: %s", exc)

    @property
    def _mark(self) -> dict[str, str | int]:
        return {"images": self.images.uri, "format": FORMAT}

    def _path(self, number: int) -> str:
        stem = f".{self.out.name.removesuffix('.parquet')}" if self.out.name else ""
        return f"{stem}.texts-{number:05}"

    def _parts(self, first: int = 0) -> Iterator[str]:
        while self.out.folder.is_file(self._path(first)):
            yield self._path(first)
            first += 1

    def _find_beside(self) -> None:
        stem = r"regexp_replace(path, '([^/])\.[^./\\\s]{1,12}$', '\1')"
        latest_us = int((self.began.timestamp() - SETTLED_S) * 1e6)
        self.connection.execute(
            "CREATE TABLE beside AS SELECT path AS of, text_path, tag, facts FROM ("
            f"SELECT path, {stem} || '.txt' AS text_path FROM pictures UNION "
            "SELECT path, path || '.txt' FROM pictures) JOIN (SELECT path AS text_path, tag, "
            f"CASE WHEN epoch_us(greatest(modified, changed)) < {latest_us} THEN {_FACTS} END AS facts "
            "FROM listed WHERE reason = 'text beside pictures' AND suffix = 'txt' AND uri IS NULL AND size "
            f"<= {MAX_TEXT_BYTES}) USING (text_path) "
            "QUALIFY row_number() OVER (PARTITION BY path ORDER BY text_path DESC) = 1"
        )

    def _load_kept(self) -> int:
        """Make table ``texts`` of what was kept of texts that did not change; return how many texts were
        kept, 0 (and perhaps no table) where nothing can be used."""
        number = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal number
            for batch in self._kept():
                number += batch.num_rows
                yield batch

        sql = (
            "SELECT k.* FROM incoming k JOIN (SELECT DISTINCT text_path, tag, facts FROM beside) b "
            "ON k.text_path = b.text_path AND (k.facts = b.facts OR k.facts = b.tag)"
        )
        try:
            load(self.connection, "texts", _SCHEMA, batches(), sql)
        except (DataError, FileNotFoundError) as exc:
            logger.warning("all texts are read, as what an earlier run kept of them is unreadable: %s", exc)
            return 0
        return number

    def _kept(self) -> Iterator[pa.RecordBatch]:
        """The parts of one run, as far as they are of this place and format."""
        run = None
        for path in self._parts():
            with open_parquet(self.out.folder, path) as file:
                mark = json.loads((file.schema_arrow.metadata or {}).get(_MADE_OF, b"{}"))
                run = run or mark.get("run")
                if mark != {**self._mark, "run": run}:
                    return
                yield from (batch.cast(_SCHEMA) for batch in file.iter_batches())

    def _read(self) -> Iterator[pa.RecordBatch]:
        texts = self.connection.cursor().execute(
            "SELECT DISTINCT text_path, tag, facts FROM beside ANTI JOIN texts USING (text_path) ORDER BY 1"
        )
        chunks = iter(lambda: texts.fetchmany(TEXTS_AT_ONCE), [])
        yield from side_by_side(self._read_some, chunks, num_threads=1)

    def _read_some(self, texts: Sequence[tuple[str, str, str | None]]) -> pa.RecordBatch:
        contents = self.images.read_many([path for path, *_ in texts])
        rows = [
            {"text_path": path, "facts": _told(contents[path], tag, facts), "tags": tags_of(contents[path])}
            for path, tag, facts in texts
            if path in contents
        ]
        return pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)


def _told(data: bytes, tag: str, facts: str | None) -> str | None:
    """What a listing tells as long as a text holds ``data``: a tag that is its MD5 alone, as of most objects,
    written whenever; else all of the facts."""
    return tag if hashlib.md5(data, usedforsecurity=False).hexdigest() == tag else facts


def tags_of(data: bytes) -> list[str]:
    """The tags of a text: separated by commas or line ends, each once, in their order."""
    text = data.decode("utf-8-sig", errors="replace").replace("\r", "\n").replace("\n", ",")
    return [tag for tag in dict.fromkeys(part.strip() for part in text.split(",")) if tag]
