"""What a training run remembers: the fitter, where in the epoch it stands, its history, and its best model so
far."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import asdict, dataclass, field
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint
from torch import Tensor

from pix2score.cluster.ray_patches.services import CHECKPOINT_LIST
from pix2score.errors import DataError
from pix2score.metrics.accumulate import LOWER_IS_BETTER
from pix2score.storage.folder import Folder
from pix2score.train.config import WorkerSettings
from pix2score.train.step.fitter import Fitter

CHECKPOINT = "state.pt"
IN_PROCESS = "checkpoints/in_process/state.pt"
"""Where a run without workers keeps its state: Ray Train keeps none for it."""
OF_WORKERS = f"checkpoints/{CHECKPOINT_LIST}"
"""Where Ray Train keeps its list of checkpoints."""
WORST = 1e9
"""Stands for a number that is not finite: JSON has no infinity, and no checkpoint ranks below it."""


@dataclass
class EpochSums:
    """Of the steps of an epoch so far, over all workers."""

    loss: float = 0.0
    loss_by_head: dict[str, float] = field(default_factory=dict)
    num_good: int = 0
    num_skipped: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of them in which the first worker had no batch."""


@dataclass
class RunState:
    """Plain values and tensors, so that it loads with ``weights_only``."""

    history: list[dict[str, Any]] = field(default_factory=list)
    sums: EpochSums = field(default_factory=EpochSums)
    curve: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    """``value`` (lower is better), ``entry`` of the history, ``weights``."""
    preview: Tensor | None = None
    ridge: dict[str, float | None] = field(default_factory=dict)

    def keep_if_best(self, fitter: Fitter, settings: WorkerSettings) -> None:
        """The model of the newest entry is kept if none was better by the metric of ``settings.best_by``."""
        entry = self.history[-1]
        value = rank_value(entry, settings.best_by)
        if self.best is None or value < self.best["value"]:
            weights = {
                name: tensor.detach().cpu().clone() for name, tensor in fitter.result.state_dict().items()
            }
            if all(bool(torch.isfinite(t).all()) for t in weights.values()):
                self.best = {"value": value, "entry": entry, "weights": weights}

    def has_stalled(self, settings: WorkerSettings) -> bool:
        """Whether the last ``patience`` epochs brought nothing better."""
        if settings.patience is None or not self.history:
            return False
        values = [rank_value(entry, settings.best_by) for entry in self.history]
        return len(values) - 1 - values.index(min(values)) >= settings.patience


def rank_value(entry: dict[str, Any], best_by: str) -> float:
    """A number by which epochs are ranked, lower is better: ``val_loss``, or ``<head>.<metric>``. ``WORST``
    if it is missing."""
    if best_by == "val_loss":
        return float(entry["val_loss"])
    head, _, metric = best_by.partition(".")
    value = entry["val"][head].get(metric)
    if value is None or not math.isfinite(value):
        return WORST
    return float(value) if metric in LOWER_IS_BETTER else -float(value)


def resume(fitter: Fitter, settings: WorkerSettings) -> RunState:
    """The state of the last checkpoint, loaded into ``fitter``; a new one if there is none."""
    found = _last_state(settings)
    if found is None:
        return RunState()
    if "run" not in found:
        raise DataError(
            f"the checkpoint at {settings.out} is of an earlier version of pix2score; give another --out"
        )
    fitter.load_state_dict(found["fitter"])
    kept = {**found["run"], "sums": EpochSums(**found["run"]["sums"])}
    return RunState(**kept)


def _last_state(settings: WorkerSettings) -> dict[str, Any] | None:
    checkpoint = ray.train.get_checkpoint() if settings.num_workers else None
    if checkpoint is not None:
        return read_checkpoint(checkpoint)
    out = Folder(settings.out)  # begun in one process, perhaps, and gone on with on a cluster
    return parse_state(out.read(IN_PROCESS)) if out.is_file(IN_PROCESS) else None


def parse_state(data: bytes) -> dict[str, Any]:
    """What ``save`` wrote; tensors on the CPU."""
    import io

    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def read_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Content of a checkpoint: ``fitter``, ``run``, ``embedding_dim``; tensors on the CPU."""
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(
            os.path.join(folder, CHECKPOINT), map_location="cpu", weights_only=True
        )
    return state


def save(fitter: Fitter, run: RunState, settings: WorkerSettings, *, is_first: bool) -> None:
    """A checkpoint of this moment is in storage. Every worker calls it equally often; the first one
    writes."""
    metrics = {"epoch": len(run.history), "step": fitter.num_steps}
    if not is_first:
        ray.train.report(metrics)
        return
    # Shallow: ``asdict`` would copy every tensor.
    plain = {name: getattr(run, name) for name in RunState.__dataclass_fields__} | {"sums": asdict(run.sums)}
    state = {"fitter": fitter.state_dict(), "run": plain, "embedding_dim": fitter.model.embedding_dim}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, CHECKPOINT)
        torch.save(state, path)
        if settings.num_workers == 0:
            with open(path, "rb") as file:
                Folder(settings.out).publish(IN_PROCESS, file.read(), replace=True)
        else:
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
