"""What earlier runs left of a night that is planned by ranges: dealt out, and taken out of what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pix2score.host.executor import Executor
from pix2score.nightly import deal
from pix2score.nightly.bounds import overlapping
from pix2score.nightly.request import ScoringCounts
from pix2score.nightly.resume import offered, warn_of_doubtful
from pix2score.nightly.resume_range import Offer, ResumedRange, find_doubtful, resume_range
from pix2score.nightly.returned import removed_pieces, removed_rows, removed_schema
from pix2score.nightly.space import Space, memory_of
from pix2score.nightly.stored import place_rows, places_schema
from pix2score.nightly.work_order import Ordered
from pix2score.snapshots.damage import broken_files
from pix2score.snapshots.pieces import Receipt
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import DataFile, dead_schema
from pix2score.storage.slices import Slices


@dataclass(kw_only=True)
class Night:
    """A plan by ranges in the making."""

    executor: Executor
    space: Space
    live: Snapshot | None
    live_files: list[DataFile]
    range_rows: list[int]
    """About how many rows each range has, of catalog and live snapshot."""
    counts: ScoringCounts = field(default_factory=ScoringCounts)

    @property
    def ranges(self) -> range:
        """Numbers of all ranges."""
        return range(self.space.bounds.number)

    def live_of(self, number: int) -> list[DataFile]:
        """Live SCORES files that reach into a range."""
        bounds = self.space.bounds
        return overlapping(self.live_files, bounds.low(number), bounds.high(number))

    def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """``function(*call)`` of every call, a task for each range."""
        memory = memory_of(max(self.range_rows))
        return list(self.executor.each(function, calls, memory_bytes=memory))

    def dealt(self, function: Callable[..., Slices | None], calls: Sequence[tuple[Any, ...]]) -> list[Slices]:
        """What tasks dealt out by range."""
        found = self.executor.each(function, calls, memory_bytes=deal.DEAL_BYTES)
        return [slices for slices in found if slices]


@dataclass(frozen=True, slots=True)
class Resumed:
    """What earlier runs did of a plan."""

    receipts: list[Receipt]
    """All that offer rows: staged pieces, then removed rows."""
    already_published: list[Receipt]
    ranges: list[ResumedRange]
    """Those with anything to do; empty if no piece offers anything, and no head answers."""


def resumed_of(night: Night, wanted: Sequence[Ordered | None], *, writes: bool) -> Resumed:
    """What earlier runs did of what is ``wanted`` of each range; its counts are in ``night.counts``."""
    counts, request, live = night.counts, night.space.request, night.live
    receipts, already_published = offered(night.space.folder, request.origin, request.layout, live)
    may_return = counts.new or counts.waiting
    removed = removed_pieces(live, request.origin, request.layout) if may_return else []
    if removed and broken_files(night.space.folder, [receipt.scores for receipt in removed]):
        removed = []
    found: list[ResumedRange] = []
    if receipts or removed or counts.heads:
        offer = _offer(night, receipts, removed)
        calls = [
            (night.space, offer, number, one, night.range_rows[number], writes)
            for number, one in enumerate(wanted)
        ]
        found = [one for one in night.each(resume_range, calls) if one]
    counts.resumed = sum(one.num_resumed for one in found)
    counts.limited = max(0, counts.to_score - request.limit) if request.limit is not None else 0
    return Resumed([*receipts, *removed], already_published, found)


def _offer(night: Night, receipts: list[Receipt], removed: list[Receipt]) -> Offer:
    space, live = night.space, night.live
    staged = _deal_pieces(night, receipts)
    doubtful = _doubtful(night, receipts, staged)
    warn_of_doubtful(space.folder, receipts, doubtful)
    embeddings = live.files_of("embeddings") if live and night.counts.heads else []
    returned = [receipt.scores for receipt in removed]
    removed_kind = removed_schema(space.id_type)
    of_removed = _deal_files(night, "removed", removed_kind, removed_rows, returned, len(receipts))
    places_kind = places_schema(space.id_type)
    return Offer(
        pieces=[receipt.scores.path for receipt in (*receipts, *removed)],
        staged=staged,
        doubtful=doubtful,
        removed=of_removed,
        superseded=_deal_dead(night) if of_removed else [],
        living_runs=sorted(live.manifest.get("runs", {})) if live else [],
        places=_deal_files(night, "places", places_kind, place_rows, embeddings) if embeddings else None,
        embeddings=embeddings,
    )


def _deal_pieces(night: Night, receipts: list[Receipt]) -> list[Slices]:
    space = night.space
    groups = deal.together(receipts, [receipt.rows for receipt in receipts])
    prefix, layout = f"{space.temporary}/staged", space.request.layout
    calls = [(space.folder, prefix, layout, space.bounds, some, first) for first, some in groups]
    return night.dealt(deal.deal_pieces, calls)


def _deal_files(
    night: Night,
    name: str,
    schema: pa.Schema,
    read: Callable[..., Iterator[pa.RecordBatch]],
    files: list[DataFile],
    first: int = 0,
) -> list[Slices]:
    space = night.space
    groups = deal.together(files, [file.rows for file in files])
    prefix = f"{space.temporary}/{name}"
    calls = [
        (space.folder, prefix, schema, space.bounds, read, some, first + number) for number, some in groups
    ]
    return night.dealt(deal.deal_files, calls)


def _deal_dead(night: Night) -> list[Slices]:
    """All that is dead."""
    space, files = night.space, night.live.files_of("dead") if night.live else []
    groups = deal.together(files, [file.rows for file in files])
    prefix, schema = f"{space.temporary}/dead", dead_schema(space.id_type)
    calls = [(space.folder, prefix, schema, space.bounds, [file.path for file in some]) for _, some in groups]
    return night.dealt(deal.deal_keys, calls)


def _doubtful(night: Night, receipts: list[Receipt], staged: list[Slices]) -> list[int]:
    """Pieces that are left out though they are whole."""
    space, live = night.space, night.live
    if not staged:
        return []
    runs = {receipt.origin.run for receipt in receipts}
    files = live.files_of("dead") if live else []
    groups = deal.together(files, [file.rows for file in files])
    prefix = f"{space.temporary}/published"
    calls = [(space.folder, prefix, space.id_type, space.bounds, runs, some) for _, some in groups]
    published = night.dealt(deal.deal_published, calls)
    is_named = live is not None and bool(runs & {*live.manifest.get("runs", ())})
    of_live = [night.live_of(number) if is_named else [] for number in night.ranges]
    work = [
        (space, staged, published, runs, n, of_live[n], night.range_rows[n] + _staged_rows(staged, n))
        for n in night.ranges
    ]
    found = night.each(find_doubtful, work)
    return sorted({number for numbers in found for number in numbers})


def _staged_rows(staged: Sequence[Slices], number: int) -> int:
    return sum(int(slices.rows[number]) for slices in staged)
