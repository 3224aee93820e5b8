"""Keys that had left the catalog and are back: their rows were kept, their embeddings are where they were.

A catalog that is read while it is written lacks some of its keys for one night. That night they leave the
scores, as they must; the next night they come back as they were, and no image is scored again for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from pix2score.catalog.keys import KEY, key_fields
from pix2score.snapshots.damage import broken_files
from pix2score.snapshots.pieces import Origin, Receipt
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import EMBEDDING_RUN, DataFile, Layout, dead_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.sql import load, one_row

KEEP_RUNS = 7
"""Newest runs that removed keys, whose removed rows stay at hand."""


def removed_pieces(live: Snapshot | None, origin: Origin, layout: Layout) -> list[Receipt]:
    """Files of removed rows as pieces that may be resumed, oldest first.

    None for another model or under ``--full``.
    """
    if live is None or origin.full or live.manifest["model_version"] != origin.model_version:
        return []
    return [
        Receipt(
            piece=file.path,
            origin=origin,
            id_type=str(layout.id_type),
            embedding_dtype=layout.embedding_dtype,
            rows=file.rows,
            failed={},
            files=(file,),
        )
        for file in live.files_of("removed")
    ]


def take_back(
    connection: duckdb.DuckDBPyConnection,
    id_type: pa.DataType,
    folder: Folder,
    live: Snapshot | None,
    pieces: Sequence[Receipt],
    first_number: int,
) -> int:
    """Add to table ``resumed`` each new key whose removed row may come back as it was; return how many.

    As ``select_returned`` says. ``pieces`` are numbered from ``first_number``.
    """
    files = [receipt.scores for receipt in pieces]
    if live is None or not files or broken_files(folder, files):
        return 0
    removed, dead = removed_schema(id_type), dead_schema(id_type)
    load(connection, "removed", removed, removed_rows(folder, files, first_number, removed))
    paths = [file.path for file in live.files_of("dead")]
    load(connection, "superseded", dead, parquet_batches(folder, paths, dead.names))
    return select_returned(connection, sorted(live.manifest.get("runs", {})))


def select_returned(connection: duckdb.DuckDBPyConnection, living_runs: Sequence[str]) -> int:
    """Add rows of table ``removed`` to table ``resumed``; return how many.

    That is a key of table ``wanted`` with the fingerprint of its removed row, whose embedding is still in a
    file of the live snapshot, that is of ``living_runs``, and listed as dead in table ``superseded``.
    """
    runs = pa.table({"run": pa.array(living_runs, pa.string())})
    load(connection, "living_runs", runs.schema, iter(runs.to_batches()))
    before = one_row(connection, "SELECT count(*) FROM resumed")[0]
    connection.execute(
        "INSERT INTO resumed "
        "SELECT w.illust_id, w.page, r.run, r.piece, r.number, NULL, false FROM wanted w "
        "JOIN removed r ON w.illust_id = r.illust_id AND w.page = r.page AND w.fingerprint = r.fingerprint "
        "SEMI JOIN superseded s ON r.illust_id = s.illust_id AND r.page = s.page AND r.run = s.run "
        "SEMI JOIN living_runs l ON r.run = l.run "
        "ANTI JOIN resumed t ON w.illust_id = t.illust_id AND w.page = t.page "
        "WHERE w.reason IN ('new', 'waiting') "
        "QUALIFY row_number() OVER (PARTITION BY w.illust_id, w.page ORDER BY r.number DESC) = 1"
    )
    return int(one_row(connection, "SELECT count(*) FROM resumed")[0] - before)


def removed_schema(id_type: pa.DataType) -> pa.Schema:
    """Key, fingerprint, run of the embedding, and the file of a removed row as ``piece`` and ``number``."""
    facts = [
        ("fingerprint", pa.string()),
        ("run", pa.string()),
        ("piece", pa.string()),
        ("number", pa.int32()),
    ]
    return pa.schema([*(f.with_nullable(True) for f in key_fields(id_type)), *facts])


def removed_rows(
    folder: Folder, files: Sequence[DataFile], first_number: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Rows of files of removed rows, which are numbered from ``first_number``."""
    for number, file in enumerate(files, first_number):
        names = [*KEY, "fingerprint", EMBEDDING_RUN if file.version > 1 else "run"]
        for batch in parquet_batches(folder, [file.path], names):
            named = [
                pa.repeat(pa.scalar(file.path), batch.num_rows),
                pa.repeat(pa.scalar(number, pa.int32()), batch.num_rows),
            ]
            yield pa.record_batch([*batch.select(names).columns, *named], schema=schema)


def kept_removed(
    live: Snapshot | None, merged: Sequence[DataFile], run: str
) -> tuple[list[DataFile], list[str]]:
    """Files of removed rows that the next snapshot names, and the runs that wrote them, newest last."""
    before = live.manifest.get("removed_runs", []) if live else []
    runs = [*before, *([run] if any(file.table == "removed" for file in merged) else [])][-KEEP_RUNS:]
    files = [
        *(live.files_of("removed") if live else []),
        *(file for file in merged if file.table == "removed"),
    ]
    return [file for file in files if file.run in runs], runs
