"""A night's plan: which rows of the catalog are scored, and why; which are carried over, taken up from staged pieces, or gone.

A row is scored again iff it is new, its fingerprint changed, the model changed, its failure is due for another try, or ``full`` says so
(S2). Resuming is planning again: a row that any run staged with the same key, fingerprint and model is taken up, not scored (S3).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from pix2score.catalog import Catalog
from pix2score.engine import load, one_row, parquet_batches
from pix2score.errors import FETCH_ERROR_CODES, DataError, LimitError
from pix2score.layout import DataFile, Layout
from pix2score.plan import Part, PlanCounts, catalog_rows, order_sql, write_parts
from pix2score.schema import KEY, dead_schema, key_fields, scoring_schema
from pix2score.snapshot import Snapshot
from pix2score.staged import Origin, Receipt, fitting, staged_receipts
from pix2score.storage import Folder

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
REASONS = ("new", "changed", "stale", "retry", "full")
"""Why a row is scored: its key is new, its content changed, the model changed, its failure is due, or ``full`` was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringRequest:
    """What a night asks of the plan."""

    origin: Origin
    layout: Layout
    live: Snapshot | None = None
    retry_failed: bool = False
    limit: int | None = None
    max_removed: float = 1.0


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
    """Planned keys that an earlier run staged already."""
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
    """Keys taken up from staged pieces, with the run that staged them, as ``schema.dead_schema``."""
    taken_from: list[Receipt] = field(default_factory=list)
    """The pieces that hold them."""
    gone: list[Part] = field(default_factory=list)
    """Keys of the live snapshot to be removed."""
    taken_failed: dict[str, int] = field(default_factory=dict)
    """Error code -> rows of ``taken``."""
    taken_failed_again: int = 0
    """Those of them that had failed in the live snapshot too."""
    spent: list[Receipt] = field(default_factory=list)
    """Pieces that still stand though a snapshot published them: whoever did was killed before it tidied up."""


def plan_scoring(catalog: Catalog, folder: Folder, prefix: str, request: ScoringRequest, *, dry_run: bool = False) -> ScoringPlan:
    """What to do tonight. Parts are written below ``prefix``; nothing at all under ``dry_run``, nor before every check has passed.

    Raises:
        DataError: zero rows; ids or fingerprints of another kind than the live snapshot's; a live file that is missing or altered.
        LimitError: more than ``max_removed`` of the live keys are gone: a truncated catalog must not empty the scores.
    """
    counts, rows = ScoringCounts(), PlanCounts()
    with catalog_rows(catalog, rows) as connection:
        counts.catalog_rows, counts.null_id, counts.duplicate_key = rows.catalog_rows, rows.null_id, rows.duplicate_key
        _load_live(connection, catalog, folder, request, counts)
        _create_wanted(connection, request, counts)
        _check_removed(catalog, request, counts)
        unspent, spent = by_use(staged_receipts(folder), request.live)
        receipts = fitting(unspent, request.origin, request.layout)
        _create_taken(connection, catalog, folder, receipts, request, counts)
        counts.limited = max(0, counts.to_score - request.limit) if request.limit is not None else 0
        if dry_run:
            return ScoringPlan(counts)
        return ScoringPlan(
            counts,
            _write_rows(connection, catalog, folder, prefix, request.limit),
            _write(connection, "taken", dead_schema(catalog.id_type), folder, f"{prefix}/taken") if counts.resumed else [],
            _used(connection, receipts) if counts.resumed else [],
            _write_gone(connection, catalog, folder, prefix, counts),
            dict(
                connection.execute(
                    "SELECT error_code, count(*) FROM taken WHERE error_code IS NOT NULL GROUP BY 1 ORDER BY 1"
                ).fetchall()
            ),
            spent=spent,
            taken_failed_again=one_row(connection, "SELECT count(*) FROM taken WHERE error_code IS NOT NULL AND is_retry")[0],
        )


def _load_live(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, folder: Folder, request: ScoringRequest, counts: ScoringCounts
) -> None:
    """Table ``live``: key and what decides about scoring again."""
    snapshot, id_type = request.live, catalog.id_type
    if snapshot:
        _check_fits(catalog, folder, request, snapshot)
    facts = [("status", pa.string()), ("error_code", pa.string()), ("attempts", pa.int16()), ("fingerprint", pa.string())]
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


def _check_fits(catalog: Catalog, folder: Folder, request: ScoringRequest, snapshot: Snapshot) -> None:
    live_type = snapshot.layout.id_type
    if not live_type.equals(catalog.id_type):
        raise DataError(f"the catalog's ids are {catalog.id_type}, those in {folder.uri} are {live_type}; give another --out")
    if request.origin.full or snapshot.manifest["model_version"] != request.origin.model_version:
        return  # nothing will be carried
    rows = snapshot.manifest["counts"]["rows"]
    before, today = snapshot.manifest["fingerprint_kind"], catalog.fingerprint_kind
    if before != today:
        raise DataError(
            f"images were told apart by {before!r} in snapshot {snapshot.number}, the catalog now offers {today!r}: all {rows} rows "
            f"would be scored again; --full does that, --columns.fingerprint {before} keeps them"
        )
    check_files(folder, snapshot.files)
    dtypes = snapshot.layout.embedding_dtype, request.layout.embedding_dtype
    if dtypes[0] != dtypes[1]:
        raise DataError(
            f"embeddings in {folder.uri} are {dtypes[0]}, --embedding-dtype is {dtypes[1]}: --full scores all {rows} rows again"
        )


def _create_wanted(connection: duckdb.DuckDBPyConnection, request: ScoringRequest, counts: ScoringCounts) -> None:
    """Table ``wanted``: catalog rows that are not carried, with reason and earlier attempts."""
    same_model = request.live is not None and request.live.manifest["model_version"] == request.origin.model_version
    codes = ", ".join(f"'{code}'" for code in FETCH_ERROR_CODES)
    due = "l.status = 'failed'" if request.retry_failed else f"l.error_code IN ({codes}) AND l.attempts < {MAX_ATTEMPTS}"
    reason = (
        f"CASE WHEN l.illust_id IS NULL THEN 'new' WHEN {not same_model} THEN 'stale' "
        f"WHEN l.fingerprint IS DISTINCT FROM k.fingerprint THEN 'changed' WHEN {request.origin.full} THEN 'full' "
        f"WHEN {due} THEN 'retry' END"
    )
    attempts = "0" if request.retry_failed else f"CASE WHEN {reason} = 'retry' THEN l.attempts ELSE 0 END"
    connection.execute(
        f"CREATE TABLE wanted AS SELECT k.*, {attempts}::SMALLINT AS attempts, {reason} AS reason, {reason} = 'retry' AS is_retry "
        f"FROM keyed k LEFT JOIN live l ON k.illust_id = l.illust_id AND k.page = l.page WHERE reason IS NOT NULL"
    )
    for name, number in connection.execute("SELECT reason, count(*) FROM wanted GROUP BY 1").fetchall():
        setattr(counts, name, number)
    (counts.keys,) = one_row(connection, "SELECT count(*) FROM keyed")
    counts.carried = counts.keys - counts.planned
    counts.removed = counts.live - (counts.keys - counts.new)  # keys are unique on both sides


def _check_removed(catalog: Catalog, request: ScoringRequest, counts: ScoringCounts) -> None:
    if counts.removed > request.max_removed * counts.live:
        raise LimitError(
            f"{counts.removed} of {counts.live} illustrations in the live snapshot are not in catalog {catalog.folder.uri}, over "
            f"--max-removed {request.max_removed:g}: nothing was published; if they are meant to go, raise it"
        )


def _create_taken(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    folder: Folder,
    receipts: Sequence[Receipt],
    request: ScoringRequest,
    counts: ScoringCounts,
) -> None:
    """Table ``taken``: wanted keys that a staged piece answers, with its run and number in ``receipts``; each once.

    A staged failure to fetch answers nothing: it may have been the night's trouble. Under ``retry_failed`` no staged failure does.
    """
    facts = [("fingerprint", pa.string()), ("error_code", pa.string()), ("run", pa.string()), ("piece", pa.int32())]
    schema = pa.schema([*(f.with_nullable(True) for f in key_fields(catalog.id_type)), *facts])

    def rows() -> Any:
        for number, receipt in enumerate(receipts):
            try:
                batches = list(parquet_batches(folder, [receipt.scores.path], schema.names[:-1]))
            except (FileNotFoundError, DataError) as exc:
                logger.warning("a staged piece is left out: %s", exc)
                continue
            for batch in batches:
                yield pa.record_batch([*batch.columns, pa.repeat(pa.scalar(number, pa.int32()), batch.num_rows)], schema=schema)

    load(connection, "staged", schema, rows())
    excluded = "true" if request.retry_failed else f"error_code IN ({', '.join(repr(code) for code in FETCH_ERROR_CODES)})"
    connection.execute(
        f"CREATE TABLE taken AS SELECT w.illust_id, w.page, s.run, s.piece, s.error_code, w.is_retry FROM wanted w JOIN staged s "
        f"ON w.illust_id = s.illust_id AND w.page = s.page AND w.fingerprint IS NOT DISTINCT FROM s.fingerprint "
        f"WHERE s.error_code IS NULL OR NOT ({excluded}) "
        f"QUALIFY row_number() OVER (PARTITION BY w.illust_id, w.page ORDER BY s.error_code NULLS FIRST, s.piece DESC) = 1"
    )
    (counts.resumed,) = one_row(connection, "SELECT count(*) FROM taken")


def by_use(receipts: Sequence[Receipt], live: Snapshot | None) -> tuple[list[Receipt], list[Receipt]]:
    """Pieces that no snapshot has published, and those that one has: taken up again, an image would have two embeddings, or a dead one."""
    if live is None:
        return list(receipts), []
    consumed, run = {*live.manifest.get("consumed", ())}, live.manifest["run"]
    is_spent = [r.path in consumed or r.origin.run == run for r in receipts]
    unspent = [r for r, is_used in zip(receipts, is_spent, strict=True) if not is_used]
    return unspent, [r for r, is_used in zip(receipts, is_spent, strict=True) if is_used]


def _used(connection: duckdb.DuckDBPyConnection, receipts: Sequence[Receipt]) -> list[Receipt]:
    return [receipts[number] for (number,) in connection.execute("SELECT DISTINCT piece FROM taken ORDER BY 1").fetchall()]


def _write_rows(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, folder: Folder, prefix: str, limit: int | None
) -> list[Part]:
    first = "" if limit is None else f" LIMIT {limit}"
    rest = "SELECT * FROM wanted ANTI JOIN taken USING (illust_id, page)"
    return write_parts(connection, f"{rest} {order_sql(catalog)}{first}", scoring_schema(catalog.id_type), folder, f"{prefix}/rows")


def _write_gone(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, folder: Folder, prefix: str, counts: ScoringCounts
) -> list[Part]:
    if not counts.removed:
        return []
    connection.execute(f"CREATE TABLE gone AS SELECT {', '.join(KEY)} FROM live ANTI JOIN keyed USING (illust_id, page)")
    return _write(connection, "gone", pa.schema(key_fields(catalog.id_type)), folder, f"{prefix}/gone")


def _write(connection: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, folder: Folder, prefix: str) -> list[Part]:
    return write_parts(connection, f"SELECT * FROM {table}", schema, folder, prefix)


def check_files(folder: Folder, files: Sequence[DataFile]) -> None:
    """Raise ``DataError`` naming a live file that is missing or has another size than its manifest says."""
    sizes: dict[str, int] = {}
    for top in sorted({"/".join(file.path.split("/")[:2]) for file in files}):
        sizes |= {f"{top}/{entry.path}": entry.size for entry in (folder / top).entries()}
    for file in files:
        if sizes.get(file.path) != file.bytes:
            what = "is missing" if file.path not in sizes else f"has {sizes[file.path]} bytes, its manifest says {file.bytes}"
            raise DataError(
                f"{folder.full(file.path)} {what}: not carried over; jobs.verify names all damage, --full scores everything again"
            )
