"""A catalog that holds the pictures of archives: parts of its own for each archive, made anew only where the
archive is another one.

Copied, as of a gzipped tar no single picture can be read; then readers, fingerprints and labels are those of
any catalog. From moto, 300 pictures of 100 KB, CPU time of reading a picture: all of them 0.2 to 0.3 ms,
beside 0.7 ms for a GET of each; 10 % of them, scattered, 1.7 ms beside 0.8.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.guards import BEING_WRITTEN
from pix2score.catalog.pictures.archive import DamagedArchive, Member, pictures_in
from pix2score.catalog.pictures.found import LOG_EVERY_S, LeftOut
from pix2score.catalog.pictures.ids import key_sql
from pix2score.catalog.pictures.kinds import suffix_of
from pix2score.catalog.pictures.out import Out, marked
from pix2score.catalog.pictures.texts import tags_of
from pix2score.storage.folder import Folder
from pix2score.storage.sql import in_memory

logger = logging.getLogger(__name__)
FORMAT = 2
"""Of the parts: raised when the same archive would give other rows."""
PART_BYTES = 128 * 2**20
GROUP_ROWS, GROUP_BYTES = 1_000, 64 * 2**20
"""Of a row group, which readers read as a whole: rows and bytes at most."""
CLS = "cls"


@dataclass(slots=True)
class Embedding:
    """Archives on their way into a catalog."""

    config: CatalogConfig
    images: Folder
    out: Out
    suffixes: Sequence[str]
    left_out: LeftOut
    damaged: dict[str, str] = field(default_factory=dict)
    """Archive that is left out -> why."""
    written: list[str] = field(default_factory=list)
    """Parts of this run."""

    def prefix(self, path: str, tag: str) -> str:
        """Of the parts of an archive as it is, made as the settings say."""
        config = self.config
        rules = (
            config.id,
            config.id_pattern,
            sorted(self.suffixes),
            config.json_label,
            config.tags_from_text,
        )
        text = json.dumps([FORMAT, self.images.uri, path, tag, rules])
        return f"part-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def settle(
        self, archives: Sequence[tuple[str, str, int]]
    ) -> tuple[list[str], list[tuple[str, str, int]]]:
        """Parts that stay, and the archives that have none yet."""
        there = self.out.files()
        kept, missing = [], []
        for path, tag, size in archives:
            own = [name for name in there if name.startswith(self.prefix(path, tag))]
            if any(name.endswith("-end.parquet") for name in own):
                kept += own
            else:
                missing.append((path, tag, size))
        return kept, missing

    def write(self, archives: Sequence[tuple[str, str, int]]) -> None:
        """Publish the parts of ``archives``; damaged ones are left out as a whole, with a warning."""
        number, logged = 0, time.monotonic()
        for count, (path, tag, size) in enumerate(archives):
            began = len(self.written)
            try:
                found = self._write_one(path, tag, size)
                if not found:
                    self.left_out.add("archive without a picture", 1, f"such as {path}")
                number += found
            except DamagedArchive as exc:
                self.damaged[path] = str(exc)
                self.left_out.add("damaged archive", 1, f"{path}: {exc}")
                logger.warning("%s is damaged and left out: %s; write it anew", self.images.full(path), exc)
                self.out.folder.delete(self.written[began:])
                del self.written[began:]
            if time.monotonic() - logged > LOG_EVERY_S:
                logged = time.monotonic()
                logger.info("%d of %d archives read, %d pictures", count + 1, len(archives), number)

    def _write_one(self, path: str, tag: str, size: int) -> int:
        number, pending = 0, None
        prefix = self.prefix(path, tag)
        for part, table in enumerate(self._tables(path, size)):
            if pending is not None:
                self._publish(f"{prefix}-{part - 1:05}.parquet", pending)
            pending, number = table, number + table.num_rows
            last = part
        if pending is not None:
            self._publish(f"{prefix}-{last:05}-end.parquet", pending)
        return number

    def _publish(self, path: str, table: pa.Table) -> None:
        if not self.written:
            self.out.folder.publish(BEING_WRITTEN, b"", replace=True)
        self.out.folder.publish(path, _part_bytes(table), replace=True)
        self.written.append(path)

    def _tables(self, path: str, size: int) -> Iterator[pa.Table]:
        """The pictures of an archive, as tables of about ``PART_BYTES``."""
        some: list[Member] = []
        num_bytes = 0

        def told(reason: str, name: str) -> None:
            self.left_out.add(reason, 1, f"such as {path}/{name}")

        with self.images.open(path) as stream:
            for member in pictures_in(stream, path, size, self._is_picture, told):
                some.append(member)
                num_bytes += len(member.data)
                if num_bytes >= PART_BYTES:
                    yield self._table(path, some)
                    some, num_bytes = [], 0
        if some:
            yield self._table(path, some)

    def _is_picture(self, name: str) -> bool:
        return suffix_of(name) in self.suffixes

    def _table(self, path: str, members: Sequence[Member]) -> pa.Table:
        names = [f"{path}/{member.name}" for member in members]
        ids, pages = self._keys(names, members)
        images = pa.array([member.data for member in members], pa.binary())
        columns: dict[str, Any] = {
            "illust_id": ids,
            "page": pages,
            "image": images,
            "path": pa.array(names),
            "size": pa.array([len(member.data) for member in members], pa.int64()),
            "fingerprint": pa.array([hashlib.sha256(member.data).hexdigest() for member in members]),
            "modified": pa.array([member.modified for member in members], pa.timestamp("us", "UTC")),
            **self._labels(members),
        }
        table = pa.table(columns)
        has_key = table.column("illust_id").is_valid()
        mark = marked(table.schema, self.images.uri, archives=True).metadata
        return table.filter(has_key).replace_schema_metadata(mark)

    def _keys(self, names: Sequence[str], members: Sequence[Member]) -> tuple[pa.Array, pa.Array]:
        """Ids and pages by the rules of files; null where there is none."""
        identity, page = key_sql(self.config)
        files = [member.name.rpartition("/")[2] for member in members]
        kind = "BIGINT" if self.config.id == "number" and self.config.id_pattern is None else "VARCHAR"
        given = pa.table({"path": names, "file": files, "place": range(len(names))})
        found = in_memory(
            f"SELECT CAST(CASE WHEN id <> '' AND page IS NOT NULL THEN id END AS {kind}) AS id, "
            "CAST(coalesce(page, 0) AS INTEGER) AS page FROM (SELECT place, "
            f"{identity} AS id, CASE WHEN {page} = '' THEN 0 ELSE TRY_CAST({page} AS INTEGER) END AS page "
            "FROM given) ORDER BY place",
            given=given,
        )
        ids = found.column("id").combine_chunks()
        for name in [
            name for name, valid in zip(names, ids.is_valid().to_pylist(), strict=True) if not valid
        ]:
            self.left_out.add("no id in the name", 1, f"such as {name}")
        return ids, found.column("page").combine_chunks()

    def _labels(self, members: Sequence[Member]) -> dict[str, pa.Array]:
        columns = {CLS: _values([_class(member.beside.get("cls")) for member in members])}
        if self.config.tags_from_text is not None:
            texts = [member.beside.get("txt") for member in members]
            tags = [None if text is None else tags_of(text) for text in texts]
            columns[self.config.tags_from_text] = pa.array(tags, pa.list_(pa.string()))
        notes = [_object(member.beside.get("json")) for member in members] if self.config.json_label else []
        for name in self.config.json_label:
            columns[name] = _values([note.get(name) for note in notes])
        return columns


def _class(content: bytes | None) -> int | str | None:
    """A class of WebDataset: a number in digits, or a name."""
    if content is None:
        return None
    text = content.decode("utf-8", errors="replace").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else text


def _object(content: bytes | None) -> dict[str, Any]:
    """The JSON beside a picture; empty for anything that is no object."""
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _values(values: Sequence[Any]) -> pa.Array:
    """A column in the type of its values; as text where they have several, or are nested."""
    try:
        array = pa.array(values)
        is_plain = not pa.types.is_nested(array.type) or array.type == pa.list_(pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        is_plain = False
    if is_plain:
        return array
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    return pa.array([None if text is None else text.encode(errors="replace").decode() for text in texts])


def _part_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    plain = [name for name in table.column_names if name != "image"]
    compression = dict.fromkeys(plain, "zstd") | {"image": "none"}
    with pq.ParquetWriter(
        sink, table.schema, compression=compression, use_dictionary=False, write_statistics=plain
    ) as writer:
        for start, stop in _groups(table.column("size").to_pylist()):
            writer.write_table(table.slice(start, stop - start))
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _groups(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of rows for row groups."""
    start = held = 0
    for position, size in enumerate(sizes):
        if position > start and (held + size > GROUP_BYTES or position - start >= GROUP_ROWS):
            yield start, position
            start, held = position, 0
        held += size
    yield start, len(sizes)
