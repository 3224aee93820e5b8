"""A night's plan by ranges of keys. No process holds or sorts it all.

Tasks deal the catalog's rows out by range; a task for each range compares its rows with the live ones; counts
add up, and limits hold for the sum; a task for each range takes out what earlier runs staged; and what is
left is brought into the one order of work.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from operator import xor
from typing import Any, cast

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.rows import UpdatedTexts, is_updated_text, no_rows
from pix2score.catalog.shares import shares
from pix2score.host.executor import Executor
from pix2score.nightly import deal
from pix2score.nightly.bounds import Bounds, chosen_bounds, overlapping
from pix2score.nightly.carry import carried_columns
from pix2score.nightly.earlier import Night, Resumed, resumed_of
from pix2score.nightly.guards import check_fits, check_limits
from pix2score.nightly.plan import ScoringPlan, scoring_schema
from pix2score.nightly.plan_range import (
    DamagedLiveError,
    RangePlan,
    plan_range,
    texts_of_range,
)
from pix2score.nightly.request import ScoringCounts, ScoringRequest
from pix2score.nightly.space import Space
from pix2score.nightly.stored import stored_schema
from pix2score.nightly.wanted import warn_of_damage
from pix2score.nightly.work_order import Ordered, write_in_order
from pix2score.snapshots.pieces import renew
from pix2score.snapshots.snapshot import CarriedColumns, Snapshot
from pix2score.snapshots.tables import DataFile
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part, part_rows, total_rows
from pix2score.storage.slices import Slices

logger = logging.getLogger(__name__)
_UNKNOWN = ("files", "lists", "consumed", "catalog", "config", "account", "runs")
"""Of a manifest, what tasks do not ask for; it grows with the table."""


def plan_by_ranges(
    catalog: Catalog,
    folder: Folder,
    prefix: str,
    request: ScoringRequest,
    executor: Executor,
    num_rows: int,
    range_rows: int,
    dry_run: bool,
    hashes: list[str],
) -> ScoringPlan:
    """As ``plan.plan_scoring``, of about ``num_rows`` rows by ranges of about ``range_rows``.

    ``hashes``: gets the paths of what is kept of embedded images, should the plan be.
    """
    live = request.live
    if live:
        check_fits(catalog, request, folder, live)
    night, of_catalog = _dealt(
        catalog, folder, prefix, request, executor, num_rows=num_rows, range_rows=range_rows, hashes=hashes
    )
    ranges = _planned(night, of_catalog)
    folder.delete([slices.path for slices in of_catalog])  # the disk may need the room
    counts = night.counts
    counts.duplicate_key = counts.catalog_rows - counts.null_id - counts.keys
    if not counts.keys:
        raise no_rows(catalog, counts.catalog_rows)
    check_limits(catalog, request, counts)
    carry = _carried(catalog, request, ranges)
    counts.recarried = int(live is not None and live.manifest.get("carry") != carry)
    if counts.changes_nothing:
        return ScoringPlan(counts)
    if dry_run:
        resumed_of(night, [one.wanted for one in ranges], writes=False)
        return ScoringPlan(counts)
    return _written(night, ranges, carry)


def _dealt(
    catalog: Catalog,
    folder: Folder,
    prefix: str,
    request: ScoringRequest,
    executor: Executor,
    *,
    num_rows: int,
    range_rows: int,
    hashes: list[str],
) -> tuple[Night, list[Slices]]:
    """Deal the catalog's rows out by range; return what tasks share, and where each range finds its rows."""
    live = request.live
    files = live.files_of("scores") if live else []
    shared = shares(catalog, min(deal.SHARE_ROWS, range_rows), num_rows)
    samples = list(executor.each(deal.sampled, [(catalog, share) for share in shared]))
    bounds = chosen_bounds(files, samples, range_rows)
    logger.info("planning about %d rows by %d ranges", num_rows, bounds.number)
    space = Space(
        folder=folder,
        prefix=prefix,
        temporary=f"{prefix}/dealt",
        catalog=replace(catalog, files=()),
        request=replace(request, live=_without_files(live)),
        bounds=bounds,
    )
    calls = [(folder, f"{space.temporary}/catalog", catalog, bounds, share) for share in shared]
    dealt = list(executor.each(deal.deal_catalog, calls, memory_bytes=deal.DEAL_BYTES))
    hashes += [path for one in dealt for path in one.hashes]
    catalog.check_unchanged()
    of_catalog = [one.slices for one in dealt if one.slices]
    night = Night(
        executor=executor,
        space=space,
        live=live,
        live_files=files,
        range_rows=_rows_of_ranges(of_catalog, files, bounds),
    )
    night.counts.catalog_rows = sum(one.rows for one in dealt)
    night.counts.null_id = sum(one.null_id for one in dealt)
    return night, of_catalog


def _without_files(live: Snapshot | None) -> Snapshot | None:
    """What tasks know of the live snapshot."""
    if live is None:
        return None
    known: Any = {name: value for name, value in live.manifest.items() if name not in _UNKNOWN}
    known["files"] = []
    return Snapshot(live.number, known)


def _rows_of_ranges(dealt: Sequence[Slices], live: Sequence[DataFile], bounds: Bounds) -> list[int]:
    found = [sum(int(slices.rows[number]) for slices in dealt) for number in range(bounds.number)]
    return [
        rows + sum(file.rows for file in overlapping(live, bounds.low(n), bounds.high(n)))
        for n, rows in enumerate(found)
    ]


def _planned(night: Night, dealt: list[Slices]) -> list[RangePlan]:
    """Every range; its counts are added up in ``night.counts``."""
    texts = _texts(night, dealt) if is_updated_text(night.space.catalog) else None
    try:
        ranges = _plan_each(night, dealt, texts)
    except DamagedLiveError as exc:
        warn_of_damage(exc)
        night.live_files = []
        ranges = _plan_each(night, dealt, texts)
    for one in ranges:
        for counted in fields(ScoringCounts):
            total = getattr(night.counts, counted.name) + getattr(one.counts, counted.name)
            setattr(night.counts, counted.name, total)
    return ranges


def _texts(night: Night, dealt: list[Slices]) -> UpdatedTexts:
    calls = [(night.space, dealt, number, night.range_rows[number]) for number in night.ranges]
    found = cast("list[UpdatedTexts]", night.each(texts_of_range, calls))
    example = next((one.example for one in found if one.texts > max(one.numbers, one.times)), None)
    return UpdatedTexts(
        texts=sum(one.texts for one in found),
        numbers=sum(one.numbers for one in found),
        times=sum(one.times for one in found),
        example=example or next((one.example for one in found if one.example), None),
    )


def _plan_each(night: Night, dealt: list[Slices], texts: UpdatedTexts | None) -> list[RangePlan]:
    calls = [
        (night.space, dealt, texts, number, night.live_of(number), night.range_rows[number])
        for number in night.ranges
    ]
    return night.each(plan_range, calls)


def _carried(catalog: Catalog, request: ScoringRequest, ranges: Sequence[RangePlan]) -> CarriedColumns | None:
    if not request.carry:
        return None
    return carried_columns(catalog, request.carry, functools.reduce(xor, (one.carry_hash for one in ranges)))


def _written(night: Night, ranges: Sequence[RangePlan], carry: CarriedColumns | None) -> ScoringPlan:
    """The plan, once nothing speaks against it any more."""
    resumed = resumed_of(night, [one.wanted for one in ranges], writes=True)
    numbers = sorted({number for one in resumed.ranges for number in one.numbers})
    used = [resumed.receipts[number] for number in numbers]
    renew(night.space.folder, [receipt for receipt in used if receipt.is_staged])
    failed: Counter[str] = Counter()
    for one in resumed.ranges:
        failed.update(one.failed)
    stored, parts = _in_order(night, ranges, resumed)
    return ScoringPlan(
        counts=night.counts,
        parts=parts,
        stored=stored,
        resumed=[part for one in resumed.ranges for part in one.resumed],
        resumed_from=used,
        removed=[part for one in ranges for part in one.removed],
        withheld=[part for one in ranges for part in one.withheld],
        carry=carry,
        carried=tuple(part for one in ranges for part in one.carried),
        resumed_failed=dict(sorted(failed.items())),
        resumed_failed_again=sum(one.num_failed_again for one in resumed.ranges),
        already_published=resumed.already_published,
        cuts=tuple(key for one in ranges for key in one.cuts),
        is_by_ranges=True,
    )


def _in_order(night: Night, ranges: Sequence[RangePlan], resumed: Resumed) -> tuple[list[Part], list[Part]]:
    """Parts of what stored embeddings answer, and of what is scored; ``limit`` counts both."""
    space, id_type, limit = night.space, night.space.id_type, night.space.request.limit
    num_lacking = sum(one.num_lacking for one in resumed.ranges)
    if num_lacking:
        logger.warning("%d rows lack their embedding: they are scored from their pictures", num_lacking)
    size = part_rows(night.counts.to_score)

    def written(name: str, found: Sequence[Ordered | None], schema: Any, most: int | None) -> list[Part]:
        of_ranges = [one for one in found if one]
        prefix = f"{space.prefix}/{name}"
        return write_in_order(night.executor, space.folder, prefix, of_ranges, schema, size, most)

    stored = written("stored", [one.stored for one in resumed.ranges], stored_schema(id_type), limit)
    left = None if limit is None else max(0, limit - total_rows(stored))
    rest = [one.rows for one in resumed.ranges] if resumed.ranges else [one.wanted for one in ranges]
    return stored, written("rows", rest, scoring_schema(id_type), left)
