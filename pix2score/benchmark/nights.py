"""plan, in Ray tasks: whole nights of any size, by ranges of keys or in one task, on one core or several.

A first night, where every row is new, a later one, in which 1 % of the rows change, 0.1 % are removed and as
many are new, and one of new ids alone, each planned and published; then the table is verified and read. Each
way runs in a process of its own, held to its cores, so that one core is one core.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray

from pix2score.benchmark.generated import (
    MODEL_VERSION,
    embedded,
    narrow_layout,
    num_files,
    stage_part,
    write_catalog_file,
    write_rows,
)
from pix2score.benchmark.processes import looking, memory_of, this_and_below
from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.cluster.tasks import RayExecutor
from pix2score.cluster.temp import ray_temp
from pix2score.nightly import plan_night
from pix2score.nightly.publish import Publication, publish_night
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live, live_number
from pix2score.snapshots.pieces import Origin
from pix2score.snapshots.read import read_embeddings, read_scores
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.verify import verify_on
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
FILE_ROWS = 1_000_000
ONE_TASK_ROWS = 10_000_000
"""Up to so many rows a night is measured in one task too."""
TASK_MEMORY_BYTES = 6 * 2**30
Way = Literal["one task", "ranges"]


@dataclass(frozen=True, slots=True)
class NightStep:
    """One step: wall and CPU seconds; most memory of a task and of the driver; bytes that it wrote."""

    rows: int
    way: Way
    workers: int
    step: str
    seconds: float
    cpu_s: float
    task_peak_mib: int
    driver_peak_mib: int
    table_mib: int = 0
    """Of a publication: the files of the scores table, of the dead and of removed rows that it wrote."""

    def line(self) -> str:
        """For people."""
        return (
            f"{self.rows / 1e6:>6g} M  {self.way:<8} {self.workers} cores  {self.step:<14}"
            f"{self.seconds:>8.1f} s {self.cpu_s:>8.1f} s CPU {self.task_peak_mib:>6} MiB a task "
            f"{self.driver_peak_mib:>5} MiB driver"
            + (f" {self.table_mib:>7} MiB of table" if self.table_mib else "")
        )


def time_nights(place: Path, sizes: Sequence[int], workers: Sequence[int]) -> list[NightStep]:
    """Measure nights of every size in ``place``; what its ``steps.jsonl`` has already is not measured again.

    A way that was broken off is measured from its beginning.
    """
    for num_rows in sizes:
        ways: list[tuple[Way, int]] = [("ranges", number) for number in workers]
        if num_rows <= ONE_TASK_ROWS:
            ways.insert(0, ("one task", max(workers)))
        for way, number in ways:
            done = [s for s in read_steps(place) if (s.rows, s.way, s.workers) == (num_rows, way, number)]
            if not any(step.step == LAST for step in done):
                _in_process(_measure, place, num_rows, way, number)
        shutil.rmtree(place / _catalogs(num_rows), ignore_errors=True)
    return read_steps(place)


def read_steps(place: Path) -> list[NightStep]:
    """What was measured in ``place``: of steps that were measured again, the last."""
    path = place / "steps.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    steps = [NightStep(**json.loads(line)) for line in lines]
    return list({(s.rows, s.way, s.workers, s.step): s for s in steps}.values())


def _in_process(function: Callable[..., None], *args: Any) -> None:
    """Run it in a process of its own, whose memory is its alone."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=args)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"a measurement ended with {process.exitcode}; what is above says why")


def _catalogs(num_rows: int) -> str:
    return f"catalogs-{num_rows}"


@contextmanager
def _ray(workers: int) -> Iterator[None]:
    """A Ray that runs so many tasks at a time, and this process and its own, on as many cores."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 * 2**20,
        _memory=TASK_MEMORY_BYTES,
        _temp_dir=ray_temp(),
    )
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True, slots=True)
class _Way:
    """How nights are measured, and where."""

    place: Path
    rows: int
    way: Way
    workers: int

    @property
    def scores(self) -> Folder:
        return Folder(str(self.place / f"scores-{self.rows}"))

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Do ``work``; write down and show what it took."""
        start = time.monotonic()
        with _watched() as seen:
            result = work()
            seconds = time.monotonic() - start
        step = NightStep(
            rows=self.rows,
            way=self.way,
            workers=self.workers,
            step=name,
            seconds=round(seconds, 2),
            cpu_s=round(seen.cpu_s, 2),
            task_peak_mib=seen.task_bytes // 2**20,
            driver_peak_mib=seen.driver_bytes // 2**20,
            table_mib=-(-_written(result) // 2**20) if isinstance(result, Snapshot) else 0,
        )
        logger.info("%s", step.line())
        with (self.place / "steps.jsonl").open("a") as file:
            file.write(json.dumps(asdict(step)) + "\n")
        return result


LAST = "read"
NIGHTS = ("first", "later", "appended")


def _measure(place: Path, num_rows: int, way: Way, workers: int) -> None:
    """Every step of one way; its scores folder is removed at the end."""
    measured = _Way(place, num_rows, way, workers)
    shutil.rmtree(measured.scores.uri, ignore_errors=True)
    with _ray(workers):
        for number, night in enumerate(NIGHTS):
            catalog = open_catalog(_generated(place, num_rows, night), Columns())
            _night(measured, night, number, catalog)
        measured.step("verify", lambda: verify_on(VerifyConfig(scores=measured.scores.uri), RayExecutor()))
        measured.step(LAST, lambda: _read(measured.scores.uri))
    shutil.rmtree(measured.scores.uri, ignore_errors=True)


def _read(place: str) -> int:
    """Rows of both tables, all of them read, some columns."""
    scores = read_scores(place).to_batches(columns=["illust_id", "page", "status"])
    embeddings = read_embeddings(place).to_batches(columns=["illust_id", "embedding"])
    return sum(int(batch.num_rows) for batches in (scores, embeddings) for batch in batches)


def _generated(place: Path, num_rows: int, night: str) -> str:
    """The catalog of a night, written if it is not there."""
    folder = Folder(str(place / _catalogs(num_rows) / night))
    done = {entry.path for entry in folder.top_entries()}
    missing = [n for n in range(num_files(num_rows, FILE_ROWS)) if f"part-{n:05}.parquet" not in done]
    calls = [(folder, n, num_rows, FILE_ROWS, night != "first") for n in missing]
    for number, _ in enumerate(RayExecutor().each(write_catalog_file, calls), 1):
        if number % 10 == 0 or number == len(calls):
            logger.info("catalog of the %s night: %d of %d files", night, number, len(calls))
    if night == "appended":  # new ids behind all others: a thousandth of the rows
        numbers = np.arange(3 * num_rows, 3 * num_rows + max(1000, num_rows // 1000))
        write_rows(folder, "part-more.parquet", numbers, np.zeros(len(numbers), np.bool_))
    return folder.uri


def _night(measured: _Way, night: str, number: int, catalog: Catalog) -> None:
    """Plan, stage and publish one night."""
    folder, executor = measured.scores, RayExecutor()
    layout = narrow_layout()
    parent = live_number(folder)
    snapshot = live(folder.uri) if parent else None
    origin = Origin(run=f"benchmark-{number}", model_version=MODEL_VERSION, parent=parent)
    request = ScoringRequest(origin=origin, layout=layout, live=snapshot)
    one_task_rows = sys.maxsize if measured.way == "one task" else 0
    plan = measured.step(
        f"{night} plan",
        lambda: plan_night.plan_night(
            catalog, folder, f"staged/{origin.run}/plan", request, executor, one_task_rows=one_task_rows
        ),
    )
    calls = [(folder, origin, layout, n, part, embedded) for n, part in enumerate(plan.parts)]
    receipts = []
    for receipt in executor.each(stage_part, calls):
        receipts.append(receipt)
        if len(receipts) % 100 == 0:
            logger.info("%s night: %d of %d pieces staged", night, len(receipts), len(calls))
    publication = Publication(folder, origin, layout, snapshot, plan, receipts)
    facts = {"fingerprint_kind": "etag", "config": {"columns": asdict(catalog.asked)}}
    measured.step(f"{night} publish", lambda: publish_night(publication, facts, executor))


def _written(snapshot: Snapshot) -> int:
    """Bytes of the files of the table that the night wrote itself."""
    files = [file for file in snapshot.files if file.run == snapshot.manifest["run"]]
    return sum(file.bytes for file in files if file.table != "embeddings")


@dataclass(slots=True)
class _Seen:
    """Of this process and of Ray's workers, while something runs."""

    cpu_s: float = 0.0
    task_bytes: int = 0
    driver_bytes: int = 0


@contextmanager
def _watched() -> Iterator[_Seen]:
    """Filled while the block runs, and at its end."""
    seen, seconds = _Seen(), dict[int, tuple[float, float]]()

    def look() -> None:
        for process in this_and_below():
            is_driver = process.pid == os.getpid()
            if is_driver or process.line.startswith("ray::"):
                first = seconds.get(process.pid, (process.cpu_s, 0.0))[0]
                seconds[process.pid] = first, process.cpu_s
                resident, shared = memory_of(process.pid)
                if is_driver:
                    seen.driver_bytes = max(seen.driver_bytes, resident - shared)
                else:
                    seen.task_bytes = max(seen.task_bytes, resident - shared)

    with looking(look):
        yield seen
    seen.cpu_s = sum(last - first for first, last in seconds.values())
