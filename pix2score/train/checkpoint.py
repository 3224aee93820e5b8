"""What a training run remembers.

The fitter, where in the epoch it is, its history, and its best model so far.
"""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypedDict

import ray.train
import torch
from ray.train import Checkpoint
from torch import Tensor

from pix2score.cluster.ray_patches.services import CHECKPOINT_LIST
from pix2score.errors import DataError
from pix2score.storage.folder import Folder
from pix2score.train.history import BestModel, EpochEntry, rank_value
from pix2score.train.settings import WorkerSettings
from pix2score.train.step.fitter import Fitter, FitterState, StepResult
from pix2score.train.step.recipe import Augment

CHECKPOINT = "state.pt"
IN_PROCESS = "checkpoints/in_process/state.pt"
"""Where a run without workers keeps its state: Ray Train keeps none for it."""
OF_WORKERS = f"checkpoints/{CHECKPOINT_LIST}"
"""Where Ray Train keeps its list of checkpoints."""


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

    def add(self, result: StepResult) -> None:
        """Count one step; a skipped one has no loss."""
        self.num_skipped += result.skipped
        if not result.skipped:
            self.num_good += 1
            self.loss += result.loss
            for head, loss in result.loss_by_head.items():
                self.loss_by_head[head] = self.loss_by_head.get(head, 0.0) + loss


@dataclass
class RunState:
    """Plain values and tensors, so that it loads with ``weights_only``."""

    history: list[EpochEntry] = field(default_factory=list)
    sums: EpochSums = field(default_factory=EpochSums)
    curve: list[dict[str, float]] = field(default_factory=list)
    """Points of the loss by step: ``step``, ``loss``, ``learning_rate`` and ``loss_<head>``."""
    best: BestModel | None = None
    preview: Tensor | None = None
    """Training pictures as the network sees them, uint8."""
    augment: dict[str, float] | None = None
    """What was found that the data set bears; None before, and where it is not tried."""
    ridge: dict[str, float | None] = field(default_factory=dict)
    """Head -> Spearman of the ridge regression on the validation split; empty until the first epoch ends."""

    def keep_if_best(self, entry: EpochEntry, fitter: Fitter, settings: WorkerSettings) -> None:
        """Keep the model of an entry if none was better by the metric of ``settings.best_by``."""
        value = rank_value(entry, settings.best_by)
        if self.best is None or value < self.best["value"]:
            weights = {
                name: tensor.detach().cpu().clone() for name, tensor in fitter.result.state_dict().items()
            }
            if all(bool(torch.isfinite(t).all()) for t in weights.values()):
                self.best = {"value": value, "entry": entry, "weights": weights}

    def has_stalled(self, settings: WorkerSettings) -> bool:
        """Whether the last ``patience`` epochs brought nothing better; those of a trial do not count."""
        if settings.patience is None or not self.history:
            return False
        values = [rank_value(entry, settings.best_by) for entry in self.history]
        num_best = values.index(min(values)) + 1
        num_tried = sum("augment" not in entry for entry in self.history) if self.augment is not None else 0
        return len(values) - max(num_best, num_tried) >= settings.patience

    def to_dict(self) -> dict[str, Any]:
        """Fields by name, ``sums`` as plain values. Shallow: ``asdict`` would copy every tensor."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"sums": asdict(self.sums)}


class SavedState(TypedDict):
    """Content of a checkpoint."""

    fitter: FitterState
    run: dict[str, Any]
    """``RunState.to_dict``."""
    embedding_dim: int


def run_state(saved: SavedState) -> RunState:
    """The run of a checkpoint."""
    return RunState(**{**saved["run"], "sums": EpochSums(**saved["run"]["sums"])})


def resume(fitter: Fitter, settings: WorkerSettings) -> RunState:
    """Load the last checkpoint into ``fitter``; return its run, a new one if there is none."""
    found = _last_state(settings)
    if found is None:
        return RunState()
    if "run" not in found:
        raise DataError(
            f"the checkpoint at {settings.out} is of an earlier version of pix2score; give another --out"
        )
    fitter.load_state_dict(found["fitter"])
    run = run_state(found)
    if run.augment is not None:
        fitter.augment = Augment(**run.augment)
    return run


def _last_state(settings: WorkerSettings) -> SavedState | None:
    checkpoint = ray.train.get_checkpoint() if settings.num_workers else None
    if checkpoint is not None:
        return read_checkpoint(checkpoint)
    out = Folder(settings.out)  # begun in one process, perhaps, and gone on with on a cluster
    return parse_state(out.read(IN_PROCESS)) if out.is_file(IN_PROCESS) else None


def parse_state(data: bytes) -> SavedState:
    """What ``save`` wrote; tensors on the CPU."""
    state: SavedState = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def read_checkpoint(checkpoint: Checkpoint) -> SavedState:
    """Content of a checkpoint of Ray Train; tensors on the CPU."""
    with checkpoint.as_directory() as folder:
        path = os.path.join(folder, CHECKPOINT)
        state: SavedState = torch.load(path, map_location="cpu", weights_only=True)
    return state


def save(fitter: Fitter, run: RunState, settings: WorkerSettings, *, is_first: bool) -> None:
    """Put a checkpoint of this moment in storage.

    Every worker calls it equally often; the first one writes.
    """
    metrics = {"epoch": len(run.history), "step": fitter.num_steps}
    if not is_first:
        ray.train.report(metrics)
        return
    state: SavedState = {
        "fitter": fitter.state_dict(),
        "run": run.to_dict(),
        "embedding_dim": fitter.model.embedding_dim,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, CHECKPOINT)
        torch.save(state, path)
        if settings.num_workers == 0:
            with open(path, "rb") as file:
                Folder(settings.out).publish(IN_PROCESS, file.read(), replace=True)
        else:
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
