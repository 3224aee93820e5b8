"""A night's plan: which rows of the catalog are scored, carried over, resumed from staged pieces, or removed.

A row is scored again iff it is new, pending, its fingerprint changed, the model changed, its failure is due
for another try, or ``full`` says so (S2). Resuming is planning again: a row that any run staged with the same
key, fingerprint and model is resumed, not scored (S3).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.keys import KEY, Key, key_fields
from pix2score.catalog.planned import plan_schema
from pix2score.catalog.rows import catalog_rows
from pix2score.nightly.carry import SortedPart, columns_of, write_carried
from pix2score.nightly.guards import check_limits
from pix2score.nightly.order import in_order
from pix2score.nightly.request import ScoringCounts, ScoringRequest
from pix2score.nightly.resume import create_resumed, offered
from pix2score.nightly.returned import removed_pieces, take_back
from pix2score.nightly.stored import locate, placed_sql, stored_schema
from pix2score.nightly.wanted import create_wanted, load_live
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.pieces import Receipt, renew
from pix2score.snapshots.snapshot import CarriedColumns
from pix2score.snapshots.tables import resumed_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part, total_rows, write_parts
from pix2score.storage.sql import one_row

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """The plan as parts in the scores folder."""

    counts: ScoringCounts
    parts: list[Part] = field(default_factory=list)
    """Rows to score, as ``scoring_schema``."""
    stored: list[Part] = field(default_factory=list)
    """Rows that the heads answer from the stored embedding, as ``stored_schema``."""
    resumed: list[Part] = field(default_factory=list)
    """Keys resumed from staged pieces, as ``snapshots.tables.resumed_schema``."""
    resumed_from: list[Receipt] = field(default_factory=list)
    """The pieces that hold them."""
    removed: list[Part] = field(default_factory=list)
    """Keys of the live snapshot to be removed."""
    withheld: list[Part] = field(default_factory=list)
    """New keys that are not scored tonight: their rows will be pending."""
    resumed_failed: dict[str, int] = field(default_factory=dict)
    """Error code -> rows of ``resumed``."""
    resumed_failed_again: int = 0
    """Those of them that had failed in the live snapshot too."""
    carry: CarriedColumns | None = None
    carried: tuple[SortedPart, ...] = ()
    """Their values, in key order."""
    already_published: list[Receipt] = field(default_factory=list)
    """Pieces that still exist though a snapshot published them: that run was killed before it tidied up."""
    cuts: tuple[Key, ...] = ()
    """Keys between which about half a range of the scores table changes, ascending."""
    is_by_ranges: bool = False
    """Whether it is too large for one task, and so is the rewriting of the scores table."""


@dataclass(frozen=True, slots=True)
class _Planning:
    """What the steps of one plan share; ``connection`` holds its tables."""

    connection: duckdb.DuckDBPyConnection
    catalog: Catalog
    folder: Folder
    prefix: str
    request: ScoringRequest
    counts: ScoringCounts
    carry: CarriedColumns | None


def plan_scoring(
    catalog: Catalog, folder: Folder, prefix: str, request: ScoringRequest, *, dry_run: bool = False
) -> ScoringPlan:
    """Write the parts of what to do tonight below ``prefix``; return the plan.

    Nothing at all is written under ``dry_run``, nor before every check has passed. A run with something to do
    holds a lease of the folder from here on, before it looks at staged pieces: ``publish_night`` gives it
    back.

    Raises:
        DataError: zero rows; ids or fingerprints of another kind than the live snapshot's; a live file that
            is missing or altered.
        LimitError: more than ``max_removed`` of the live keys left the catalog, or more than ``max_changed``
            have another fingerprint.
    """
    counts, rows = ScoringCounts(), PlanCounts()
    with catalog_rows(catalog, rows) as connection:
        counts.catalog_rows, counts.null_id = rows.catalog_rows, rows.null_id
        counts.duplicate_key = rows.duplicate_key
        load_live(connection, catalog, folder, request, counts)
        create_wanted(connection, catalog, request, counts)
        check_limits(catalog, request, counts)
        carry = columns_of(connection, catalog, request.carry)
        counts.recarried = int(request.live is not None and request.live.manifest.get("carry") != carry)
        planning = _Planning(connection, catalog, folder, prefix, request, counts, carry)
        if counts.changes_nothing:
            return ScoringPlan(counts)
        if dry_run:
            _resume(planning)
            return ScoringPlan(counts)
        return _under_lease(planning)


def _under_lease(planning: _Planning) -> ScoringPlan:
    lease = Lease(planning.folder, planning.request.origin.run, planning.request.holder)
    lease.take()
    try:
        if planning.catalog.kept:
            planning.catalog.kept.keep()
        return _written(planning)
    except BaseException:
        lease.release()
        raise


def _written(planning: _Planning) -> ScoringPlan:
    receipts, already_published = _resume(planning)
    used = _used(planning, receipts)
    renew(planning.folder, [receipt for receipt in used if receipt.is_staged])
    connection = planning.connection
    failed = "FROM resumed WHERE error_code IS NOT NULL"
    by_code = connection.execute(f"SELECT error_code, count(*) {failed} GROUP BY 1 ORDER BY 1").fetchall()
    stored = _write_stored(planning)
    return ScoringPlan(
        counts=planning.counts,
        parts=_write_rows(planning, stored),
        stored=stored,
        resumed=_write_resumed(planning),
        resumed_from=used,
        removed=_write_removed(planning),
        withheld=_write_withheld(planning),
        carry=planning.carry,
        carried=_write_carried(planning),
        resumed_failed=dict(by_code),
        resumed_failed_again=one_row(connection, f"SELECT count(*) {failed} AND is_retry")[0],
        already_published=already_published,
    )


def _resume(planning: _Planning) -> tuple[list[Receipt], list[Receipt]]:
    """Make table ``resumed``; return the pieces that it numbers, and those that are published already."""
    connection, folder, counts = planning.connection, planning.folder, planning.counts
    request, id_type = planning.request, planning.catalog.id_type
    receipts, already_published = offered(folder, request.origin, request.layout, request.live)
    counts.resumed = create_resumed(
        connection, id_type, folder, receipts, request.layout, request.live, request.retry_failed
    )
    removed = (
        removed_pieces(request.live, request.origin, request.layout) if counts.new or counts.waiting else []
    )
    counts.resumed += take_back(connection, id_type, folder, request.live, removed, len(receipts))
    counts.limited = max(0, counts.to_score - request.limit) if request.limit is not None else 0
    return [*receipts, *removed], already_published


def _used(planning: _Planning, receipts: Sequence[Receipt]) -> list[Receipt]:
    """Those that table ``resumed`` names."""
    numbers = planning.connection.execute("SELECT DISTINCT number FROM resumed ORDER BY 1").fetchall()
    return [receipts[number] for (number,) in numbers]


def _write_stored(planning: _Planning) -> list[Part]:
    """Rows for the heads, as far as ``limit`` goes; what lacks its embedding is scored from the picture."""
    counts, live = planning.counts, planning.request.live
    if not counts.heads or live is None:
        return []
    id_type, connection = planning.catalog.id_type, planning.connection
    num_placed = locate(connection, id_type, planning.folder, live)
    due = "FROM wanted ANTI JOIN resumed USING (illust_id, page) WHERE reason = 'heads'"
    num_lacking = one_row(connection, f"SELECT count(*) {due}")[0] - num_placed
    if num_lacking:
        logger.warning("%d rows lack their embedding: they are scored from their pictures", num_lacking)
    limit = planning.request.limit
    first = "" if limit is None else f" LIMIT {limit}"
    return _write(planning, "stored", f"{placed_sql()}{first}", stored_schema(id_type))


def _write_rows(planning: _Planning, stored: Sequence[Part]) -> list[Part]:
    limit = planning.request.limit
    placed = "ANTI JOIN placed USING (illust_id, page) " if stored else ""
    rest = in_order(
        f"SELECT * FROM wanted ANTI JOIN resumed USING (illust_id, page) {placed}",
        planning.catalog,
        planning.request,
    )
    first = "" if limit is None else f" LIMIT {max(0, limit - total_rows(stored))}"
    return _write(planning, "rows", f"{rest}{first}", scoring_schema(planning.catalog.id_type))


def _write_carried(planning: _Planning) -> tuple[SortedPart, ...]:
    names, folder = planning.request.carry, planning.folder
    if not names:
        return ()
    return write_carried(planning.connection, planning.catalog, names, folder, f"{planning.prefix}/carried")


def _write_resumed(planning: _Planning) -> list[Part]:
    if not planning.counts.resumed:
        return []
    return _write(planning, "resumed", "SELECT * FROM resumed", resumed_schema(planning.catalog.id_type))


def _write_removed(planning: _Planning) -> list[Part]:
    if not planning.counts.removed:
        return []
    keys = f"SELECT {', '.join(KEY)} FROM live ANTI JOIN keyed USING (illust_id, page)"
    return _write(planning, "removed", keys, pa.schema(key_fields(planning.catalog.id_type)))


def _write_withheld(planning: _Planning) -> list[Part]:
    if not planning.counts.withheld:
        return []
    keys = f"SELECT {', '.join(KEY)} FROM withheld"
    return _write(planning, "withheld", keys, pa.schema(key_fields(planning.catalog.id_type)))


def _write(planning: _Planning, name: str, sql: str, schema: pa.Schema) -> list[Part]:
    return write_parts(planning.connection, sql, schema, planning.folder, f"{planning.prefix}/{name}")


def scoring_schema(id_type: pa.DataType) -> pa.Schema:
    """``plan_schema`` with ``attempts``, how often this content failed before, ``is_retry`` and ``reason``.

    A row that ``is_retry`` is tried for nothing but that it failed before. ``reason``: of ``REASONS``.
    """
    tried = [
        pa.field("attempts", pa.int16(), nullable=False),
        pa.field("is_retry", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
    return pa.schema([*plan_schema(id_type), *tried])
