"""benchmark: how fast a stage is on this machine, as a table for people and JSON for programs."""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import tyro

from pix2score.benchmark_plan import PlanTiming, time_plan
from pix2score.errors import ConfigError
from pix2score.storage import Folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """Settings of ``jobs.benchmark``."""

    stage: Literal["plan"] = "plan"
    """plan: planning a night and rewriting the narrow table, against a live snapshot of generated rows."""
    rows: tyro.conf.UseAppendAction[tuple[int, ...]] = ()
    """Rows of the live snapshot; may be repeated (default: 1, 3 and 10 million). A million takes about 0.5 GB of disk."""
    out: str | None = None
    """Folder for benchmark.json (default: none is written)."""

    def __post_init__(self) -> None:
        for rows in self.rows:
            if rows < 1000:
                raise ConfigError(f"rows {rows}: at least 1000")


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Timings of every size, with facts about the machine."""
    timings = []
    for rows in config.rows or (1_000_000, 3_000_000, 10_000_000):
        with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
            timings.append(time_plan(Path(folder), rows))
            logger.info("%s", _line(timings[-1]))
    result = {"job": "benchmark", "stage": config.stage, "machine": _machine(), "timings": [asdict(timing) for timing in timings]}
    if config.out:
        Folder(config.out).publish("benchmark.json", json.dumps(result, indent=1).encode(), replace=True)
    return result


def _line(timing: PlanTiming) -> str:
    return (
        f"{timing.rows / 1e6:g} M rows, {timing.to_score} to score: plan {timing.plan_s:.1f} s, {timing.plan_peak_mib} MiB; "
        f"rewrite {timing.rewrite_s:.1f} s, {timing.rewrite_peak_mib} MiB"
    )


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    versions = {"python": platform.python_version(), "duckdb": duckdb.__version__, "pyarrow": pa.__version__}
    return {"cores": cores, "cpu": platform.machine(), "load": os.getloadavg()[0], **versions}
