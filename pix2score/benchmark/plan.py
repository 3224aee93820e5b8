"""plan: time, memory and temporary disk of planning and rewriting a night in one process, by rows.

Catalogs and live snapshots are generated. Rows have the honest shape: a 24-character id, a page, a
32-character etag on both sides; SCORES rows of the ``pixiv`` heads. Between the nights 1 % of the rows
change, 0.1 % are removed and as many are new. A first night, where every row is new, is timed beside it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pix2score.benchmark.generated import MODEL_VERSION, pixiv_layout, staged, write_catalog, write_live
from pix2score.benchmark.processes import looking, memory_of
from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.host.executor import LocalThreads
from pix2score.nightly.merge import merge_range
from pix2score.nightly.plan import plan_scoring
from pix2score.nightly.publication import Publication
from pix2score.nightly.publish import publish_night
from pix2score.nightly.ranges import Changes, sort_changes
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.pieces import Origin
from pix2score.storage.folder import Folder

FILE_ROWS = 250_000


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work: wall and CPU seconds, peak memory (RSS of this process), most temporary disk."""

    seconds: float
    cpu_s: float
    peak_mib: int
    disk_bytes_per_row: int


@dataclass(frozen=True, slots=True)
class FirstNight:
    """Every row is new: planned; sorted, once scored; merged into the scores table."""

    plan: Step
    sort: Step
    merge: Step


@dataclass(frozen=True, slots=True)
class PlanTiming:
    """One size: seconds and peak memory (RSS) of the plan and of the rewriting with publication."""

    rows: int
    to_score: int
    plan_s: float
    plan_peak_mib: int
    rewrite_s: float
    rewrite_peak_mib: int
    plan: Step
    """The same once more, with CPU seconds and temporary disk."""
    rewrite: Step
    first: FirstNight


def time_plan(place: Path, num_rows: int) -> PlanTiming:
    """Plan and write a night of ``num_rows`` live rows, and a first night of as many; return the timings.

    Everything is in the folder ``place``, empty before.
    """
    with _temporary_files_in(place / "temporary") as scratch:
        catalog = open_catalog(write_catalog(Folder(str(place / "catalog")), num_rows, FILE_ROWS), Columns())
        to_score, plan, rewrite = _time_later(place / "scores", catalog, num_rows, scratch)
        pa.default_memory_pool().release_unused()
        first = _time_first(place / "first", catalog, num_rows, scratch)
    later = (plan.seconds, plan.peak_mib, rewrite.seconds, rewrite.peak_mib)
    return PlanTiming(num_rows, to_score, *later, plan=plan, rewrite=rewrite, first=first)


def _time_first(place: Path, catalog: Catalog, num_rows: int, scratch: Path) -> FirstNight:
    folder, layout, run = Folder(str(place)), pixiv_layout(), "benchmark-1"
    origin = Origin(run=run, model_version=MODEL_VERSION, parent=0)
    request = ScoringRequest(origin=origin, layout=layout)
    plan, planned = _step(
        lambda: plan_scoring(catalog, folder, f"staged/{run}/plan", request), scratch, num_rows
    )
    night = Changes(staged(folder, origin, layout, plan.parts), [], [], [], plan.counts.planned)
    (ranges, _), sort = _step(
        lambda: sort_changes(folder, f"staged/{run}/changes", run, layout, [], night), scratch, num_rows
    )
    calls = [(folder, run, layout, keys) for keys in ranges]
    _, merge = _step(lambda: list(LocalThreads().each(merge_range, calls)), scratch, num_rows)
    return FirstNight(planned, sort, merge)


def _time_later(place: Path, catalog: Catalog, num_rows: int, scratch: Path) -> tuple[int, Step, Step]:
    """Rows to score, planning, and rewriting with publication."""
    workers, folder = LocalThreads(), Folder(str(place))
    snapshot = write_live(folder, num_rows, FILE_ROWS)
    origin = Origin(run="benchmark-2", model_version=MODEL_VERSION, parent=snapshot.number)
    request = ScoringRequest(origin=origin, layout=snapshot.layout, live=snapshot)
    plan, planned = _step(
        lambda: plan_scoring(catalog, folder, "staged/benchmark-2/plan", request), scratch, num_rows
    )
    receipts = staged(folder, origin, snapshot.layout, plan.parts)
    publication = Publication(folder, origin, snapshot.layout, snapshot, plan, receipts)
    facts = {"fingerprint_kind": "etag", "config": {}}
    _, rewrite = _step(lambda: publish_night(publication, facts, workers), scratch, num_rows)
    return plan.counts.to_score, planned, rewrite


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[Path]:
    """Temporary files of this process go to ``folder``, where they can be counted."""
    folder.mkdir(parents=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before


def _step(function: Callable[[], Any], scratch: Path, num_rows: int) -> tuple[Any, Step]:
    before = os.times()
    with _largest(lambda: _disk_bytes(scratch)) as disk:
        result, seconds, peak_mib = _measured(function)
    after = os.times()
    cpu_s = round(after.user + after.system - before.user - before.system, 2)
    return result, Step(seconds, cpu_s, peak_mib, disk[0] // num_rows)


def _disk_bytes(folder: Path) -> int:
    """Of all files below; one that is removed meanwhile counts as nothing."""
    size = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += os.stat(os.path.join(top, name)).st_blocks * 512
    return size


def _memory() -> int:
    return memory_of(os.getpid())[0]


def _measured(function: Callable[[], Any]) -> tuple[Any, float, int]:
    with _largest(_memory) as peak:
        start = time.monotonic()
        result = function()
        seconds = time.monotonic() - start
    return result, round(seconds, 2), peak[0] // 2**20


@contextmanager
def _largest(measure: Callable[[], int]) -> Iterator[list[int]]:
    """The largest of what ``measure`` gives while the block runs."""
    found = [0]

    def look() -> None:
        found[0] = max(found[0], measure())

    with looking(look):
        yield found


def plan_line(timing: PlanTiming) -> str:
    """One line per step, for people."""
    first = timing.first
    steps = {
        "plan": timing.plan,
        "rewrite": timing.rewrite,
        "first plan": first.plan,
        "first sort": first.sort,
        "first merge": first.merge,
    }
    lines = [f"{timing.rows / 1e6:g} M rows, {timing.to_score} to score, then a first night, all to score:"]
    lines += [
        f"{name:<12}{step.seconds:>8.1f} s {step.cpu_s:>8.1f} s CPU {step.peak_mib:>6} MiB "
        f"{step.disk_bytes_per_row:>5} bytes of disk a row"
        for name, step in steps.items()
    ]
    return "\n".join(lines)
