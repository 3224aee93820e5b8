"""list: what a catalog of a bucket costs, beside a plain listing of it: seconds, CPU seconds, peak memory.

Each is a process of its own, from the start of Python to its end; the server, in another process, makes up
pages of 1,000 objects by their number.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pix2score.benchmark.s3_server import BUCKET, LISTED, client_settings, running
from pix2score.cli.tables import aligned

WAYS = ("catalog", "catalog, nothing changed", "s3fs find")


@dataclass(frozen=True, slots=True)
class ListTiming:
    """One way to list ``objects``."""

    way: str
    objects: int
    seconds: float
    cpu_s: float
    """Of all threads, start of the process included."""
    peak_mib: int


def time_listing(num_objects: int) -> list[ListTiming]:
    """Make a catalog of a bucket, once more when it is there, and list the bucket by s3fs."""
    with running() as endpoint, tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
        return [_in_process(way, num_objects, endpoint, Path(folder)) for way in WAYS]


def _in_process(way: str, num_objects: int, endpoint: str, folder: Path) -> ListTiming:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", __name__, way, str(num_objects), str(folder / "catalog.parquet")],
        env={**os.environ, **client_settings(endpoint)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=3600,
        check=True,
    )
    cpu_s, peak_mib = json.loads(done.stdout.splitlines()[-1])
    return ListTiming(way, num_objects, round(time.monotonic() - start, 1), cpu_s, peak_mib)


def measure(way: str, num_objects: int, out: str) -> tuple[float, int]:
    """CPU seconds and peak memory (MiB) of this process, in which ``way`` has listed the objects."""
    place = f"s3://{BUCKET}/{LISTED}/{num_objects}"
    if way == "s3fs find":
        from pix2score.storage.folder import Folder

        found = len(Folder(place).entries())
    else:
        from pix2score.catalog.config import CatalogConfig
        from pix2score.catalog.job import catalog

        found = catalog(CatalogConfig(images=place, out=out))["rows"]["pictures"]
    assert found == num_objects, f"{found} of {num_objects} objects"
    times = os.times()
    return round(times.user + times.system, 2), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def list_table(timings: Sequence[ListTiming]) -> str:
    """One line per way."""
    head = ["", "objects", "seconds", "CPU s", "peak MiB"]
    rows = [[t.way, str(t.objects), f"{t.seconds:.1f}", f"{t.cpu_s:.1f}", str(t.peak_mib)] for t in timings]
    return aligned([head, *rows])


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
