"""A night's plan, made by as many tasks as its size asks for: one, or one for each range of keys
(``plan_by_ranges``)."""

from __future__ import annotations

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.rows import estimated_rows
from pix2score.host.executor import Executor
from pix2score.nightly.plan import ScoringPlan, plan_scoring
from pix2score.nightly.plan_by_ranges import plan_by_ranges
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.leases import Lease
from pix2score.storage.folder import Folder

ONE_TASK_ROWS = 20_500_000
"""Rows of catalog and live snapshot together that one task plans: 10 M images take it half a minute."""
RANGE_ROWS, NUM_RANGES = (1_000_000, 2_000_000), 64
"""Rows of a range, from the first to the second number, for about so many ranges: many even out among
workers, too many cost a request for each of each other's."""


def plan_night(
    catalog: Catalog,
    folder: Folder,
    prefix: str,
    request: ScoringRequest,
    executor: Executor,
    *,
    dry_run: bool = False,
    one_task_rows: int = ONE_TASK_ROWS,
    range_rows: int | None = None,
) -> ScoringPlan:
    """As ``plan.plan_scoring``, by one task of ``executor``, or by ranges of about ``range_rows``.

    By ranges if catalog and live snapshot together have more than ``one_task_rows``. What tasks hand to each
    other is written below ``prefix`` then, also under ``dry_run``, with a lease of the folder, and removed at
    the end, whatever comes of it.
    """
    live_rows = sum(file.rows for file in request.live.files_of("scores")) if request.live else 0
    num_bytes = sum(entry.size for entry in catalog.files)  # no fewer than rows: footers cost requests
    num_rows = num_bytes if num_bytes + live_rows <= one_task_rows else estimated_rows(catalog)
    if num_rows + live_rows <= one_task_rows:
        return executor.call(plan_scoring, catalog, folder, prefix, request, dry_run=dry_run)
    least, most = RANGE_ROWS
    range_rows = range_rows or min(max((num_rows + live_rows) // NUM_RANGES, least), most)
    keeps, lease = False, Lease(folder, request.origin.run, request.holder)
    hashes: list[str] = []
    lease.take()
    try:
        with lease.renewed():
            plan = plan_by_ranges(
                catalog, folder, prefix, request, executor, num_rows, range_rows, dry_run, hashes
            )
        keeps = not (dry_run or plan.counts.changes_nothing)
        return plan
    finally:
        if not keeps:
            lease.release()
            folder.delete(hashes)
        top = f"{prefix}/dealt" if keeps else prefix
        folder.delete([f"{top}/{entry.path}" for entry in (folder / top).entries()])
