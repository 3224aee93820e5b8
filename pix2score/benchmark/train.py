"""train: the whole job beside steps on a ready batch, and reading shards beside the original files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pix2score.benchmark.pictures import write_photographs
from pix2score.cli.main import module_of
from pix2score.dataset.card import PreparedDataset, open_dataset
from pix2score.dataset.rows import decode_shard
from pix2score.errors import TrainingError
from pix2score.host.cores import num_cores
from pix2score.images.preprocess import Preprocess
from pix2score.model.network import MultiHeadModel
from pix2score.storage.parquet import parquet_batches
from pix2score.train.rows import batch_of
from pix2score.train.step.batch import Batch
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.recipe import PRESETS, Recipe

MIN_STEPS, MIN_S = 6, 10.0
VAL_FRACTION = 0.1
MOST_FILES = 100
"""Original files that tell the rate of reading them."""


@dataclass(frozen=True, slots=True)
class TrainTiming:
    """Images per second: on a ready batch, of the job within an epoch, and of reading alone on all cores."""

    ready_per_s: float
    job_per_s: float
    share: float
    """Of the job in the rate on a ready batch."""
    shards_per_s: float
    originals_per_s: float
    """By a torch ``Dataset`` of the original files, with torchvision's transforms."""
    reading_speedup: float


def time_train(
    place: Path, *, num_images: int, side: int, backbone: str, size: int, batch_size: int, runs: int
) -> TrainTiming:
    """Draw photographs of ``side`` px in the empty folder ``place``, prepare and train; return the rates."""
    write_photographs(place / "images", num_images, side, side * 3 // 4)
    _run(
        "prepare",
        f"--catalog={_catalog(place)}",
        f"--out={place / 'data'}",
        f"--val-fraction={VAL_FRACTION}",
        "--test-fraction=0",
    )
    dataset = open_dataset(str(place / "data"))
    network = (f"--backbone={backbone}", f"--input-size={size}", f"--batch-size={batch_size}")
    ready, job = [_ready_rate(dataset, backbone, size, batch_size)], []
    for run in range(runs):  # in turns: a shared machine is not always as fast
        job.append(_job_rate(place / f"model-{run}", str(place / "data"), *network))
        ready.append(_ready_rate(dataset, backbone, size, batch_size))
    shards, originals = zip(
        *((_shard_rate(dataset, size), _file_rate(place / "images", size)) for _ in range(runs)), strict=True
    )
    ready_s, job_s, shard_s, file_s = (float(np.median(rates)) for rates in (ready, job, shards, originals))
    return TrainTiming(
        *(round(x, 2) for x in (ready_s, job_s, job_s / ready_s, shard_s, file_s, shard_s / file_s))
    )


def _catalog(place: Path) -> str:
    files = sorted((place / "images").iterdir())
    draw = np.random.default_rng(0)
    labels = {
        name: draw.integers(0, top, len(files))
        for name, top in (("bookmarks", 5000), ("views", 20_000), ("sanity", 5))
    }
    columns = {"illust_id": range(len(files)), "uri": [f"images/{file.name}" for file in files], **labels}
    pq.write_table(pa.table(columns), place / "catalog.parquet")
    return str(place)


def _run(job: str, *flags: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module_of(job), *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TrainingError(f"jobs.{job} ended with {done.returncode}: {done.stderr[-500:]}")


def _job_rate(out: Path, data: str, *flags: str) -> float:
    """Of the second of two epochs: the first one warms up."""
    _run("train", f"--data={data}", f"--out={out}", "--epochs=2", *flags)
    return float(json.loads((out / "history.jsonl").read_text().splitlines()[-1])["images_per_s"])


def _ready_rate(dataset: PreparedDataset, backbone: str, size: int, batch_size: int) -> float:
    torch.set_num_threads(num_cores())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # as the job beside it
    network = MultiHeadModel(backbone, dataset.heads, size=size).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe: dict[str, Any] = PRESETS["small"].recipe
    fitter = Fitter(network, dataset.heads, Preprocess(size=size), Recipe(**recipe, total_steps=1000), device)
    batch = _first_batch(dataset, size, batch_size)
    fitter.train_step(batch)
    start, num = time.perf_counter(), 0
    while num < MIN_STEPS or time.perf_counter() - start < MIN_S:
        fitter.train_step(batch)
        num += 1
    return num * batch_size / (time.perf_counter() - start)


def _first_batch(dataset: PreparedDataset, size: int, batch_size: int) -> Batch:
    """``batch_size`` rows of the train split, some of them again if it has fewer."""
    paths = [part.path for part in dataset.parts("train")]
    first = next(iter(parquet_batches(dataset.folder, paths[:1], batch_rows=batch_size)))
    rows = pa.Table.from_batches([first]).take(np.arange(batch_size) % first.num_rows)
    preprocess = Preprocess(size=size)
    return batch_of(decode_shard(rows, heads=dataset.heads, preprocess=preprocess), dataset.heads, preprocess)


def _shard_rate(dataset: PreparedDataset, size: int) -> float:
    start, num = time.perf_counter(), 0
    for batch in parquet_batches(
        dataset.folder, [part.path for part in dataset.parts("train")], batch_rows=64
    ):
        rows = pa.Table.from_batches([batch])
        num += decode_shard(rows, heads=dataset.heads, preprocess=Preprocess(size=size)).num_rows
    return num / (time.perf_counter() - start) * num_cores()


def _file_rate(images: Path, size: int) -> float:
    from pix2score.benchmark.peers.dataloader import Images

    files = Images(str(images), size)
    num, start = min(MOST_FILES, len(files)), time.perf_counter()
    for i in range(num):
        _ = files[i]
    return num / (time.perf_counter() - start) * num_cores()
