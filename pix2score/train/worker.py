"""What each training worker runs under Ray Train: epochs of ``fit.Fitter`` over its share of the shards.

Resumes from the last checkpoint with the same seed and order: the batches of a begun epoch that were trained
on are read again, and passed over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray.train
import torch
from ray.data import DataIterator
from ray.train.torch import get_device, prepare_model
from safetensors.torch import load as load_tensors

from pix2score.cluster.local import num_local_cores
from pix2score.cluster.progress import Board
from pix2score.cluster.ray_patches.services import is_preemption_near
from pix2score.host import termination
from pix2score.metrics.accumulate import HeadMetrics, results
from pix2score.model.network import MultiHeadModel
from pix2score.storage.folder import Folder
from pix2score.train.checkpoint import WORST, EpochSums, resume, save
from pix2score.train.config import WorkerSettings
from pix2score.train.log import confusion_picture, epoch_line, final_table, picture_grid, thinned, write_logs
from pix2score.train.ridge import RidgeBeside
from pix2score.train.rows import batch_of
from pix2score.train.step.batch import Batch
from pix2score.train.step.collectives import first_says, gather_metrics
from pix2score.train.step.fitter import Fitter, StepResult
from pix2score.train.step.validate import validation_loss

CHECK_EVERY = 20
"""Steps between looks at the clock and at Ray's warning of a node to be taken away; each look is agreed on by
all workers."""
NUM_PREVIEW = 16


def train_worker(config: dict[str, Any]) -> None:
    """Entry point for ``TorchTrainer``."""
    with termination.deferred():  # to where a checkpoint can be made; workers of Ray are not told
        worker = _Worker(config["settings"], config["progress"])
        while not worker.is_done():
            worker.run_epoch()
        worker.tell_result()


def num_epochs(settings: WorkerSettings) -> int:
    """Epochs that the steps fill, the last perhaps in part."""
    return -(-settings.recipe.total_steps // settings.steps_per_epoch)


@dataclass
class _Worker:
    settings: WorkerSettings
    board: Board
    saved_at: float = field(default_factory=time.monotonic)
    warned: bool = False
    """Of a preemption, for which one checkpoint is made at once."""

    def __post_init__(self) -> None:
        if self.settings.num_threads:
            torch.set_num_threads(min(self.settings.num_threads, num_local_cores()))
        torch.manual_seed(self.settings.seed)
        context = ray.train.get_context()
        self.is_first, self.world = context.get_world_rank() == 0, context.get_world_size()
        self.batch_rows = self.settings.images_per_step // self.world
        self.fitter = _build(self.settings, self.batch_rows)
        self.run = resume(self.fitter, self.settings)
        self.beside = RidgeBeside(self.settings.heads)
        if self.is_first:
            self.board.begin_at(self.fitter.num_steps)
        if self.fitter.num_steps:
            done = self.fitter.num_steps - len(self.run.history) * self.settings.steps_per_epoch
            middle = f" and {done} steps" if done > 0 else ""
            self.say(f"resuming after epoch {len(self.run.history)}{middle}")

    def say(self, line: str) -> None:
        if self.is_first:
            self.board.say(line)

    def is_done(self) -> bool:
        return len(self.run.history) >= num_epochs(self.settings) or self.run.has_stalled(self.settings)

    def run_epoch(self) -> None:
        """Train and validate once, tell of it, and leave a checkpoint."""
        epoch = len(self.run.history)
        self._train(epoch)
        if not self.run.ridge:
            self.beside.solve()
        metrics = gather_metrics(self.fitter.validate(self._seen(self._batches("val"))))
        self.run.ridge = self.run.ridge or self.beside.correlations()
        entry = self._entry(epoch, metrics)
        self.run.history.append(entry)
        self.run.sums = EpochSums()
        self.fitter.end_epoch(entry["val_loss"])
        self.run.keep_if_best(self.fitter, self.settings)
        self.say(epoch_line(entry, num_epochs(self.settings), self.settings.heads))
        if self.is_first:
            write_logs(Folder(self.settings.out), self.run.history, self.run.curve, self._pictures(metrics))
        self._save()

    def tell_result(self) -> None:
        """The table of the epoch that is saved."""
        if self.run.best:
            if len(self.run.history) < num_epochs(self.settings):
                self.say(
                    f"stopped early: no better {self.settings.best_by} for {self.settings.patience} epochs"
                )
            self.say(final_table(self.run.best["entry"], self.run.ridge, self.settings.heads))

    def _train(self, epoch: int) -> None:
        last = min(self.settings.recipe.total_steps, (epoch + 1) * self.settings.steps_per_epoch)
        done = self.fitter.num_steps - epoch * self.settings.steps_per_epoch
        started = time.monotonic()
        for i, batch in enumerate(self._awaited(self._batches("train", epoch))):
            if not epoch:
                self.beside.add(batch)
            if i < done:
                continue
            if self.fitter.num_steps >= last:
                break
            self._keep_preview(batch)
            self._count(self.fitter.train_step(batch))
            looks = self.fitter.num_steps % CHECK_EVERY == 0 and self.fitter.num_steps < last
            if termination.is_asked() or (looks and self._is_due()):
                self.run.sums.seconds += time.monotonic() - started
                started = time.monotonic()
                self._save()
                self._leave_if_asked()
        self.run.sums.seconds += time.monotonic() - started

    def _awaited(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time that each was waited for is kept."""
        start = time.monotonic()
        for batch in batches:
            self.run.sums.waited += time.monotonic() - start
            yield batch
            start = time.monotonic()

    def _count(self, result: StepResult) -> None:
        sums = self.run.sums
        sums.num_skipped += result.skipped
        if result.skipped:
            self.say(f"step {self.fitter.num_steps}: loss or gradient is not finite, skipped on all workers")
        else:
            sums.num_good += 1
            sums.loss += result.loss
            sums.loss_by_head = {n: sums.loss_by_head.get(n, 0.0) + v for n, v in result.loss_by_head.items()}
            rate = self.fitter.optimizer.param_groups[0]["lr"]
            point = {"step": float(self.fitter.num_steps), "loss": result.loss, "learning_rate": rate}
            self.run.curve.append(point | {f"loss_{n}": v for n, v in result.loss_by_head.items()})
            self.run.curve = thinned(self.run.curve)
        if self.is_first:
            by_head = ", ".join(f"{name} {loss:.3f}" for name, loss in result.loss_by_head.items())
            self.board.note(
                f"loss {result.loss:.3f} ({by_head}), rate {self.fitter.optimizer.param_groups[0]['lr']:.2g}"
            )
            self.board.add(1)

    def _is_due(self) -> bool:
        """Whether M minutes are over, or a node will soon be taken away."""
        preempted = is_preemption_near() and not self.warned
        if preempted:
            self.warned = True
            self.say("a node is about to be taken away: checkpoint now")
        late = time.monotonic() - self.saved_at > 60 * self.settings.checkpoint_minutes
        return preempted or first_says(late, self.fitter.device)

    def _leave_if_asked(self) -> None:
        """After a checkpoint."""
        if termination.is_asked():
            self.say("told to end: a checkpoint is made")
            termination.leave()

    def _save(self) -> None:
        save(self.fitter, self.run, self.settings, is_first=self.is_first)
        self.saved_at = time.monotonic()

    def _keep_preview(self, batch: Batch) -> None:
        if self.run.preview is None:
            shown = batch.to(self.fitter.device).pixels_BSSC[:NUM_PREVIEW]
            self.run.preview = picture_grid(self.fitter.network_input(shown))

    def _pictures(self, metrics: list[HeadMetrics]) -> dict[str, Any]:
        pictures: dict[str, Any] = {f"confusion/{m.head.name}": confusion_picture(m) for m in metrics}
        if self.run.preview is not None:
            pictures["as_the_network_sees_them"] = self.run.preview.numpy()
        return pictures

    def _entry(self, epoch: int, metrics: list[HeadMetrics]) -> dict[str, Any]:
        sums, settings = self.run.sums, self.settings
        uncalibrated = {m.head.name: m.ece(1.0) for m in metrics}
        return {
            "epoch": epoch + 1,
            "steps": self.fitter.num_steps,
            "loss": sums.loss / sums.num_good if sums.num_good else None,
            "loss_by_head": {name: loss / sums.num_good for name, loss in sums.loss_by_head.items()},
            "skipped_steps": sums.num_skipped,
            "val_loss": min(validation_loss(metrics), WORST),
            "val": results(_calibrated(metrics)),
            "val_ece_uncalibrated": uncalibrated,
            "ridge_spearman": self.run.ridge,
            "temperatures": {m.head.name: m.best_temperature() for m in metrics},
            "learning_rate": self.fitter.optimizer.param_groups[0]["lr"],
            "workers": self.world,
            "images_per_s": round(
                (sums.num_good + sums.num_skipped) * settings.images_per_step / max(sums.seconds, 1e-9), 1
            ),
            "seconds": round(sums.seconds, 2),
            "waited_s": round(sums.waited, 2),
        }

    def _seen(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the ridge is judged on them too, in the first epoch."""
        for batch in batches:
            if termination.is_asked():
                self._save()
                self._leave_if_asked()
            if not self.run.ridge:
                self.beside.judge(batch)
            yield batch

    def _batches(self, split: str, epoch: int = 0) -> Iterator[Batch]:
        """This worker's batches; those of train in an order that depends on seed, epoch and the number of
        workers alone."""
        shard: DataIterator = ray.train.get_dataset_shard(split)
        is_train, size = split == "train", self.settings.preprocess.size
        for table in shard.iter_batches(
            batch_format="pyarrow",
            batch_size=self.batch_rows if is_train else self.settings.batch_size,
            drop_last=is_train,
            prefetch_batches=2,
            local_shuffle_buffer_size=max(self.batch_rows, self.settings.shuffle_mib * 2**20 // (size**2 * 3))
            if is_train
            else None,
            local_shuffle_seed=self.settings.seed * 1_000_003 + epoch if is_train else None,
        ):
            yield batch_of(table, self.settings.heads, self.settings.preprocess)


def _build(settings: WorkerSettings, batch_rows: int) -> Fitter:
    model = MultiHeadModel(settings.backbone, settings.heads)
    if settings.initial_trunk:
        model.trunk.load_state_dict(load_tensors(Folder(settings.out).read(settings.initial_trunk)))
    network = prepare_model(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    # Fewer workers than at most: each takes more of the same joint batch, in pieces of the size that fits.
    pieces = settings.recipe.accumulate * math.ceil(batch_rows / settings.batch_size)
    return Fitter(
        network,
        settings.heads,
        settings.preprocess,
        replace(settings.recipe, accumulate=pieces),
        get_device(),
    )


def _calibrated(metrics: list[HeadMetrics]) -> list[HeadMetrics]:
    """The same sums with NLL and ECE at the fitted temperature, as the saved model answers."""
    for m in metrics:
        if m.num_labelled:
            m.nll_sum, m.temperature = float(m.nll_by_temperature.min()), m.best_temperature()
    return metrics
