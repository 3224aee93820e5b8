"""What each training worker runs under Ray Train: epochs of ``fit.Fitter`` over its share of the shards.

Resumes from the last checkpoint with the same seed and order. Rank 0 writes history.jsonl and TensorBoard beside the model.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from ray.data import DataIterator
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model
from safetensors.torch import load as load_tensors
from tensorboardX import SummaryWriter

from pix2score.fetch import pixels_of
from pix2score.fit import Batch, Fitter, gather_metrics, validation_loss
from pix2score.heads import HeadSpec
from pix2score.metrics import HeadMetrics, main_metric, results
from pix2score.model import MultiHeadModel
from pix2score.progress import Board
from pix2score.recipe import WorkerSettings
from pix2score.storage import Folder

CHECKPOINT = "state.pt"
WORST_LOSS = 1e9
"""Stands for a validation loss that is not finite: JSON has no infinity, and no checkpoint ranks below it."""
SHUFFLE_BYTES = 512 * 2**20
"""Local shuffle buffer per worker, of decoded pixels; shards are random samples already, this mixes within them."""


def train_worker(config: dict[str, Any]) -> None:
    """Entry point for ``TorchTrainer``."""
    settings: WorkerSettings = config["settings"]
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    torch.manual_seed(settings.seed)
    fitter, embedding_dim = _build(settings)
    progress: Board | None = config["progress"] if _is_first() else None
    history = _resume(fitter)
    if progress and history:
        progress.say(f"resuming after epoch {len(history)}")
    first_epoch = len(history)
    num_epochs = -(-settings.recipe.total_steps // settings.steps_per_epoch)
    for epoch in range(first_epoch, num_epochs):
        entry = _run_epoch(settings, fitter, epoch, progress)
        if progress:
            progress.say(_epoch_line(entry, num_epochs, settings.heads))
        history.append(entry)
        _report(settings, fitter, history, embedding_dim)


def _build(settings: WorkerSettings) -> tuple[Fitter, int]:
    model = MultiHeadModel(settings.backbone, settings.heads)
    embedding_dim = model.embedding_dim
    if settings.initial_trunk:
        model.trunk.load_state_dict(load_tensors(Folder(settings.out).read(settings.initial_trunk)))
    network = prepare_model(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    return Fitter(network, settings.heads, settings.preprocess, settings.recipe, get_device()), embedding_dim


def read_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Content of a checkpoint: ``fitter``, ``history``, ``embedding_dim``; tensors on the CPU."""
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(os.path.join(folder, CHECKPOINT), map_location="cpu", weights_only=True)
    return state


def _resume(fitter: Fitter) -> list[dict[str, Any]]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    state = read_checkpoint(checkpoint)
    fitter.load_state_dict(state["fitter"])
    return list(state["history"])


def _run_epoch(settings: WorkerSettings, fitter: Fitter, epoch: int, progress: Board | None) -> dict[str, Any]:
    """Train and validate once; the history entry."""
    start = time.monotonic()
    losses, num_skipped = _train_epoch(settings, fitter, epoch, progress)
    train_s = time.monotonic() - start
    metrics = gather_metrics(fitter.validate(_batches(settings, "val")))
    return {
        "epoch": epoch + 1,
        "steps": fitter.num_steps,
        "loss": float(np.mean(losses)) if losses else None,
        "skipped_steps": num_skipped,
        "val_loss": min(validation_loss(metrics), WORST_LOSS),
        "val": results(_calibrated(metrics)),
        "temperatures": {m.head.name: m.best_temperature() for m in metrics},
        "learning_rate": fitter.schedule.get_last_lr()[0],
        "images_per_s": round(len(losses) * settings.batch_size * settings.num_workers / max(train_s, 1e-9), 1),
        "seconds": round(time.monotonic() - start, 2),
    }


def _epoch_line(entry: dict[str, Any], num_epochs: int, heads: Sequence[HeadSpec]) -> str:
    """One epoch for people."""
    loss = "none" if entry["loss"] is None else f"{entry['loss']:.3f}"
    parts = []
    for head in heads:
        value = entry["val"][head.name].get(main_metric(head))
        parts.append(f"{head.name} {main_metric(head)} {'-' if value is None else format(value, '.3f')}")
    skipped = f", {entry['skipped_steps']} steps skipped as non-finite" if entry["skipped_steps"] else ""
    return (
        f"epoch {entry['epoch']}/{num_epochs}: loss {loss}, validation {entry['val_loss']:.3f} (a uniform guess costs 1 per head), "
        f"{', '.join(parts)}, {entry['images_per_s']:.0f} images/s{skipped}"
    )


def _calibrated(metrics: list[HeadMetrics]) -> list[HeadMetrics]:
    """The same sums with ``nll_sum`` at the fitted temperature, as the saved model answers."""
    for m in metrics:
        if m.num_labelled:
            m.nll_sum = float(m.nll_by_temperature.min())
    return metrics


def _train_epoch(settings: WorkerSettings, fitter: Fitter, epoch: int, progress: Board | None) -> tuple[list[float], int]:
    losses, num_skipped = [], 0
    last_step = min(settings.recipe.total_steps, (epoch + 1) * settings.steps_per_epoch)
    for batch in _batches(settings, "train", epoch):
        if fitter.num_steps >= last_step:
            break
        result = fitter.train_step(batch)
        num_skipped += result.skipped
        if not result.skipped:
            losses.append(result.loss)
        if progress:
            progress.add(1)
    return losses, num_skipped


def _batches(settings: WorkerSettings, split: str, epoch: int = 0) -> Iterator[Batch]:
    """This worker's batches; those of train in an order that depends on seed and epoch alone."""
    shard: DataIterator = ray.train.get_dataset_shard(split)
    is_train = split == "train"
    shuffle_rows = max(settings.batch_size, SHUFFLE_BYTES // (settings.preprocess.size**2 * 3))
    for table in shard.iter_batches(
        batch_format="pyarrow",
        batch_size=settings.batch_size,
        drop_last=is_train,
        prefetch_batches=2,
        local_shuffle_buffer_size=shuffle_rows if is_train else None,
        local_shuffle_seed=settings.seed * 1_000_003 + epoch if is_train else None,
    ):
        yield _to_batch(table, settings)


def _to_batch(table: Any, settings: WorkerSettings) -> Batch:
    pixels = torch.from_numpy(pixels_of(table.column("pixels"), settings.preprocess).copy())
    names = [head.name for head in settings.heads]
    bins = {name: torch.from_numpy(table.column(f"{name}_bin").to_numpy().astype(np.int64)) for name in names}
    labels = {name: torch.from_numpy(table.column(f"{name}_label").to_numpy().astype(np.float64)) for name in names}
    return Batch(pixels, bins, labels)


def _is_first() -> bool:
    return int(ray.train.get_context().get_world_rank()) == 0


def _report(settings: WorkerSettings, fitter: Fitter, history: list[dict[str, Any]], embedding_dim: int) -> None:
    """A checkpoint of this epoch is in storage, and what people look at stands beside the model."""
    metrics = {"epoch": history[-1]["epoch"], "val_loss": history[-1]["val_loss"]}
    if not _is_first():
        ray.train.report(metrics)
        return
    _write_history(settings, history)
    with tempfile.TemporaryDirectory() as folder:
        state = {"fitter": fitter.state_dict(), "history": history, "embedding_dim": embedding_dim}
        torch.save(state, os.path.join(folder, CHECKPOINT))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _write_history(settings: WorkerSettings, history: list[dict[str, Any]]) -> None:
    out = Folder(settings.out)
    lines = [json.dumps(entry, ensure_ascii=False) for entry in history]
    out.publish("history.jsonl", ("\n".join(lines) + "\n").encode(), replace=True)
    with tempfile.TemporaryDirectory() as folder:
        _write_events(folder, history)
        for file in Path(folder).iterdir():
            out.publish("tensorboard/events.out.tfevents.0.pix2score", file.read_bytes(), replace=True)


def _write_events(folder: str, history: list[dict[str, Any]]) -> None:
    with SummaryWriter(folder) as writer:
        for entry in history:
            step = entry["steps"]
            scalars = {"loss/train": entry["loss"], "loss/val": entry["val_loss"], "learning_rate": entry["learning_rate"]}
            scalars |= {f"val_{m}/{head}": v for head, values in entry["val"].items() for m, v in values.items()}
            scalars |= {f"temperature/{head}": t for head, t in entry["temperatures"].items()}
            for name, value in scalars.items():
                if value is not None:
                    writer.add_scalar(name, value, step)
