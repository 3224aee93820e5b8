"""A night's plan: which rows of the catalog are scored, and why; which are carried over, taken up from staged
pieces, or gone.

A row is scored again iff it is new, its fingerprint changed, the model changed, its failure is due for
another try, or ``full`` says so (S2). Resuming is planning again: a row that any run staged with the same
key, fingerprint and model is taken up, not scored (S3).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.keys import KEY, key_fields
from pix2score.catalog.rows import PlanCounts, catalog_rows, order_sql, plan_schema, stored_fingerprint_sql
from pix2score.errors import MAX_ATTEMPTS, RETRIED_ERROR_CODES, DataError, LimitError
from pix2score.images.decode import FORMATS
from pix2score.nightly.resume import create_taken, offered
from pix2score.nightly.returned import removed_pieces, take_back
from pix2score.snapshots.leases import Holder, Lease, this_process
from pix2score.snapshots.manifest import Snapshot
from pix2score.snapshots.pieces import Origin, Receipt, renew
from pix2score.snapshots.tables import FAILED, OK, DataFile, Layout, broken_files, taken_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.parts import Part, write_parts
from pix2score.storage.sql import load, one_row

logger = logging.getLogger(__name__)

FIRST_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What versions decoded whose snapshots do not say it."""
REASONS = ("new", "changed", "stale", "retry", "full")
"""Why a row is scored: its key is new, its content changed, the model changed, its failure is due, or
``full`` was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringRequest:
    """What a night asks of the plan."""

    origin: Origin
    layout: Layout
    live: Snapshot | None = None
    retry_failed: bool = False
    limit: int | None = None
    max_removed: float = 1.0
    max_changed: float = 1.0
    places: tuple[str, ...] = ()
    """Where images may come from tonight, as far as known: a row refused for its place is due again when a
    new one joins."""
    holder: Holder = field(default_factory=this_process)
    """The process that will publish."""


@dataclass(slots=True)
class ScoringCounts:
    """What became of every key: keys = planned + carried, planned = new + changed + stale + retry + full."""

    catalog_rows: int = 0
    null_id: int = 0
    duplicate_key: int = 0
    keys: int = 0
    """Keys of the catalog."""
    live: int = 0
    """Keys of the live snapshot."""
    new: int = 0
    changed: int = 0
    stale: int = 0
    retry: int = 0
    full: int = 0
    carried: int = 0
    """Keys whose row of the live snapshot stays as it is."""
    removed: int = 0
    """Keys of the live snapshot that the catalog no longer has."""
    resumed: int = 0
    """Planned keys that an earlier run staged already, or whose row was removed of late and is taken back."""
    limited: int = 0
    """Planned keys left out by ``limit``."""

    @property
    def planned(self) -> int:
        """Keys whose row of the next snapshot is not carried over."""
        return self.new + self.changed + self.stale + self.retry + self.full

    @property
    def to_score(self) -> int:
        """Planned keys that this run has to work on."""
        return self.planned - self.resumed - self.limited

    def to_dict(self) -> dict[str, int]:
        """Plain values for JSON."""
        return {**asdict(self), "planned": self.planned}


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """The plan as parts in the scores folder."""

    counts: ScoringCounts
    parts: list[Part] = field(default_factory=list)
    """Rows to score, as ``schema.scoring_schema``."""
    taken: list[Part] = field(default_factory=list)
    """Keys taken up from staged pieces, as ``schema.taken_schema``."""
    taken_from: list[Receipt] = field(default_factory=list)
    """The pieces that hold them."""
    gone: list[Part] = field(default_factory=list)
    """Keys of the live snapshot to be removed."""
    taken_failed: dict[str, int] = field(default_factory=dict)
    """Error code -> rows of ``taken``."""
    taken_failed_again: int = 0
    """Those of them that had failed in the live snapshot too."""
    spent: list[Receipt] = field(default_factory=list)
    """Pieces that still stand though a snapshot published them: whoever did was killed before it tidied
    up."""


def plan_scoring(
    catalog: Catalog, folder: Folder, prefix: str, request: ScoringRequest, *, dry_run: bool = False
) -> ScoringPlan:
    """What to do tonight. Parts are written below ``prefix``; nothing at all under ``dry_run``, nor before
    every check has passed.

    A run with something to do holds a lease of the folder from here on, before it looks at staged pieces:
    ``publish_night`` gives it back.

    Raises:
        DataError: zero rows; ids or fingerprints of another kind than the live snapshot's; a live file that
            is missing or altered.
        LimitError: more than ``max_removed`` of the live keys are gone, or more than ``max_changed`` have
            another fingerprint: a truncated catalog must not empty the scores, and one written otherwise must
            not have all scored again.
    """
    counts, rows = ScoringCounts(), PlanCounts()
    with catalog_rows(catalog, rows) as connection:
        counts.catalog_rows, counts.null_id, counts.duplicate_key = (
            rows.catalog_rows,
            rows.null_id,
            rows.duplicate_key,
        )
        _load_live(connection, catalog, folder, request, counts)
        _create_wanted(connection, request, counts, stored_fingerprint_sql(catalog, "l.fingerprint"))
        _check_removed(catalog, request, counts)
        _check_changed(catalog, request, counts)
        if not (counts.planned or counts.removed):
            return ScoringPlan(counts)
        if dry_run:
            _take_up(connection, catalog, folder, request, counts)
            return ScoringPlan(counts)
        lease = Lease(folder, request.origin.run, request.holder)
        lease.take()
        try:
            return _written(connection, catalog, folder, prefix, request, counts)
        except BaseException:
            lease.release()
            raise


def _written(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    folder: Folder,
    prefix: str,
    request: ScoringRequest,
    counts: ScoringCounts,
) -> ScoringPlan:
    receipts, spent = _take_up(connection, catalog, folder, request, counts)
    used = _used(connection, receipts) if counts.resumed else []
    renew(folder, [receipt for receipt in used if receipt.is_staged])
    return ScoringPlan(
        counts,
        _write_rows(connection, catalog, folder, prefix, request.limit),
        _write(connection, "taken", taken_schema(catalog.id_type), folder, f"{prefix}/taken")
        if counts.resumed
        else [],
        used,
        _write_gone(connection, catalog, folder, prefix, counts),
        dict(
            connection.execute(
                "SELECT error_code, count(*) FROM taken WHERE error_code IS NOT NULL GROUP BY 1 ORDER BY 1"
            ).fetchall()
        ),
        spent=spent,
        taken_failed_again=one_row(
            connection, "SELECT count(*) FROM taken WHERE error_code IS NOT NULL AND is_retry"
        )[0],
    )


def _take_up(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    folder: Folder,
    request: ScoringRequest,
    counts: ScoringCounts,
) -> tuple[list[Receipt], list[Receipt]]:
    """Table ``taken``; the pieces that it numbers, and those that are spent."""
    receipts, spent = offered(folder, request.origin, request.layout, request.live)
    counts.resumed = create_taken(
        connection, catalog.id_type, folder, receipts, request.layout, request.live, request.retry_failed
    )
    removed = removed_pieces(request.live, request.origin, request.layout) if counts.new else []
    counts.resumed += take_back(connection, catalog.id_type, folder, request.live, removed, len(receipts))
    counts.limited = max(0, counts.to_score - request.limit) if request.limit is not None else 0
    return [*receipts, *removed], spent


def _load_live(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    folder: Folder,
    request: ScoringRequest,
    counts: ScoringCounts,
) -> None:
    """Table ``live``: key and what decides about scoring again."""
    snapshot, id_type = request.live, catalog.id_type
    if snapshot:
        _check_fits(catalog, request, folder, snapshot)
    facts = [
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("attempts", pa.int16()),
        ("fingerprint", pa.string()),
    ]
    schema = pa.schema([*(f.with_nullable(True) for f in key_fields(id_type)), *facts])
    paths = [file.path for file in snapshot.files if file.table == "scores"] if snapshot else []
    try:
        load(connection, "live", schema, parquet_batches(folder, paths, schema.names))
    except (FileNotFoundError, DataError) as exc:
        if not request.origin.full:
            raise
        logger.warning("the live snapshot is damaged, all is scored as if it were not there: %s", exc)
        load(connection, "live", schema, iter(()))
    (counts.live,) = one_row(connection, "SELECT count(*) FROM live")


def _check_fits(catalog: Catalog, request: ScoringRequest, folder: Folder, snapshot: Snapshot) -> None:
    live_type = snapshot.layout.id_type
    if not live_type.equals(catalog.id_type):
        raise DataError(
            f"the catalog's ids are {catalog.id_type}, those in {folder.uri} are {live_type}; give another "
            "--out"
        )
    if request.origin.full:
        return  # nothing will be carried
    if snapshot.manifest["model_version"] != request.origin.model_version:
        check_files(folder, snapshot.files_of("scores"))  # their keys are asked for
        return
    rows = snapshot.manifest["counts"]["rows"]
    before, today = snapshot.manifest["fingerprint_kind"], catalog.fingerprint_kind
    if before != today:
        raise DataError(
            f"images were told apart by {before!r} in snapshot {snapshot.number}, the catalog now offers "
            f"{today!r}: all {rows} rows "
            f"would be scored again; --full does that, --columns.fingerprint {before} keeps them"
        )
    check_files(folder, snapshot.files)
    dtypes = snapshot.layout.embedding_dtype, request.layout.embedding_dtype
    if dtypes[0] != dtypes[1]:
        raise DataError(
            f"embeddings in {folder.uri} are {dtypes[0]}, --embedding-dtype is {dtypes[1]}: --full scores "
            f"all {rows} rows again"
        )


def _create_wanted(
    connection: duckdb.DuckDBPyConnection,
    request: ScoringRequest,
    counts: ScoringCounts,
    stored_fingerprint: str,
) -> None:
    """Table or view ``wanted``: catalog rows that are not carried, with reason and earlier attempts.

    A row that kept its earlier answer, as new content could not be fetched, has a code though it is ok: it is
    tried again as failures are.
    """
    same_model = (
        request.live is not None and request.live.manifest["model_version"] == request.origin.model_version
    )
    anew = " OR ".join(_due_anew(request)) or "false"
    codes = ", ".join(f"'{code}'" for code in RETRIED_ERROR_CODES)
    due = (
        "l.error_code IS NOT NULL"
        if request.retry_failed
        else f"(l.error_code IN ({codes}) AND l.attempts < {MAX_ATTEMPTS}) OR {anew}"
    )
    differs = (
        "k.fingerprint IS DISTINCT FROM l.fingerprint AND k.fingerprint IS DISTINCT FROM "
        f"{stored_fingerprint}"
    )
    reason = (
        f"CASE WHEN l.illust_id IS NULL THEN 'new' WHEN {not same_model} THEN 'stale' "
        f"WHEN {not request.origin.full} AND l.status = '{OK}' AND l.error_code IS NOT NULL THEN 'retry' "
        f"WHEN {differs} THEN 'changed' WHEN {request.origin.full} THEN 'full' WHEN {due} THEN 'retry' END"
    )
    attempts = (
        "0"
        if request.retry_failed
        else f"CASE WHEN {reason} = 'retry' AND NOT ({anew}) THEN l.attempts ELSE 0 END"
    )
    # Where no row is carried, a copy of all of them would only cost time and disk.
    kind = "TABLE" if same_model and not request.origin.full else "VIEW"
    connection.execute(
        f"CREATE {kind} wanted AS SELECT k.*, {attempts}::SMALLINT AS attempts, {reason} AS reason, {reason} "
        "= 'retry' AS is_retry "
        "FROM keyed k LEFT JOIN live l ON k.illust_id = l.illust_id AND k.page = l.page WHERE reason IS NOT "
        "NULL"
    )
    for name, number in connection.execute("SELECT reason, count(*) FROM wanted GROUP BY 1").fetchall():
        setattr(counts, name, number)
    (counts.keys,) = one_row(connection, "SELECT count(*) FROM keyed")
    counts.carried = counts.keys - counts.planned
    counts.removed = counts.live - (counts.keys - counts.new)  # keys are unique on both sides


def _due_anew(request: ScoringRequest) -> list[str]:
    """Failures whose cause this night has not: places that were not allowed, formats that were not
    decoded."""
    if request.live is None:
        return []
    failed, tests = f"l.status = '{FAILED}' AND l.error_code", []
    if {*request.places} - {*request.live.manifest.get("places", request.places)}:
        tests.append(f"({failed} = 'FORBIDDEN')")
    if {*FORMATS} - {*request.live.manifest.get("formats", FIRST_FORMATS)}:
        tests.append(f"({failed} = 'UNSUPPORTED')")
    return tests


def _check_changed(catalog: Catalog, request: ScoringRequest, counts: ScoringCounts) -> None:
    if not request.origin.full and counts.changed > request.max_changed * counts.live:
        raise LimitError(
            f"{counts.changed} of {counts.live} illustrations have another fingerprint in catalog "
            f"{catalog.folder.uri} than in the live "
            f"snapshot, over --max-changed {request.max_changed:g}: nothing was scored; is column "
            f"{catalog.fingerprint_kind!r} written "
            f"otherwise than before? If the images did change, raise it"
        )


def _check_removed(catalog: Catalog, request: ScoringRequest, counts: ScoringCounts) -> None:
    if counts.removed > request.max_removed * counts.live:
        raise LimitError(
            f"{counts.removed} of {counts.live} illustrations in the live snapshot are not in catalog "
            f"{catalog.folder.uri}, over "
            f"--max-removed {request.max_removed:g}: nothing was published; if they are meant to go, raise it"
        )


def _used(connection: duckdb.DuckDBPyConnection, receipts: Sequence[Receipt]) -> list[Receipt]:
    return [
        receipts[number]
        for (number,) in connection.execute("SELECT DISTINCT number FROM taken ORDER BY 1").fetchall()
    ]


def _write_rows(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, folder: Folder, prefix: str, limit: int | None
) -> list[Part]:
    first = "" if limit is None else f" LIMIT {limit}"
    rest = "SELECT * FROM wanted ANTI JOIN taken USING (illust_id, page)"
    return write_parts(
        connection,
        f"{rest} {order_sql(catalog)}{first}",
        scoring_schema(catalog.id_type),
        folder,
        f"{prefix}/rows",
    )


def _write_gone(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    folder: Folder,
    prefix: str,
    counts: ScoringCounts,
) -> list[Part]:
    if not counts.removed:
        return []
    connection.execute(
        f"CREATE TABLE gone AS SELECT {', '.join(KEY)} FROM live ANTI JOIN keyed USING (illust_id, page)"
    )
    return _write(connection, "gone", pa.schema(key_fields(catalog.id_type)), folder, f"{prefix}/gone")


def _write(
    connection: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, folder: Folder, prefix: str
) -> list[Part]:
    return write_parts(connection, f"SELECT * FROM {table}", schema, folder, prefix)


def check_files(folder: Folder, files: Sequence[DataFile]) -> None:
    """Raise ``DataError`` naming a live file that is missing or has another size than its manifest says."""
    for path, what in broken_files(folder, files).items():
        raise DataError(
            f"{folder.full(path)} {what}: not carried over; jobs.verify names all damage, --full scores "
            "everything again"
        )


def scoring_schema(id_type: pa.DataType) -> pa.Schema:
    """``plan_schema`` with ``attempts``, how often this content failed before, and ``is_retry``: it is tried
    for nothing but that."""
    tried = [
        pa.field("attempts", pa.int16(), nullable=False),
        pa.field("is_retry", pa.bool_(), nullable=False),
    ]
    return pa.schema([*plan_schema(id_type), *tried])
