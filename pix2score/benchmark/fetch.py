"""fetch: what reading objects of S3 costs: CPU seconds and GETs per second, beside other clients.

Each client reads in a process of its own, so that all of its threads count, from a server in another process
that costs the client nothing; every fetch is an object as large as a picture.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pix2score.benchmark.s3_server import client_settings, running
from pix2score.cli.tables import aligned

logger = logging.getLogger(__name__)
OURS = "ours"
FETCHERS = (OURS, "obstore", "s3torchconnector", "awscrt", "s3fs", "boto3")
SIZES = {20_000: 1_000, 200_000: 500, 2_000_000: 100}
"""Bytes of an object -> how many of them are read in one turn."""


@dataclass(frozen=True, slots=True)
class FetchTiming:
    """One client and one size of object: medians over turns."""

    client: str
    bytes: int
    cpu_ms: float
    """CPU milliseconds of the client's process for one GET, all threads."""
    gets_per_s: float
    """While the server has the rest of this machine."""
    least_cpu_ms: float
    most_cpu_ms: float


def time_fetch(runs: int) -> list[FetchTiming]:
    """Time every client that is installed, in turns."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with running() as endpoint:
        names = [name for name in FETCHERS if _is_installed(name)]
        for _ in range(runs):
            for name in names:
                for size, turn in _in_process(name, endpoint).items():
                    found.setdefault((name, size), []).append(turn)
    return [_timing(name, size, turns) for (name, size), turns in found.items()]


def _timing(name: str, size: int, turns: Sequence[tuple[float, float]]) -> FetchTiming:
    cpu_ms = sorted(cpu_s * 1000 / SIZES[size] for cpu_s, _ in turns)
    rate = median(SIZES[size] / seconds for _, seconds in turns)
    return FetchTiming(name, size, *(round(x, 3) for x in (median(cpu_ms), rate, cpu_ms[0], cpu_ms[-1])))


def _is_installed(name: str) -> bool:
    try:
        importlib.import_module(__package__ if name == OURS else name)
    except ImportError:
        logger.warning("%s is not installed: left out", name)
        return False
    return True


def _in_process(name: str, endpoint: str) -> dict[int, tuple[float, float]]:
    """Bytes of an object -> CPU and wall seconds of one turn."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, name, endpoint],
        env={**os.environ, **client_settings(endpoint)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    return {int(size): turn for size, turn in json.loads(done.stdout.splitlines()[-1]).items()}


def measure(name: str, endpoint: str) -> dict[int, tuple[float, float]]:
    """Bytes of an object -> CPU and wall seconds of one turn, in this process."""
    read = importlib.import_module(f"pix2score.benchmark.fetchers.{name}").reader(endpoint)
    found: dict[int, tuple[float, float]] = {}
    for size, number in SIZES.items():
        read([f"{size}/warm-{i}" for i in range(32)])
        cpu_s, start = time.process_time(), time.perf_counter()
        num_bytes = read([f"{size}/{i}" for i in range(number)])
        found[size] = (time.process_time() - cpu_s, time.perf_counter() - start)
        assert num_bytes == size * number, f"{name}: {num_bytes} bytes of {size * number}"
    return found


def fetch_table(timings: Sequence[FetchTiming]) -> str:
    """One line per client and size: what a GET costs, and how many times what it costs ours."""
    ours = {timing.bytes: timing for timing in timings if timing.client == OURS}
    head = ["client", "KB", "CPU ms/GET", "(spread)", "times ours", "GETs/s"]
    rows = [
        [
            t.client,
            f"{t.bytes / 1000:g}",
            f"{t.cpu_ms:.2f}",
            f"({t.least_cpu_ms:.2f}-{t.most_cpu_ms:.2f})",
            f"{t.cpu_ms / ours[t.bytes].cpu_ms:.1f}x",
            f"{t.gets_per_s:.0f}",
        ]
        for t in sorted(timings, key=lambda t: t.bytes)
    ]
    return aligned([head, *rows])


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
