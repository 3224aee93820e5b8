"""Rows that the heads answer tonight, and where the embedding of each is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from pix2score.catalog.keys import KEY, key_fields
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import EMBEDDING_RUN, DataFile
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.sql import load, one_row

FILE, POSITION = "file", "position"
"""Columns of a plan: path of the embedding file in the scores folder, and row in it."""


def stored_schema(id_type: pa.DataType) -> pa.Schema:
    """Rows to answer: what stays of them, and where their embedding is."""
    return pa.schema(
        [
            *key_fields(id_type),
            pa.field("fingerprint", pa.string()),
            pa.field("attempts", pa.int16(), nullable=False),
            pa.field("error_code", pa.string()),
            pa.field("error_detail", pa.string()),
            pa.field(EMBEDDING_RUN, pa.string(), nullable=False),
            pa.field(FILE, pa.string(), nullable=False),
            pa.field(POSITION, pa.int64(), nullable=False),
        ]
    )


def locate(
    connection: duckdb.DuckDBPyConnection, id_type: pa.DataType, folder: Folder, live: Snapshot
) -> int:
    """Make table ``placed`` as ``select_placed`` says; return how many rows it has."""
    files, schema = live.files_of("embeddings"), places_schema(id_type)
    load(connection, "places", schema, place_rows(folder, files, 0, schema))
    return select_placed(connection, files)


def select_placed(connection: duckdb.DuckDBPyConnection, files: Sequence[DataFile]) -> int:
    """Make table ``placed``: rows of ``wanted`` for the heads that are not ``resumed``, with their places.

    Those are of table ``places``, which goes. Returns how many there are. A row whose embedding is in no file
    is not among them. Makes table ``files`` of ``files``.
    """
    numbers = pa.table(
        {
            "number": pa.array(range(len(files)), pa.int32()),
            "run": pa.array([file.run for file in files], pa.string()),
            FILE: pa.array([file.path for file in files], pa.string()),
        }
    )
    load(connection, "files", numbers.schema, iter(numbers.to_batches()))
    connection.execute(
        "CREATE TABLE placed AS SELECT w.illust_id, w.page, "
        "CASE WHEN w.error_code IS NULL THEN w.fingerprint ELSE w.live_fingerprint END AS fingerprint, "
        f"w.attempts, w.error_code, w.error_detail, w.{EMBEDDING_RUN}, p.number, p.{POSITION} FROM wanted w "
        "JOIN places p ON w.illust_id = p.illust_id AND w.page = p.page "
        f"JOIN files f ON p.number = f.number AND w.{EMBEDDING_RUN} = f.run "
        "ANTI JOIN resumed r ON w.illust_id = r.illust_id AND w.page = r.page WHERE w.reason = 'heads' "
        f"QUALIFY row_number() OVER (PARTITION BY w.illust_id, w.page ORDER BY p.number, p.{POSITION}) = 1"
    )
    connection.execute("DROP TABLE places")
    return int(one_row(connection, "SELECT count(*) FROM placed")[0])


PLACED = f"SELECT p.*, f.{FILE} FROM placed p JOIN files f USING (number)"
"""SQL: rows of ``stored_schema``, with the ``number`` of the file."""


def placed_sql() -> str:
    """SQL: rows of ``stored_schema``, file by file as they lie there."""
    return f"{PLACED} ORDER BY number, {POSITION}"


def places_schema(id_type: pa.DataType) -> pa.Schema:
    """Key of an embedding, the number of its file and its row there."""
    place = [pa.field("number", pa.int32()), pa.field(POSITION, pa.int64())]
    return pa.schema([*(f.with_nullable(True) for f in key_fields(id_type)), *place])


def place_rows(
    folder: Folder, files: Sequence[DataFile], first_number: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Every embedding in ``files``, dead ones too; they are numbered from ``first_number``."""
    for number, file in enumerate(files, first_number):
        start = 0
        for batch in parquet_batches(folder, [file.path], list(KEY)):
            stop = start + batch.num_rows
            columns = [
                *batch.columns,
                pa.repeat(pa.scalar(number, pa.int32()), batch.num_rows),
                pa.array(range(start, stop), pa.int64()),
            ]
            yield pa.record_batch(columns, schema=schema)
            start = stop
