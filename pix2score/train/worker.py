"""What each training worker runs under Ray Train: epochs of ``Fitter`` over its share of the shards.

Resumes from the last checkpoint with the same seed and order: the batches of a begun epoch that were trained
on are read again, and passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import ray.train

from pix2score.cluster.alike import check_worker
from pix2score.cluster.progress import Board
from pix2score.host import termination
from pix2score.metrics.kinds import calibrations, results
from pix2score.metrics.protocol import Accumulator
from pix2score.train.baseline import RidgeBaseline
from pix2score.train.build import build_fitter, prepare_torch
from pix2score.train.checkpoint import EpochSums, resume
from pix2score.train.embedded import EmbeddedRows
from pix2score.train.history import WORST, EpochEntry
from pix2score.train.log import picture_grid, thinned
from pix2score.train.memory import Peak
from pix2score.train.probing import Probing, begin_solved
from pix2score.train.reporter import Reporter
from pix2score.train.rows import labelled, worker_batches
from pix2score.train.saver import Saver
from pix2score.train.settings import WorkerSettings
from pix2score.train.step.batch import Batch
from pix2score.train.step.collectives import gather, gather_metrics, while_all_have
from pix2score.train.step.fitter import StepResult
from pix2score.train.step.validate import validation_loss
from pix2score.train.threads import Threads
from pix2score.train.trial import Trial

CHECK_EVERY = 20
"""Steps between looks at the clock and at Ray's warning of a node to be taken away; each look is agreed on by
all workers."""
NUM_PREVIEW = 16


def train_worker(config: dict[str, Any]) -> None:
    """Entry point for ``TorchTrainer``."""
    check_worker(config["versions"])
    with termination.deferred():  # to where a checkpoint can be made; Ray's workers get no SIGTERM
        loop = Loop(config["settings"], config["progress"])
        while not loop.is_done():
            loop.run_epoch()
        loop.report_result()


class Loop:
    """Epochs of one worker, from the last checkpoint on."""

    def __init__(self, settings: WorkerSettings, board: Board) -> None:
        prepare_torch(settings)
        context = ray.train.get_context()
        is_first = context.get_world_rank() == 0
        self._settings, self._num_workers = settings, context.get_world_size()
        self._batch_rows = settings.images_per_step // self._num_workers
        self._fitter = build_fitter(settings, self._batch_rows)
        self._run = resume(self._fitter, settings)
        self._threads = Threads(is_cpu=self._fitter.device.type == "cpu")
        self._trial = Trial(self._fitter, self._run, settings.num_epochs)
        self._peak = Peak(self._fitter.device)
        self._baseline = RidgeBaseline(settings.heads)
        self._embedded = (
            EmbeddedRows(self._fitter, settings, self._batch_rows, self._seen_once)
            if settings.freeze == "trunk"
            else None
        )
        self._probing = (
            Probing(self._fitter, self._run, settings, self._embedded, settings.num_epochs)
            if self._embedded and settings.solves_outputs
            else None
        )
        self._reporter = Reporter(settings, board, is_first=is_first)
        self._saver = Saver(self._fitter, self._run, settings, self._reporter, is_first=is_first)
        self._began_at = time.monotonic()
        """Of the part of an epoch whose seconds are not yet in the sums."""
        self._reporter.begin(self._fitter.num_steps, self._run)

    def is_done(self) -> bool:
        """Whether all epochs are trained, or the last ones brought nothing better."""
        num_done = len(self._run.history)
        is_solved = self._probing is not None and self._probing.is_done(num_done)
        return num_done >= self._settings.num_epochs or is_solved or self._run.has_stalled(self._settings)

    def run_epoch(self) -> None:
        """Train and validate once, report it, and leave a checkpoint."""
        run, epoch = self._run, len(self._run.history)
        if self._settings.begins_solved and not self._fitter.num_steps:
            self._begin_solved()
        if self._probing:
            metrics = self._solve(self._probing, epoch)
        else:
            self._train(epoch)
            metrics = self._validate_better()
        entry = self._entry(epoch, metrics)
        run.history.append(entry)
        run.sums = EpochSums()
        self._fitter.end_epoch(entry["val_loss"])
        run.keep_if_best(entry, self._fitter, self._settings)
        self._reporter.epoch(run, metrics)
        if self._trial.is_due() and (told := self._trial.end_if_told(lambda: self._batches("val"))):
            self._reporter.say(told)
        self._saver.save()
        self._saver.leave_if_asked()

    def _begin_solved(self) -> None:
        """Solve the outputs before the first step. What is not made better by steps is saved, as epoch 0."""
        settings = self._settings
        rows = EmbeddedRows(
            self._fitter,
            settings,
            self._batch_rows,
            self._each_once,
        )
        metrics, penalties = begin_solved(self._fitter, settings, rows)
        entry = self._entry(-1, metrics)
        entry["penalties"] = penalties
        self._run.keep_if_best(entry, self._fitter, settings)
        self._reporter.say(f"the outputs begin solved: validation {entry['val_loss']:.3f}")

    def _each_once(self, split: str) -> Iterator[Batch]:
        """Rows that can be solved for."""
        batches = worker_batches(self._settings, split, batch_rows=self._batch_rows, once=True)
        return labelled(batches) if self._settings.has_unlabelled else batches

    def report_result(self) -> None:
        """Say which epoch is saved, and how good it is."""
        self._reporter.result(self._run)

    def _train(self, epoch: int) -> None:
        fitter, steps_per_epoch = self._fitter, self._settings.steps_per_epoch
        last = min(self._settings.recipe.total_steps, (epoch + 1) * steps_per_epoch)
        # An epoch that resamples may be a step short: what is left by chance, on the worker with the fewest.
        num_done = fitter.num_steps - (self._run.history[-1]["steps"] if self._run.history else 0)
        self._resume_clock()
        self._threads.begin(self._run.sums)
        for i, batch in enumerate(self._awaited(self._batches("train", epoch))):
            if not epoch and not self._embedded:
                self._learn_baseline(batch)
            if i < num_done:
                continue
            if fitter.num_steps >= last:
                break
            if not self._embedded:
                self._keep_preview(batch)
            rate = self._learning_rate()
            self._count(self._step(batch), f"rate {rate:.2g}")
            looks = fitter.num_steps % CHECK_EVERY == 0 and fitter.num_steps < last
            if termination.is_asked() or (looks and self._saver.is_due()):
                self._stop_clock()
                self._save_and_leave_if_asked()
                self._resume_clock()
        self._stop_clock()
        if told := self._threads.end(self._run.sums):
            self._reporter.say(told)

    def _learn_baseline(self, batch: Batch) -> None:
        for rows in labelled(iter([batch])) if self._settings.has_unlabelled else [batch]:
            self._baseline.add(rows)

    def _solve(self, probing: Probing, epoch: int) -> list[Accumulator]:
        """Solve the outputs at the next strength of the penalty; metrics of what each head keeps."""
        self._resume_clock()
        result = probing.solve(epoch, self._validate)
        self._fitter.num_steps += 1
        self._count(result, probing.pace(epoch))
        self._stop_clock()
        return probing.keep_better(self._validate(), epoch)

    def _step(self, batch: Batch) -> StepResult:
        fitter, before = self._fitter, self._fitter.pieces.now
        result = fitter.train_step(batch)
        if (now := fitter.pieces.now) != before:
            self._reporter.say(
                f"a step on {len(batch.pixels_BSSC)} images does not fit in memory: from now in {now}"
            )
        return result

    def _resume_clock(self) -> None:
        self._began_at = time.monotonic()

    def _stop_clock(self) -> None:
        self._run.sums.seconds += time.monotonic() - self._began_at

    def _save_and_leave_if_asked(self) -> None:
        self._saver.save()
        self._saver.leave_if_asked()

    def _awaited(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time that each was waited for is kept."""
        start = time.monotonic()
        for batch in batches:
            self._run.sums.waited += time.monotonic() - start
            yield batch
            start = time.monotonic()

    def _count(self, result: StepResult, pace: str) -> None:
        run, rate, step = self._run, self._learning_rate(), self._fitter.num_steps
        run.sums.add(result)
        if not result.skipped:
            point = {"step": float(step), "loss": result.loss, "learning_rate": rate}
            run.curve.append(point | {f"loss_{n}": v for n, v in result.loss_by_head.items()})
            run.curve = thinned(run.curve)
        self._reporter.step(step, result, pace)

    def _learning_rate(self) -> float:
        return float(self._fitter.optimizer.param_groups[0]["lr"])

    def _keep_preview(self, batch: Batch) -> None:
        if self._run.preview is None:
            shown = batch.to(self._fitter.device).pixels_BSSC[:NUM_PREVIEW]
            self._run.preview = picture_grid(self._fitter.network_input(shown))

    def _validate(self) -> list[Accumulator]:
        """Metrics over all workers of the result as it is."""
        return self._over_all(lambda batches: [self._fitter.validate(batches)])[0]

    def _validate_better(self) -> list[Accumulator]:
        """Of the averaged weights or the last step's, whichever are better, which then are the result."""
        first, *last = self._over_all(self._fitter.validate_both)
        self._fitter.takes_average = not last or validation_loss(first) <= validation_loss(last[0])
        return first if self._fitter.takes_average else last[0]

    def _over_all(
        self, validated: Callable[[Iterator[Batch]], list[list[Accumulator]]]
    ) -> list[list[Accumulator]]:
        """Metrics over all workers; in the first epoch the baseline is judged on the same rows."""
        if not self._run.ridge:
            self._baseline.solve()
        metrics = [gather_metrics(of) for of in validated(self._judged(self._batches("val")))]
        self._run.ridge = self._run.ridge or self._baseline.correlations()
        return metrics

    def _judged(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if termination.is_asked() and not self._probing:  # which compares before it keeps
                self._save_and_leave_if_asked()
            if not self._run.ridge and not self._embedded:
                self._baseline.judge(batch)
            yield batch

    def _batches(self, split: str, epoch: int = 0) -> Iterator[Batch]:
        if self._embedded:
            return self._embedded.batches(split, epoch)
        batches = worker_batches(self._settings, split, batch_rows=self._batch_rows, epoch=epoch)
        if split == "train" and self._settings.resampling:
            return while_all_have(batches, self._fitter.device)
        return batches

    def _seen_once(self, split: str) -> Iterator[Batch]:
        """Batches with pixels, on their way to being embedded; the baseline sees them here."""
        for batch in worker_batches(self._settings, split, batch_rows=self._batch_rows):
            if split == "train":
                self._keep_preview(batch)
                if not self._run.history:
                    self._baseline.add(batch)
            elif not self._run.ridge:
                self._baseline.judge(batch)
            yield batch

    def _entry(self, epoch: int, metrics: list[Accumulator]) -> EpochEntry:
        sums, num_seen, found = self._run.sums, self._num_seen(), calibrations(metrics)
        entry: EpochEntry = {
            "epoch": epoch + 1,
            "steps": self._fitter.num_steps,
            "loss": sums.loss / sums.num_good if sums.num_good else None,
            "loss_by_head": {name: loss / sums.num_good for name, loss in sums.loss_by_head.items()},
            "skipped_steps": sums.num_skipped,
            "val_loss": min(validation_loss(metrics), WORST),
            "val": results([m.calibrated() for m in metrics]),
            "val_ece_uncalibrated": {m.head.name: m.ece({}) for m in metrics},
            "ridge_spearman": self._run.ridge,
            "temperatures": found["temperatures"],
            "learning_rate": self._learning_rate(),
            "workers": self._num_workers,
            "images_per_s": round(num_seen / max(sums.seconds, 1e-9), 1),
            "seconds": round(sums.seconds, 2),
            "waited_s": round(sums.waited, 2),
            "peak_memory_mib": round(max(gather(self._peak.take_mib())), 1),
        }
        if "calibrations" in found:
            entry["calibrations"] = found["calibrations"]
        if self._fitter.average and self._fitter.num_steps:
            entry["weights"] = "averaged" if self._fitter.takes_average else "last"
        if self._run.augment is not None:
            entry["augment"] = self._run.augment
        if self._probing:
            entry["penalties"] = self._probing.kept
        return entry

    def _num_seen(self) -> int:
        """Images of this epoch, over all workers; each as often as it was looked at."""
        if self._probing:
            return sum(gather(self._probing.take_num_seen()))
        return (self._run.sums.num_good + self._run.sums.num_skipped) * self._settings.images_per_step
