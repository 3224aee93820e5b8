"""S8: the driver's memory does not grow with the number of images. Whole processes, measured by the
kernel."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.models import catalog_of, cheap_model

SCRIPT = """
import json, sys
from pix2score.score.job import score
from pix2score.score.config import ScoreConfig
result = score(ScoreConfig(catalog=sys.argv[1], model=sys.argv[2], out=sys.argv[3]))
# Not ru_maxrss: that one is inherited over fork and exec.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"scored": result["scored"], "peak_kb": int(peak)}))
"""


@pytest.mark.endurance
@pytest.mark.timeout(1500)
def test_s8_ten_times_the_images_take_no_more_memory_in_driver_and_workers(tmp_path: Path) -> None:
    model = cheap_model(tmp_path / "model")
    driver, worker = {}, {}
    for num_rows in (10_000, 100_000):
        catalog = catalog_of(num_rows, tmp_path / f"{num_rows}.parquet")
        words = [sys.executable, "-c", SCRIPT, catalog, model, str(tmp_path / f"scores-{num_rows}")]
        job = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        worker[num_rows] = _peak_of_workers_mib(job)
        assert job.stdout is not None
        result = json.loads(job.stdout.read().splitlines()[-1])
        assert result["scored"] == num_rows
        driver[num_rows] = result["peak_kb"] / 1024
    print(f"peak of the driver: {driver} MiB, of its largest worker: {worker} MiB")
    assert (
        driver[100_000] < driver[10_000] + 60
    )  # 90,000 rows of pixels, scores and embeddings would be over 300 MiB
    assert worker[100_000] < worker[10_000] + 60


def _peak_of_workers_mib(job: subprocess.Popen[str]) -> float:
    """While ``job`` runs: the greatest peak of any of Ray's worker processes, by the kernel's account."""
    peak = 0.0
    while job.poll() is None:
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                if status.with_name("cmdline").read_bytes().startswith(b"ray::"):
                    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
                    peak = max(peak, int(line.split()[1]) / 1024)
            except (OSError, StopIteration):
                continue
        time.sleep(0.5)
    return peak
