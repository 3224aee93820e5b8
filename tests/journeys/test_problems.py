"""The reference system's seven problems (jobs/TRAINING.md), those that no other test file shows solved."""

from __future__ import annotations

import contextlib
import io
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pix2score.heads.bins import count_bins, learn_edges
from pix2score.heads.ordered import OrderedHead
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.train.step.losses import head_losses, multi_head_loss
from tests.support.chain import history
from tests.support.drivers import command_line, descendants
from tests.support.paths import ROOT
from tests.support.torch_helpers import pixels


def imbalance(counts: list[int]) -> float:
    """Rows of the fullest bin over those of an even share."""
    return max(counts) * len(counts) / sum(counts)


def test_1_quantile_bins_are_even_where_fixed_ranges_hold_nearly_everything_in_one() -> None:
    # Heavy-tailed, many zeros and ties.
    likes = np.floor(np.random.default_rng(0).pareto(0.9, 20_000) * 20).astype(np.int64)
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
    pq.write_table(
        pa.table({"image": images}), tmp_path / "shard.parquet", row_group_size=500, compression="none"
    )
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
        OrderedHead(name="many", column="m", edges=tuple(range(1, 15)), loss="cross_entropy"),
        OrderedHead(name="few", column="f", edges=(1,), loss="cross_entropy"),
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


TRAIN = """
import sys, ray
from pix2score.train.job import TrainConfig, train
ray.init(num_cpus=8, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
train(TrainConfig(
    data=sys.argv[1], out=sys.argv[2], backbone="resnet18", input_size=64, epochs=1, num_workers=1,
    shuffle_mib=16,
    cache_mib=0,
    frozen_fraction=0.99,  # forward through all of it, backward through the heads: a third of the time
))
"""


def big_dataset(folder: Path, num_rows: int, num_val: int) -> str:
    """A prepared dataset of uncompressed pictures of 180 px, 97 KB each."""
    out = io.BytesIO()
    Image.fromarray(pixels(1, 3, 180)[0]).save(out, "BMP")
    head = OrderedHead(
        name="likes", column="likes", edges=(1,), counts=(num_rows // 2, num_rows // 2), typical=(0.0, 1.0)
    )
    card: dict[str, Any] = {
        "format": 1,
        "heads": [head.to_dict()],
        "rows": {"train": num_rows, "val": num_val, "test": 0},
    }
    card["shards"] = []
    for split, rows in (("train", num_rows), ("val", num_val)):
        path = f"split={split}/part-0.parquet"
        (folder / path).parent.mkdir(parents=True)
        bins = pa.array(np.arange(256) % 2, pa.int16())
        batch = pa.table(
            {"image": [out.getvalue()] * 256, "likes_bin": bins, "likes_label": bins.cast(pa.float64())}
        )
        with pq.ParquetWriter(
            folder / path, batch.schema, compression="none", use_dictionary=False
        ) as writer:
            for start in range(0, rows, 256):
                writer.write_table(batch.slice(0, min(256, rows - start)), row_group_size=256)
        card["shards"].append({"path": path, "rows": rows, "split": split})
    (folder / "dataset.json").write_text(json.dumps(card))
    return str(folder)


def peaks_mib(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Most memory (MiB) that any process of each kind held at once, until ``process`` ends."""
    found: dict[str, float] = {}
    while process.poll() is None:
        for pid in [process.pid, *descendants(process.pid)]:
            kind = "driver" if pid == process.pid else command_line(pid).partition("(")[0].partition(".")[0]
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                peak = int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
                found[kind] = max(peak, found.get(kind, 0.0))
        time.sleep(0.5)
    return {kind: round(peak) for kind, peak in sorted(found.items(), key=lambda item: -item[1])}


@pytest.mark.endurance
@pytest.mark.timeout(1200)
def test_2_a_dataset_three_times_as_large_trains_in_the_same_memory(tmp_path: Path) -> None:
    peaks = {}
    # 311 and 933 MB on disk, through 100 MiB of object store and 16 MiB of shuffle buffer.
    for num_rows in (3200, 9600):
        data, out = big_dataset(tmp_path / f"data-{num_rows}", num_rows, 256), tmp_path / f"model-{num_rows}"
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", TRAIN, data, str(out)], stdout=log, stderr=log, cwd=ROOT
            )
        try:
            found = peaks_mib(process)
        finally:
            process.kill()
        assert process.returncode == 0, (tmp_path / "log").read_text()[-2000:]
        (entry,) = history(out)
        assert entry["steps"] == num_rows // 64
        assert entry["val"]["likes"]["num_labelled"] == 256
        peaks[num_rows] = {kind: most for kind, most in found.items() if most > 400}
        print(
            f"{num_rows} rows, {num_rows * 97_254 / 1e6:.0f} MB on disk; most memory of any process, MiB: "
            f"{peaks[num_rows]}"
        )
    small, large = (max(found.values()) for found in peaks.values())
    assert large < small + 150  # of 622 MB more
