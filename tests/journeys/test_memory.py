"""S8: the driver's memory does not grow with the number of images. Whole processes, measured by the
kernel."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pix2score.heads.presets import preset
from pix2score.images.preprocess import Preprocess
from pix2score.model.folder import save_model

SCRIPT = """
import json, sys
from pix2score.score.job import score
from pix2score.score.config import ScoreConfig
result = score(ScoreConfig(catalog=sys.argv[1], model=sys.argv[2], out=sys.argv[3]))
# Not ru_maxrss: that one is inherited over fork and exec.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"scored": result["scored"], "peak_kb": int(peak)}))
"""


def cheap_model(place: Path) -> str:
    """An untrained resnet18 at 8 px."""
    import torch

    from pix2score.model.network import MultiHeadModel, weights_of

    torch.manual_seed(0)
    heads = tuple(
        h.fitted(edges=h.edges, counts=[1] * h.num_bins, typical=list(range(h.num_bins)))
        for h in preset("pixiv")
    )
    model = MultiHeadModel("resnet18", heads)
    save_model(
        str(place),
        weights_of(model),
        backbone="resnet18",
        heads=heads,
        preprocess=Preprocess(size=8),
        embedding_dim=512,
        temperatures={},
        about={},
    )
    return str(place)


def catalog_of(num_rows: int, path: Path, size: int = 8) -> str:
    """Embedded pictures of ``size`` px, ids of honest length."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), (200, 30, 90)).save(out, "PNG")
    ids = [f"illustration-{i:011}" for i in range(num_rows)]
    table = pa.table(
        {
            "illust_id": ids,
            "image": [out.getvalue()] * num_rows,
            "etag": [f"{i:032x}" for i in range(num_rows)],
        }
    )
    pq.write_table(table, path, row_group_size=2000)
    return str(path)


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
