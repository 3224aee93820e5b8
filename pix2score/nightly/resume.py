"""What a night resumes from the staged pieces of earlier runs: the winner of each key, and what is unfit.

Whatever is below ``staged/``, a night goes on as if what is unfit were not there: it is left out with a
warning, and scored again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import key_fields
from pix2score.errors import RETRIED_ERROR_CODES, DataError
from pix2score.nightly.formats import is_read_now_sql
from pix2score.snapshots.pieces import Origin, Receipt, fitting, staged_receipts, standing
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import (
    EMBEDDING_RUN,
    OK,
    DataFile,
    Layout,
    checked_bytes,
    dead_schema,
    scores_rows,
)
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.sql import load, one_row

logger = logging.getLogger(__name__)
RETRIED = ", ".join(f"'{code}'" for code in RETRIED_ERROR_CODES)
"""In SQL."""


def offered(
    folder: Folder, origin: Origin, layout: Layout, live: Snapshot | None
) -> tuple[list[Receipt], list[Receipt]]:
    """Pieces whose rows a run of ``origin`` may publish, oldest run first; and those already published."""
    unpublished, already_published = by_use(staged_receipts(folder), live)
    return standing(
        folder, fitting(unpublished, origin, layout, live.same_scores if live else ())
    ), already_published


def by_use(receipts: Sequence[Receipt], live: Snapshot | None) -> tuple[list[Receipt], list[Receipt]]:
    """Pieces that no snapshot has published, and those that one has.

    Of the latter, resumed again, an image would have two embeddings, or a dead one.
    """
    if live is None:
        return list(receipts), []
    consumed, run = {*live.consumed}, live.manifest["run"]
    is_published = [r.path in consumed or r.origin.run == run for r in receipts]
    unpublished = [r for r, is_used in zip(receipts, is_published, strict=True) if not is_used]
    return unpublished, [r for r, is_used in zip(receipts, is_published, strict=True) if is_used]


def create_resumed(
    connection: duckdb.DuckDBPyConnection,
    id_type: pa.DataType,
    folder: Folder,
    receipts: Sequence[Receipt],
    layout: Layout,
    live: Snapshot | None,
    retry_failed: bool,
) -> int:
    """Make table ``resumed``, keys of table ``wanted`` that a staged piece answers; return how many.

    As ``select_resumed`` says.
    """
    schema, dead = staged_schema(id_type), dead_schema(id_type)
    load(connection, "staged", schema, staged_rows(folder, receipts, layout, schema))
    runs = {receipt.origin.run for receipt in receipts}
    load(connection, "published", dead, _published(folder, live, runs, dead))
    doubtful = doubtful_pieces(connection)
    warn_of_doubtful(folder, receipts, doubtful)
    return select_resumed(connection, [r.scores.path for r in receipts], doubtful, retry_failed)


def staged_schema(id_type: pa.DataType) -> pa.Schema:
    """Columns of table ``staged``: rows of pieces, and the ``number`` of the piece."""
    facts = [
        ("fingerprint", pa.string()),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("run", pa.string()),
        (EMBEDDING_RUN, pa.string()),
        ("number", pa.int32()),
    ]
    return pa.schema([*(f.with_nullable(True) for f in key_fields(id_type)), *facts])


def select_resumed(
    connection: duckdb.DuckDBPyConnection, pieces: Sequence[str], doubtful: Sequence[int], retry_failed: bool
) -> int:
    """Make table ``resumed`` of tables ``wanted`` and ``staged``; return how many keys it has.

    With the piece's run, its SCORES file ``piece``, which is of ``pieces``, and its ``number``. Each key
    once: of rows with equal fingerprint an answer before a failure, then the latest piece. A staged failure
    that a later night would try again answers nothing: it may have been the night's trouble, or of a format
    that is decoded tonight. Under ``retry_failed`` no staged failure does. A row that answered from a stored
    embedding counts while that is the live one. Rows of ``doubtful`` pieces are removed from ``staged``.
    """
    if doubtful:
        connection.execute("DELETE FROM staged WHERE list_contains(?::INTEGER[], number)", [list(doubtful)])
    paths = pa.table({"number": pa.array(range(len(pieces)), pa.int32()), "piece": list(pieces)})
    named = pa.schema([("number", pa.int32()), ("piece", pa.string())])
    load(connection, "pieces", named, iter(paths.cast(named).to_batches()))
    is_read = f"s.error_code = 'UNSUPPORTED' AND {is_read_now_sql('s.error_detail', None)}"
    excluded = "true" if retry_failed else f"(s.error_code IN ({RETRIED}) OR ({is_read}))"
    connection.execute(
        "CREATE TABLE resumed AS SELECT w.illust_id, w.page, s.run, p.piece, s.number, s.error_code, "
        "w.is_retry "
        f"FROM wanted w JOIN staged s ON w.illust_id = s.illust_id AND w.page = s.page "
        f"AND w.fingerprint IS NOT DISTINCT FROM s.fingerprint JOIN pieces p ON p.number = s.number "
        f"WHERE (s.error_code IS NULL OR NOT ({excluded})) "
        f"AND (s.{EMBEDDING_RUN} IS NULL OR s.{EMBEDDING_RUN} = s.run "
        f"OR s.{EMBEDDING_RUN} = w.{EMBEDDING_RUN}) "
        "QUALIFY row_number() OVER (PARTITION BY w.illust_id, w.page ORDER BY s.error_code NULLS FIRST, "
        "s.number DESC) = 1"
    )
    return int(one_row(connection, "SELECT count(*) FROM resumed")[0])


def staged_rows(
    folder: Folder, receipts: Sequence[Receipt], layout: Layout, schema: pa.Schema, first_number: int = 0
) -> Iterator[pa.RecordBatch]:
    """Rows of pieces, numbered from ``first_number``; one that is unfit is left out with a warning."""
    for number, receipt in enumerate(receipts, first_number):
        try:
            rows = piece_rows(folder, receipt, layout)
        except (DataError, FileNotFoundError) as exc:
            logger.warning("a staged piece is left out: %s", exc)
            continue
        numbers = pa.array([number] * rows.num_rows, pa.int32())
        yield from rows.select(schema.names[:-1]).append_column("number", numbers).cast(schema).to_batches()


def piece_rows(folder: Folder, receipt: Receipt, layout: Layout) -> pa.Table:
    """SCORES rows of a piece. Raises ``DataError`` if they are not what its receipt and ``layout`` say."""
    where = folder.full(receipt.scores.path)
    try:
        data = checked_bytes(folder, receipt.scores)
        rows = scores_rows(data, layout.scores.names).cast(layout.scores)
    except (pa.ArrowException, KeyError, ValueError) as exc:
        raise DataError(f"{where} does not hold the rows of a piece: {exc}") from None
    num_keys = rows.select(["illust_id", "page"]).group_by(["illust_id", "page"]).aggregate([]).num_rows
    is_of_run = (
        rows.num_rows == receipt.rows == num_keys
        and pc.all(pc.equal(rows.column("run"), receipt.origin.run)).as_py()
    )
    if not is_of_run:
        raise DataError(
            f"{where} holds {rows.num_rows} rows with {num_keys} keys, its receipt says {receipt.rows} of "
            f"{receipt.origin.run}"
        )
    return rows


def doubtful_pieces(connection: duckdb.DuckDBPyConnection) -> list[int]:
    """Numbers of pieces in table ``staged`` with an embedding that its own run has made before.

    In an earlier piece or in what is live, which table ``published`` holds: both have an embedding, and a
    reader, who knows a key and a run, could not tell them apart.
    """
    connection.execute(
        "CREATE TABLE answered AS SELECT illust_id, page, run, min(number) AS number FROM staged WHERE "
        f"error_code IS NULL AND {EMBEDDING_RUN} = run "
        "GROUP BY illust_id, page, run HAVING count(*) > 1"
    )
    connection.execute("INSERT INTO answered SELECT illust_id, page, run, -1 FROM published")
    found = connection.execute(
        "SELECT DISTINCT s.number FROM staged s JOIN answered a USING (illust_id, page, run) "
        f"WHERE s.error_code IS NULL AND s.{EMBEDDING_RUN} = s.run AND s.number > a.number ORDER BY 1"
    ).fetchall()
    return [number for (number,) in found]


def warn_of_doubtful(folder: Folder, receipts: Sequence[Receipt], doubtful: Sequence[int]) -> None:
    """Say which pieces are left out."""
    for number in doubtful:
        logger.warning(
            "a staged piece is left out: %s holds answers that its run has given before",
            folder.full(receipts[number].path),
        )


def _published(
    folder: Folder, live: Snapshot | None, runs: set[str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Embeddings of ``runs`` that the live snapshot names, live or dead."""
    if live is not None and runs:
        yield from published_rows(folder, files_naming(live, runs), runs, schema)


def files_naming(live: Snapshot, runs: set[str]) -> list[DataFile]:
    """Files that may name an embedding of ``runs``: of the dead, and of SCORES if its rows are of one."""
    files = live.files_of("dead")
    return [*files, *live.files_of("scores")] if runs & {*live.manifest.get("runs", ())} else files


def published_rows(
    folder: Folder, files: Sequence[DataFile], runs: set[str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Rows of ``files``, of the dead or of SCORES, that name an embedding of ``runs``."""
    for file in files:
        made_by = EMBEDDING_RUN if file.table == "scores" and file.version > 1 else "run"
        columns = [*schema.names[:-1], made_by, *(["status"] if file.table == "scores" else [])]
        for read in parquet_batches(folder, [file.path], columns):
            batch = read.select(columns).rename_columns([*schema.names, *columns[len(schema.names) :]])
            is_wanted = pc.is_in(batch.column("run"), pa.array(sorted(runs)))
            if file.table == "scores":
                is_wanted = pc.and_(is_wanted, pc.equal(batch.column("status"), OK))
            yield from (
                pa.Table.from_batches([batch])
                .filter(is_wanted)
                .select(schema.names)
                .cast(schema)
                .to_batches()
            )
