"""The reference system's seven problems, those that no other test file shows solved: see the table in the README."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pix2score.bins import count_bins, learn_edges
from pix2score.engine import parquet_batches
from pix2score.heads import HeadSpec
from pix2score.losses import head_losses, multi_head_loss
from pix2score.storage import Folder
from tests.torch_helpers import pixels


def imbalance(counts: list[int]) -> float:
    """Rows of the fullest bin over those of an even share."""
    return max(counts) * len(counts) / sum(counts)


def test_1_quantile_bins_are_even_where_fixed_ranges_hold_nearly_everything_in_one() -> None:
    likes = np.floor(np.random.default_rng(0).pareto(0.9, 20_000) * 20).astype(np.int64)  # heavy-tailed, many zeros and ties
    distinct = np.unique(likes, return_counts=True)
    fixed = np.linspace(0, likes.max(), 16)[1:-1].tolist()
    learnt = learn_edges(lambda: [distinct], 15)
    before, after = (imbalance(count_bins([distinct], edges)) for edges in (fixed, learnt))
    print(f"fullest bin over an even share: fixed ranges {before:.1f}, quantiles {after:.2f}")
    assert before > 14
    assert after < 1.6


def noisy_png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(1, seed, 64)[0]).save(out, "PNG")
    return out.getvalue()


def test_3_a_shard_is_read_faster_than_its_images_one_by_one(tmp_path: Path) -> None:
    images = [noisy_png(seed) for seed in range(50)] * 40
    for i, image in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(image)
    pq.write_table(pa.table({"image": images}), tmp_path / "shard.parquet", row_group_size=500, compression="none")
    folder, seconds = Folder(str(tmp_path)), {}
    for what in ("files", "shard", "files", "shard"):  # the second round counts: all in the page cache
        start = time.perf_counter()
        if what == "files":
            total = sum(len(folder.read(f"{i}.png")) for i in range(len(images)))
        else:
            batches = parquet_batches(folder, ["shard.parquet"], batch_rows=256)
            total = sum(len(image.as_buffer()) for batch in batches for image in batch.column("image"))
        seconds[what] = time.perf_counter() - start
        assert total == sum(map(len, images))
    print(f"{len(images)} images: { ({k: f'{len(images) / s:.0f}/s' for k, s in seconds.items()}) }")
    assert seconds["shard"] < seconds["files"]


def test_5_a_head_of_many_bins_does_not_outweigh_one_of_few() -> None:
    heads = [
        HeadSpec(name="many", column="m", edges=tuple(range(1, 15)), loss="cross_entropy"),
        HeadSpec(name="few", column="f", edges=(1,), loss="cross_entropy"),
    ]
    logits = {h.name: torch.zeros(30, h.num_bins) for h in heads}
    sums = multi_head_loss(logits, {h.name: torch.arange(30) % h.num_bins for h in heads}, heads)
    before = {name: float(s) / 30 for name, s in sums.loss_sum.items()}
    many, few = head_losses(sums, sums.num_labelled, heads).tolist()
    assert before["many"] / before["few"] == pytest.approx(math.log(15) / math.log(2))  # 3.9 times as loud
    assert many == pytest.approx(few)
    (louder,) = head_losses(
        multi_head_loss({"few": logits["few"]}, {"few": torch.zeros(30, dtype=torch.int64)}, heads[1:]),
        {"few": torch.tensor(30)},
        [replace(heads[1], weight=2.5)],
    ).tolist()
    assert louder == pytest.approx(2.5)


STREAM = """
import json, sys, ray
from pix2score.cluster import quiet_libraries
ray.init(num_cpus=8, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
quiet_libraries()
from pix2score.cluster import _offer
from pix2score.dataset import open_dataset
from pix2score.fetch import shard_rows
from pix2score.images import Preprocess
dataset, rows = open_dataset(sys.argv[1]), 0
shards = shard_rows(dataset, "train", dataset.heads, Preprocess(size=224), _offer())
for table in shards.iter_batches(batch_format="pyarrow", batch_size=64):
    rows += table.num_rows
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"rows": rows, "peak_kb": int(peak)}))
"""


def big_dataset(folder: Path, num_rows: int) -> str:
    """A prepared dataset of tiny pictures, each 147 KB once decoded at 224 px."""
    path = folder / "split=train"
    path.mkdir(parents=True)
    small: npt.NDArray[np.uint8] = pixels(1, 3, 32)[0]
    out = io.BytesIO()
    Image.fromarray(small).save(out, "PNG")
    bins = pa.array(np.arange(num_rows) % 2, pa.int16())
    table = pa.table({"image": [out.getvalue()] * num_rows, "likes_bin": bins, "likes_label": bins.cast(pa.float64())})
    pq.write_table(table, path / "part-0.parquet", row_group_size=256)
    head = HeadSpec(name="likes", column="likes", edges=(1,), counts=(num_rows // 2, num_rows // 2), typical=(0.0, 1.0))
    card = {"format": 1, "heads": [head.to_dict()], "rows": {"train": num_rows, "val": 0, "test": 0}}
    card["shards"] = [{"path": "split=train/part-0.parquet", "rows": num_rows, "split": "train"}]
    (folder / "dataset.json").write_text(json.dumps(card))
    return str(folder)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_2_a_dataset_six_times_as_large_as_the_memory_given_to_it_streams(tmp_path: Path) -> None:
    num_rows = 4200  # 632 MB of pixels through 100 MiB of object store
    words = [sys.executable, "-c", STREAM, big_dataset(tmp_path, num_rows)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{num_rows} rows, {num_rows * 224 * 224 * 3 / 1e6:.0f} MB of pixels: {found['peak_kb'] / 1024:.0f} MiB at most in the reader"
    )
    assert found["rows"] == num_rows
    assert found["peak_kb"] / 1024 < 550  # Ray's own 200 MiB, and what it maps of the object store
