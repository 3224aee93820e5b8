"""plan: time, memory and temporary disk of planning and rewriting a night, by the number of rows.

Catalogs and live snapshots are generated. Rows have the honest shape: a 24-character id, a page, a
32-character etag on both sides; SCORES rows of the ``pixiv`` heads. Between the nights 1 % of the rows
change, 0.1 % are removed and as many are new. A first night, where every row is new, is timed beside it.
"""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.heads.bins import median_bin
from pix2score.heads.presets import preset
from pix2score.nightly.executor import LocalThreads
from pix2score.nightly.merge import merge_range
from pix2score.nightly.plan import ScoringPlan, plan_scoring
from pix2score.nightly.publish import Publication, publish_night
from pix2score.nightly.ranges import Changes, sort_changes
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.manifest import Snapshot, publish
from pix2score.snapshots.pieces import Origin, Receipt, write_piece
from pix2score.snapshots.tables import Layout, unique_path, write_file
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches, parquet_bytes
from pix2score.storage.parts import Part

FILE_ROWS = 250_000
EMBEDDING_DIM = 4  # embeddings are not read: their files only have to be there
MODEL_VERSION = "benchmark000"
_POLL_S = 0.05


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
        catalog = open_catalog(_write_catalog(place / "catalog", num_rows), Columns())
        to_score, plan, rewrite = _time_later(place / "scores", catalog, num_rows, scratch)
        pa.default_memory_pool().release_unused()
        first = _time_first(place / "first", catalog, num_rows, scratch)
    later = (plan.seconds, plan.peak_mib, rewrite.seconds, rewrite.peak_mib)
    return PlanTiming(num_rows, to_score, *later, plan=plan, rewrite=rewrite, first=first)


def _time_first(place: Path, catalog: Catalog, num_rows: int, scratch: Path) -> FirstNight:
    folder, layout, run = Folder(str(place)), _layout(), "benchmark-1"
    origin = Origin(run=run, model_version=MODEL_VERSION, parent=0)
    request = ScoringRequest(origin=origin, layout=layout)
    plan, planned = _step(
        lambda: plan_scoring(catalog, folder, f"staged/{run}/plan", request), scratch, num_rows
    )
    night = Changes(_score(folder, origin, layout, plan), [], [], [], plan.counts.planned)
    (ranges, _), sort = _step(
        lambda: sort_changes(folder, f"staged/{run}/changes", run, layout, [], night), scratch, num_rows
    )
    calls = [(folder, run, layout, keys) for keys in ranges]
    _, merge = _step(lambda: list(LocalThreads().each(merge_range, calls)), scratch, num_rows)
    return FirstNight(planned, sort, merge)


def _time_later(place: Path, catalog: Catalog, num_rows: int, scratch: Path) -> tuple[int, Step, Step]:
    """Rows to score, planning, and rewriting with publication."""
    workers, folder = LocalThreads(), Folder(str(place))
    snapshot = _write_live(folder, num_rows)
    origin = Origin(run="benchmark-2", model_version=MODEL_VERSION, parent=snapshot.number)
    request = ScoringRequest(origin=origin, layout=snapshot.layout, live=snapshot)
    plan, planned = _step(
        lambda: plan_scoring(catalog, folder, "staged/benchmark-2/plan", request), scratch, num_rows
    )
    receipts = _score(folder, origin, snapshot.layout, plan)
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
    with _watched(lambda: _disk_bytes(scratch)) as disk:
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


def _measured(function: Callable[[], Any]) -> tuple[Any, float, int]:
    with _watched(_memory) as peak:
        start = time.monotonic()
        result = function()
        seconds = time.monotonic() - start
    return result, round(seconds, 2), peak[0] // 2**20


def _memory() -> int:
    """Resident memory of this process in bytes; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def _watched(measure: Callable[[], int]) -> Iterator[list[int]]:
    """The largest of what ``measure`` gives while the block runs."""
    peak, stop = [measure()], threading.Event()

    def watch() -> None:
        while not stop.wait(_POLL_S):
            peak[0] = max(peak[0], measure())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _ids(numbers: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array([f"illustration{number:012}" for number in numbers])


def _etags(numbers: npt.NDArray[np.int64], version: npt.NDArray[np.bool_]) -> list[str]:
    return [f"{int(new):08x}{number:024x}" for number, new in zip(numbers, version, strict=True)]


def _write_catalog(folder: Path, num_rows: int) -> str:
    """Write a catalog in no order of keys; return its place.

    Every hundredth row has another etag than the live snapshot, every thousandth is another illustration.
    """
    order = np.random.default_rng(0).permutation(-(-num_rows // FILE_ROWS))
    for number, block in enumerate(order):
        rows = np.arange(block * FILE_ROWS, min(num_rows, (block + 1) * FILE_ROWS))
        rows = np.random.default_rng(number).permutation(rows)
        ids = np.where(rows % 1000 == 7, rows + num_rows, rows)
        columns = {"illust_id": _ids(ids), "page": pa.array(np.zeros(len(rows), np.int32))}
        columns |= {"uri": [f"images/{i}.jpg" for i in ids], "etag": _etags(ids, rows % 100 == 3)}
        Folder(str(folder)).publish(f"part-{number:05}.parquet", parquet_bytes(pa.table(columns)))
    return str(folder)


def _layout() -> Layout:
    heads = tuple(
        h.fitted(edges=h.edges, counts=[1] * h.num_bins, typical=list(range(h.num_bins)))
        for h in preset("pixiv")
    )
    return Layout(pa.string(), heads, EMBEDDING_DIM, "float16")


def _write_live(folder: Folder, num_rows: int) -> Snapshot:
    layout = _layout()
    pool = _predictions(FILE_ROWS)
    files = []
    for start in range(0, num_rows, FILE_ROWS):
        rows = np.arange(start, min(num_rows, start + FILE_ROWS))
        table = _scores(
            layout,
            pool,
            _ids(rows),
            [f"etag:{etag}" for etag in _etags(rows, np.zeros(len(rows), bool))],
            "benchmark-1",
        )
        files.append(write_file(folder, "scores", unique_path("scores", "benchmark-1"), table))
    counts = {"rows": num_rows, "ok": num_rows, "failed": 0, "failed_by_code": {}}
    manifest = {
        "run": "benchmark-1",
        "model_version": MODEL_VERSION,
        "layout": layout.to_dict(),
        "fingerprint_kind": "etag",
    }
    return publish(
        folder, 0, {**manifest, "counts": counts, "runs": {}, "files": [asdict(file) for file in files]}
    )


def _predictions(num_rows: int) -> dict[str, pa.Array]:
    """Head columns of ``num_rows`` rows, with probabilities that do not compress."""
    rng, columns = np.random.default_rng(1), {}
    for head in preset("pixiv"):
        probs = rng.dirichlet(np.ones(head.num_bins), num_rows).astype(np.float32)
        columns[f"{head.name}_bin"] = pa.array(probs.argmax(axis=1).astype(np.int16))
        columns[f"{head.name}_probs"] = fixed_lists(probs)
        columns[f"{head.name}_score"] = pa.array(probs[:, 0])
        columns[f"{head.name}_expected"] = pa.array(probs[:, 1] * 1000)
        columns[f"{head.name}_median"] = pa.array(median_bin(probs.astype(np.float64)))
    return columns


def _scores(
    layout: Layout, pool: dict[str, pa.Array], ids: pa.Array, fingerprints: Sequence[str], run: str
) -> pa.Table:
    num_rows = len(ids)
    columns = {name: array.slice(0, num_rows) for name, array in pool.items()}
    columns |= {
        "illust_id": ids,
        "page": pa.array(np.zeros(num_rows, np.int32)),
        "status": pa.repeat(pa.scalar("ok"), num_rows),
    }
    columns |= {name: pa.nulls(num_rows, pa.string()) for name in ("error_code", "error_detail")}
    columns |= {
        "attempts": pa.array(np.ones(num_rows, np.int16)),
        "fingerprint": pa.array(fingerprints),
        "run": pa.repeat(run, num_rows),
        "embedding_run": pa.repeat(run, num_rows),
    }
    columns["scored_at"] = pa.array(np.full(num_rows, 1_763_000_000_000_000), pa.timestamp("us", tz="UTC"))
    return pa.table([columns[name] for name in layout.scores.names], schema=layout.scores)


def _score(folder: Folder, origin: Origin, layout: Layout, plan: ScoringPlan) -> list[Receipt]:
    """Pieces for every planned row, with made-up predictions."""
    pool = _predictions(max(part.rows for part in plan.parts))
    return [_piece(folder, origin, layout, pool, number, part) for number, part in enumerate(plan.parts)]


def _piece(
    folder: Folder, origin: Origin, layout: Layout, pool: dict[str, pa.Array], number: int, part: Part
) -> Receipt:
    rows = pa.Table.from_batches(parquet_batches(folder, [part.path], ["illust_id", "fingerprint"]))
    scores = _scores(layout, pool, rows.column(0).combine_chunks(), rows.column(1).to_pylist(), origin.run)
    return write_piece(folder, origin, f"piece-{number:06}", layout, scores, layout.embeddings.empty_table())
