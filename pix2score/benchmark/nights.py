"""plan, in Ray tasks: whole nights of any size, by ranges of keys or in one task, on one core or several.

A first night, where every row is new, a later one, in which 1 % of the rows change, 0.1 % are removed and as
many are new, and one of new ids alone, each planned and published; then the table is verified and read. Each
way runs in a process of its own, held to its cores, so that one core is one core.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
from pix2score.benchmark.night_steps import MeasuredWay, NightStep, Way, read_steps
from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.cluster.tasks import RayExecutor
from pix2score.cluster.temp import ray_temp
from pix2score.nightly import plan_night
from pix2score.nightly.publication import Publication
from pix2score.nightly.publish import publish_night
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live, live_number
from pix2score.snapshots.pieces import Origin
from pix2score.snapshots.read import read_embeddings, read_scores
from pix2score.snapshots.verify import verify_on
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
FILE_ROWS = 1_000_000
ONE_TASK_ROWS = 10_000_000
"""Up to so many rows a night is measured in one task too."""
TASK_MEMORY_BYTES = 6 * 2**30


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


LAST = "read"
NIGHTS = ("first", "later", "appended")


def _measure(place: Path, num_rows: int, way: Way, workers: int) -> None:
    """Every step of one way; its scores folder is removed at the end."""
    measured = MeasuredWay(place, num_rows, way, workers)
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


def _night(measured: MeasuredWay, night: str, number: int, catalog: Catalog) -> None:
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
