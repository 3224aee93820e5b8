"""The catalog that is written: one Parquet file or a folder of them, what it held before, and its rows anew.

Owns ``MADE_BY``, the mark in the Parquet metadata of files that ``jobs.catalog`` wrote and may write anew: a
catalog of other making is never touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.catalog.guards import BEING_WRITTEN
from pix2score.catalog.keys import KEY
from pix2score.errors import ConfigError, DataError
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet, parquet_batches, repeating
from pix2score.storage.quoting import identifier
from pix2score.storage.sql import load, one_row, query, side_by_side

MADE_BY = b"pix2score.catalog"
ID = KEY[0]
PART_ROWS = 2**20
MAX_FILE_ROWS = 16 * 2**20
"""Of one file, which is made in memory: about 1 GiB."""
GROUP_ROWS = 2**17


@dataclass(frozen=True, slots=True)
class Out:
    """Where the catalog goes."""

    folder: Folder
    name: str | None
    """Of the one file; None for a folder of parts."""

    @classmethod
    def at(cls, place: str) -> Out:
        """A file if the place ends in .parquet and is no folder."""
        whole = Folder(place)
        if whole.name.endswith(".parquet"):
            return cls(whole.parent, whole.name)
        return cls(whole, None)

    @property
    def place(self) -> str:
        """For messages and ``--catalog``."""
        return self.folder.full(self.name or "")

    @property
    def summary_path(self) -> str:
        """Of the summary: beside the file, or in the folder."""
        return f"{self.name.removesuffix('.parquet')}.summary.json" if self.name else "summary.json"

    def files(self) -> list[str]:
        """Paths of the Parquet files that are there."""
        if self.name:
            return [self.name] if self.folder.is_file(self.name) else []
        return [entry.path for entry in self.folder.top_entries(suffix=".parquet")]

    def is_half_written(self) -> bool:
        """Whether a run died while it wrote the parts."""
        return self.name is None and self.folder.is_file(BEING_WRITTEN)


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of the catalog beside those that it had before."""

    pictures: int
    new: int
    changed: int
    """With another fingerprint."""
    updated: int
    """With the same fingerprint and something else, such as a label."""
    removed: int

    @property
    def unchanged(self) -> int:
        """The rest."""
        return self.pictures - self.new - self.changed - self.updated

    @property
    def is_any(self) -> bool:
        """Whether anything differs."""
        return bool(self.new or self.changed or self.updated or self.removed)


def load_earlier(
    connection: duckdb.DuckDBPyConnection, out: Out, images: str, names: Sequence[str] = (), *, archives: bool
) -> pa.Schema | None:
    """Make table ``earlier`` of the rows that are there, all columns or ``names``; return its schema, None
    (and no table) if there is no catalog.

    Raises ``DataError`` if another hand made it, or this one of another place, or ``archives`` were (or were
    not) read for it.
    """
    files = out.files()

    def check(path: str) -> None:
        with open_parquet(out.folder, path) as file:
            _check_own(out.folder.full(path), file.schema_arrow, images, archives=archives)

    for _ in side_by_side(check, files):
        pass
    return load_rows(connection, "earlier", out.folder, files, names)


def load_rows(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    folder: Folder,
    files: Sequence[str],
    names: Sequence[str] = (),
) -> pa.Schema | None:
    """Make ``table`` of the rows of Parquet files of one schema, all columns or ``names``; return that, None
    (and no table) without a file.

    Raises ``DataError`` where ids of two files have different types.
    """
    if not files:
        return None
    with open_parquet(folder, files[0]) as file:
        schema = file.schema_arrow.remove_metadata()
    schema = pa.schema([schema.field(name) for name in names]) if names else schema

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in parquet_batches(folder, files, schema.names):
            if not batch.schema.field(ID).type.equals(schema.field(ID).type):
                raise DataError(
                    f"ids are {schema.field(ID).type} in one part of {folder.uri} and "
                    f"{batch.schema.field(ID).type} in another; give another --out"
                )
            yield batch.select(schema.names).cast(schema)

    load(connection, table, schema, batches())
    return schema


def _check_own(place: str, schema: pa.Schema, images: str, *, archives: bool) -> None:
    mark = (schema.metadata or {}).get(MADE_BY)
    if mark is None:
        raise DataError(f"{place} was not made by jobs.catalog and is left alone; give another --out")
    before = json.loads(mark)
    if before["images"] != images:
        raise DataError(
            f"{place} lists {before['images']}, not {images}: all its rows would go; give another --out, or "
            "remove it if that is meant"
        )
    if before["archives"] != archives:
        what = ("files", "pictures inside archives")
        raise DataError(
            f"{place} lists {what[not archives]}, not {what[archives]}: the catalogs with and without "
            "--archives want an --out each"
        )


def marked(schema: pa.Schema, images: str, *, archives: bool) -> pa.Schema:
    """A schema that says who made the file, of what."""
    mark = json.dumps({"images": images, "archives": archives})
    return schema.with_metadata({MADE_BY: mark.encode()})


def count_changes(
    connection: duckdb.DuckDBPyConnection, schema: pa.Schema, earlier: pa.Schema | None
) -> Counts:
    """Compare tables ``made`` and ``earlier``, which has the columns of ``schema`` as far as they are in
    both."""
    (pictures,) = one_row(connection, "SELECT count(*) FROM made")
    if earlier is None:
        return Counts(pictures, pictures, 0, 0, 0)
    others = [name for name in schema.names if name in earlier.names and name not in KEY]
    same = " AND ".join(_same_sql(name, schema, earlier) for name in others)
    both, content = (
        "m.page IS NOT NULL AND e.page IS NOT NULL",
        "m.fingerprint IS DISTINCT FROM e.fingerprint",
    )
    new, changed, updated, removed = one_row(
        connection,
        "SELECT count(*) FILTER (e.page IS NULL), "
        f"count(*) FILTER ({both} AND {content}), "
        f"count(*) FILTER ({both} AND NOT {content} AND NOT ({same})), "
        "count(*) FILTER (m.page IS NULL) "
        "FROM made m FULL JOIN (SELECT DISTINCT ON (illust_id, page) * FROM earlier) e "
        "ON m.illust_id = e.illust_id AND m.page = e.page",
    )
    return Counts(pictures, new, changed, updated, removed)


def _same_sql(name: str, schema: pa.Schema, earlier: pa.Schema) -> str:
    """SQL: whether a column is as before; by its text where it has another type now."""
    is_alike = schema.field(name).type.equals(earlier.field(name).type)
    cast = "" if is_alike else "::VARCHAR"
    now, before = (f"{table}.{identifier(name)}{cast}" for table in ("m", "e"))
    return f"{now} IS NOT DISTINCT FROM {before}"


def write_rows(connection: duckdb.DuckDBPyConnection, out: Out, schema: pa.Schema) -> None:
    """Publish table ``made`` in order of its keys, in place of what was there.

    One file is replaced at once. While the parts of a folder are replaced ``BEING_WRITTEN`` stands beside
    them, which readers refuse.
    """
    sql = "SELECT * FROM made ORDER BY illust_id, page"
    if out.name:
        data = _file_bytes(query(connection, sql, schema, GROUP_ROWS), schema)
        out.folder.publish(out.name, data, replace=True)
        return
    before = set(out.files())
    out.folder.publish(BEING_WRITTEN, b"", replace=True)
    for number, table in enumerate(query(connection, sql, schema, PART_ROWS)):
        path = f"part-{number:05}.parquet"
        out.folder.publish(path, _file_bytes([table], schema), replace=True)
        before.discard(path)
    out.folder.delete(sorted(before))
    out.folder.delete([BEING_WRITTEN])


def check_room(out: Out, num_rows: int) -> None:
    """Raise ``ConfigError`` if so many rows are too many for one file."""
    if out.name and num_rows > MAX_FILE_ROWS:
        raise ConfigError(
            f"{num_rows} pictures are too many for one file ({MAX_FILE_ROWS}); give a folder as --out: "
            f"{out.place.removesuffix('.parquet')}"
        )


def _file_bytes(tables: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=repeating(schema)) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=GROUP_ROWS)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
