"""Stages of rows and objects, without a network: each measured as the config says, told in the log, and as
plain values."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pix2score.benchmark.config import BenchmarkConfig
from pix2score.benchmark.fetch import fetch_table, time_fetch
from pix2score.benchmark.listing import list_table, time_listing
from pix2score.benchmark.nights import time_nights
from pix2score.benchmark.plan import plan_line, time_plan
from pix2score.cli.packages import need

logger = logging.getLogger(__name__)


def plan_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """Planning and rewriting a night, of each size; with ``workers`` whole nights in Ray tasks."""
    if config.workers:
        return _nights(config)
    timings = []
    for rows in config.rows or (1_000_000, 3_000_000, 10_000_000):
        with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
            timings.append(time_plan(Path(folder), rows))
            logger.info("%s", plan_line(timings[-1]))
    return {"plan": [asdict(timing) for timing in timings]}


def _nights(config: BenchmarkConfig) -> dict[str, Any]:
    sizes = config.rows or (10_000_000,)
    with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
        steps = time_nights(Path(config.place or folder), sizes, config.workers)
    steps = [step for step in steps if step.rows in sizes]
    logger.info("%s", "\n".join(["", *(step.line() for step in steps)]))
    return {"nights": [asdict(step) for step in steps]}


def fetch_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """Objects of S3 read whole, by each client."""
    timings = time_fetch(config.runs)
    logger.info("objects of S3 read whole, from a server on this machine:\n%s", fetch_table(timings))
    return {"fetch": [asdict(timing) for timing in timings]}


def list_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """A bucket of each size listed."""
    timings = [timing for objects in config.rows or (1_000_000,) for timing in time_listing(objects)]
    logger.info("a bucket listed, from a server on this machine:\n%s", list_table(timings))
    return {"list": [asdict(timing) for timing in timings]}


def index_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """The index of neighbours of each size: built, loaded, asked, and brought up to date."""
    need("--stage index", "index", ("faiss",))
    from pix2score.benchmark.index import time_index

    timings = []
    for rows in config.rows or (100_000,):
        with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
            found = time_index(Path(folder), rows, config.dim)
        timings.append(found)
        logger.info(
            "%d embeddings of %d: built in %.0f s (%.0f s CPU, %d MiB), %d MiB of disk; loaded in %.1f s "
            "with %d MiB; recall@10 %.4f, %.1f ms a question (95th %.1f; %.1f ms CPU); exact pass %.0f s "
            "CPU; 1 %% of the rows changed: %.0f s (%.0f s CPU, %d MiB), %d MiB new",
            rows, config.dim, found.build.seconds, found.build.cpu_s, found.build.peak_mib, found.disk_mib,
            found.load_s, found.load_peak_mib, found.recall, found.ms, found.p95_ms, found.cpu_ms,
            found.exact.cpu_s, found.later.seconds, found.later.cpu_s, found.later.peak_mib, found.later_mib,
        )  # fmt: skip
    return {"index": [asdict(timing) for timing in timings]}
