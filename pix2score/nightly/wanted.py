"""Which rows of the catalog are scored, and why: the catalog joined with the live snapshot, in SQL."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.keys import key_fields
from pix2score.catalog.rows import stored_fingerprint_sql
from pix2score.errors import MAX_NIGHTS, RETRIED_ERROR_CODES, DataError
from pix2score.nightly.formats import is_read_now_sql
from pix2score.nightly.guards import check_fits
from pix2score.nightly.request import WITHHELD, ScoringCounts, ScoringRequest
from pix2score.snapshots.tables import EMBEDDING_RUN, FAILED, OK, PENDING, DataFile
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.sql import load, one_row

logger = logging.getLogger(__name__)


def load_live(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    folder: Folder,
    request: ScoringRequest,
    counts: ScoringCounts,
) -> None:
    """Make table ``live``: key and what decides about scoring again; set ``counts.live``."""
    snapshot = request.live
    if snapshot:
        check_fits(catalog, request, folder, snapshot)
    files = snapshot.files_of("scores") if snapshot else []
    schema = live_schema(catalog.id_type, request)
    try:
        load(connection, "live", schema, live_rows(folder, files, schema))
    except DAMAGED as exc:
        if not request.carries_nothing:
            raise
        warn_of_damage(exc)
        load(connection, "live", schema, iter(()))
    (counts.live,) = one_row(connection, "SELECT count(*) FROM live")


DAMAGED = (FileNotFoundError, DataError)
"""What reading a damaged live file raises."""


def warn_of_damage(exc: Exception) -> None:
    """Say that all is scored under ``--full``, as live files cannot be read."""
    logger.warning("the live snapshot is damaged, all is scored as if it were not there: %s", exc)


def live_schema(id_type: pa.DataType, request: ScoringRequest) -> pa.Schema:
    """Columns of table ``live``."""
    facts = [
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("attempts", pa.int16()),
        ("fingerprint", pa.string()),
        ("error_detail", pa.string()),
        *([("scored_at", pa.timestamp("us", tz="UTC"))] if request.order == "new first" else []),
        (EMBEDDING_RUN, pa.string()),
    ]
    return pa.schema([*(f.with_nullable(True) for f in key_fields(id_type)), *facts])


def live_rows(folder: Folder, files: Sequence[DataFile], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows of live SCORES files; in files of the first version the run that scored a row embedded it."""
    for file in files:
        names = [*schema.names[:-1], EMBEDDING_RUN if file.version > 1 else "run"]
        for batch in parquet_batches(folder, [file.path], names):
            yield pa.record_batch(batch.select(names).columns, schema=schema)


def create_wanted(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, request: ScoringRequest, counts: ScoringCounts
) -> None:
    """Make table or view ``wanted``: catalog rows that are not carried, with reason and earlier attempts.

    And table ``withheld``: new keys that are not among those asked for. Sets the numbers of keys in
    ``counts``. Raises ``ConfigError`` for a value that what was asked for does not fit.
    """
    is_due_again = _is_due_again(request)
    attempts = (
        "0"
        if request.retry_failed
        else "CASE WHEN reason = 'heads' OR (reason = 'retry' AND NOT is_due_again) THEN earlier_attempts "
        "ELSE 0 END"
    )
    # Where no row is carried, a copy of all of them would only cost time and disk.
    newest = ", date_trunc('day', l.scored_at) AS last_scored" if request.order == "new first" else ""
    kind = "TABLE" if request.may_carry or request.where else "VIEW"
    create = (
        f"CREATE {kind} wanted AS "
        "WITH reasons AS NOT MATERIALIZED ("
        f"SELECT k.*, {_reason_asked_for(catalog, request, is_due_again)} AS reason, "
        f"({is_due_again}) AS is_due_again, "
        "l.attempts AS earlier_attempts, l.error_code, l.error_detail, l.embedding_run, "
        f"l.fingerprint AS live_fingerprint{newest} "
        "FROM keyed k LEFT JOIN live l ON k.illust_id = l.illust_id AND k.page = l.page) "
        "SELECT * EXCLUDE (reason, is_due_again, earlier_attempts), "
        f"{attempts}::SMALLINT AS attempts, reason, reason = 'retry' AS is_retry "
        "FROM reasons WHERE reason IS NOT NULL"
    )
    try:
        connection.execute(create)
        _check_order(connection, catalog, request)
    except _MISFITS as exc:
        raise _misfit(catalog, request, exc) from None
    (keys,) = one_row(connection, "SELECT count(*) FROM keyed")
    by_reason = connection.execute("SELECT reason, count(*) FROM wanted GROUP BY 1").fetchall()
    counts.set_keys(keys, dict(by_reason))
    _set_aside(connection, request, counts)


def _set_aside(connection: duckdb.DuckDBPyConnection, request: ScoringRequest, counts: ScoringCounts) -> None:
    """Move rows that are withheld from table ``wanted`` to ``withheld``; count those that will be pending."""
    where = f"WHERE reason = '{WITHHELD}'" if request.where else "WHERE false"
    connection.execute(f"CREATE TABLE withheld AS SELECT illust_id, page FROM wanted {where}")
    if counts.withheld:
        connection.execute(f"DELETE FROM wanted {where}")
    stays = "SEMI JOIN keyed USING (illust_id, page) ANTI JOIN wanted USING (illust_id, page)"
    pending = f"SELECT count(*) FROM (SELECT * FROM live WHERE status = '{PENDING}') {stays}"
    counts.pending = counts.withheld + (one_row(connection, pending)[0] if request.where else 0)


_MISFITS = (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException)
"""What a value gives that an expression does not fit, such as a text that is no number."""


def _check_order(connection: duckdb.DuckDBPyConnection, catalog: Catalog, request: ScoringRequest) -> None:
    """Raise if a value does not fit the order that is asked for."""
    if request.first:
        connection.execute(f"SELECT * FROM wanted ORDER BY {request.first.sql(catalog)} LIMIT 1").fetchall()


def _misfit(catalog: Catalog, request: ScoringRequest, exc: duckdb.Error) -> Exception:
    asked = request.where or request.first
    return asked.misfit(catalog, exc) if asked else exc


def _reason_asked_for(catalog: Catalog, request: ScoringRequest, is_due_again: str) -> str:
    """As ``_reason``, of rows that are asked for; of others null, or that they are withheld."""
    reason = _reason(catalog, request, is_due_again)
    if not request.where:
        return reason
    withheld = f"CASE WHEN l.illust_id IS NULL THEN '{WITHHELD}' END"
    return f"CASE WHEN {request.where.sql(catalog)} THEN {reason} ELSE {withheld} END"


def _reason(catalog: Catalog, request: ScoringRequest, is_due_again: str) -> str:
    """SQL: why row ``k`` of the catalog is scored, null if row ``l`` of the live snapshot is carried.

    A row that kept its earlier answer, as new content could not be fetched, has a code though it is ok: it is
    tried again as failures are.
    """
    is_full, is_again = request.origin.full, request.answers_again
    is_stale = not (request.is_same_model or is_again)
    # Of a stored embedding that is answered again all else stays: content that is to be tried again is due
    # the night after.
    is_kept = f"l.status = '{OK}' AND l.error_code IS NOT NULL"
    codes = ", ".join(f"'{code}'" for code in RETRIED_ERROR_CODES)
    is_due = (
        "l.error_code IS NOT NULL"
        if request.retry_failed
        else f"(l.error_code IN ({codes}) AND l.attempts < {MAX_NIGHTS}) OR {is_due_again}"
    )
    stored = stored_fingerprint_sql(catalog, "l.fingerprint")
    differs = f"k.fingerprint IS DISTINCT FROM l.fingerprint AND k.fingerprint IS DISTINCT FROM {stored}"
    return (
        f"CASE WHEN l.illust_id IS NULL THEN 'new' WHEN l.status = '{PENDING}' THEN 'waiting' "
        f"WHEN {is_stale} THEN 'stale' "
        f"WHEN {is_again} AND {is_kept} THEN 'heads' WHEN {not is_full} AND {is_kept} THEN 'retry' "
        f"WHEN {differs} THEN 'changed' WHEN {is_full} THEN 'full' "
        f"WHEN {is_again} AND l.status = '{OK}' THEN 'heads' "
        f"WHEN {is_due} OR ({is_again} AND l.error_code = 'NONFINITE') THEN 'retry' END"
    )


def _is_due_again(request: ScoringRequest) -> str:
    """SQL: whether tonight lacks the cause of a failure: a place not allowed, a format not decoded."""
    if request.live is None:
        return "false"
    failed, tests = f"l.status = '{FAILED}' AND l.error_code", []
    if {*request.places} - {*request.live.manifest.get("places", request.places)}:
        tests.append(f"({failed} = 'FORBIDDEN')")
    tests.append(f"({failed} = 'UNSUPPORTED' AND {is_read_now_sql('l.error_detail', request.live)})")
    return " OR ".join(tests)
