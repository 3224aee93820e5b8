"""The training step and loop state of one worker. Knows torch and torch.distributed, no Ray.

Shapes: B images per worker, S input size, K bins of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.protocol import Accumulator
from pix2score.model.batchnorm import norms_of
from pix2score.model.network import MultiHeadModel, normalise
from pix2score.train.step.augment import augmented
from pix2score.train.step.average import Average
from pix2score.train.step.batch import Batch, noisy_targets
from pix2score.train.step.collectives import rank, share_from_first, sum_over_workers
from pix2score.train.step.gradients import Gradients
from pix2score.train.step.objective import JointCounts, Objective
from pix2score.train.step.optimise import drop_gradients, make_optimizer, trunk_is_frozen
from pix2score.train.step.pieces import Pieces
from pix2score.train.step.precision import Caster
from pix2score.train.step.recipe import Augment, Recipe
from pix2score.train.step.schedule import Schedule
from pix2score.train.step.validate import measure_each


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did."""

    loss: float
    """Of the joint batch over all workers: the mean over heads by their weights. 1 is the constant answer."""
    skipped: bool
    """Whether loss or gradient was not finite."""
    loss_by_head: dict[str, float]
    """Of the heads that have a weight; 1 is the constant answer."""

    @classmethod
    def of(cls, losses: Mapping[str, float], heads: Sequence[HeadSpec], *, skipped: bool) -> StepResult:
        """From the losses of heads that are known, by name."""
        weighed = [(head.weight, losses[head.name]) for head in heads if head.name in losses and head.weight]
        total = sum(weight for weight, _ in weighed)
        mean = sum(weight * loss for weight, loss in weighed) / total if total else 0.0
        return cls(mean, skipped, {h.name: losses[h.name] for h in heads if h.name in losses and h.weight})


class FitterState(TypedDict):
    """All that a resumed run needs: tensors and plain values only, so that it loads with ``weights_only``."""

    model: dict[str, Tensor]
    average: dict[str, Any] | None
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    loss_scale: dict[str, float]
    num_steps: int
    num_skipped: int


class Fitter:
    """Model, optimiser and schedule of one worker.

    Parameters are the same on every worker after every step.

    ``network`` is the model itself or its DistributedDataParallel.
    """

    def __init__(
        self,
        network: nn.Module,
        heads: Sequence[HeadSpec],
        preprocess: Preprocess,
        recipe: Recipe,
        device: torch.device,
        objective: Objective | None = None,
    ) -> None:
        """``objective``: what its steps make smaller; by default the losses of labels."""
        self.objective = objective or Objective(heads)
        self.network, self.heads, self.preprocess, self.device = network, heads, preprocess, device
        self.recipe = recipe
        self.augment = Augment() if recipe.tries_augment else recipe.augment
        """What is done to training pictures at the moment."""
        self.model = cast(MultiHeadModel, getattr(network, "module", network))
        self.model.dropout.p = recipe.dropout
        self.optimizer = make_optimizer(self.model, recipe, device)
        self.schedule = Schedule(self.optimizer, recipe)
        self.average = Average(self.model, recipe) if recipe.average else None
        self.takes_average = True
        """Whether the averaged weights, where there are some, are the result, or the last step's."""
        self.pieces = Pieces(self.model, recipe)  # after the average's copy: that one is never trained
        self.cast = Caster(recipe.precision, device)
        self._gradients = Gradients(network, recipe, self.cast, self.pieces)
        self.is_frozen = not any(p.requires_grad for p in self.model.trunk.parameters())
        """The trunk, in every step."""
        self.num_steps = 0
        self.num_skipped = 0
        self._running = list(self.model.buffers())  # the counters too: a skipped step leaves no trace

    @property
    def result(self) -> MultiHeadModel:
        """The model that is validated and saved: with averaged weights, if they are taken."""
        return self.average.model if self.average and self.takes_average else self.model

    def train_step(self, batch: Batch) -> StepResult:
        """Make one optimiser step on the joint batch of all workers.

        It is skipped on all of them together if loss or gradient is not finite.

        Seeds torch by (seed, step, worker), so that dropout and augmentation of a resumed run are those of an
        unbroken one.
        """
        self._begin()
        before = [buffer.clone() for buffer in self._running]
        part_H = self._joint_gradients(batch.to(self.device), before)
        norm = self._clipped_norm()
        bad = ~torch.isfinite(norm + part_H.sum())
        *loss_H, num_bad = sum_over_workers(torch.cat([part_H, bad.float().view(1)])).tolist()
        if num_bad:
            self._undo(before)
        else:
            self._move()
        self.cast.adapt(skipped=bool(num_bad))
        self.num_steps += 1
        self.schedule.move_to(self.num_steps)
        self.num_skipped += bool(num_bad)
        parts = zip(self.heads, loss_H, strict=True)
        losses = {head.name: part / head.weight for head, part in parts if head.weight}
        return StepResult.of(losses, self.heads, skipped=bool(num_bad))

    def end_epoch(self, val_loss: float) -> None:
        """Move the ``plateau`` schedule by the validation loss."""
        self.schedule.end_epoch(val_loss, self.num_steps)

    def go_back(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from the weights of an earlier ``result``, as if the steps since had not been made.

        The optimiser begins anew; the schedule goes on.
        """
        self.model.load_state_dict(weights)
        if self.average:
            self.average.load_state_dict(weights)
        self.optimizer.state.clear()

    def _begin(self) -> None:
        self.network.train()
        if self.is_frozen or trunk_is_frozen(self.num_steps, self.recipe):
            self.model.trunk.eval()  # its BatchNorm keeps the statistics that fit its weights
        if self.recipe.keeps_statistics:
            for norm in norms_of(self.model.trunk):
                norm.eval()
        torch.manual_seed(step_seed(self.recipe.seed, self.num_steps) + rank())
        self.optimizer.zero_grad(set_to_none=True)

    def _joint_gradients(self, batch: Batch, running: Sequence[Tensor]) -> Tensor:
        """Set every ``grad`` to that of the joint loss; return this worker's part of it, float32 [H]."""
        counts = self.objective.counts(batch)

        def start_over() -> None:
            self._undo(running)
            self._begin()

        return self._gradients.make(
            batch,
            lambda piece, network, moved: self._losses(piece, counts, network, moved),
            step=self.num_steps,
            order_seed=step_seed(self.recipe.seed, self.num_steps),
            start_over=start_over,
        )

    def _losses(
        self, piece: Batch, counts: JointCounts, network: nn.Module, moved: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """float32 [H] on the graph: this worker's part of the joint losses; and what the network saw.

        ``moved``: that in place of the piece's own pictures.
        """
        seen = normalise(self.network_input(piece.images), self.preprocess) if moved is None else moved
        if self.recipe.adversarial and moved is None:
            seen = seen.requires_grad_()
        with self.cast.autocast():
            outputs, embedding_BD = network(seen)
        targets = {head.name: noisy_targets(piece, head, self.recipe.noise_of(head)) for head in self.heads}
        of_rows, objective = piece.by_row(outputs, self.heads), self.objective
        said = self._teacher_says(piece, seen)
        part_H = objective.losses(of_rows, targets, said, piece, counts)
        if self.recipe.r_drop:
            with self.cast.autocast():
                again = piece.by_row(self.model.answers(embedding_BD), self.heads)
            again_H = objective.losses(again, targets, said, piece, counts)
            apart_H = objective.disagreements(of_rows, again, targets, piece, counts)
            part_H = (part_H + again_H) / 2 + self.recipe.r_drop * apart_H
        return part_H, seen

    def _teacher_says(self, piece: Batch, seen: Tensor) -> dict[str, Tensor] | None:
        """What the teacher answers to the rows, from what the network sees; None without one."""
        teacher = self.objective.teacher
        if teacher is None:
            return None
        answered = [head for head in self.heads if head.name in teacher.names]
        return piece.by_row(teacher.answers(seen, self.cast), answered)

    def network_input(self, pixels_BSSC: Tensor) -> Tensor:
        """Augmented pictures as the network sees them before normalising, RGB in 0..255 [B, S, S, 3]."""
        if pixels_BSSC.ndim == 2:  # embeddings
            return pixels_BSSC
        return augmented(pixels_BSSC, self.augment)

    def _clipped_norm(self) -> Tensor:
        if trunk_is_frozen(self.num_steps, self.recipe):
            drop_gradients(self.model.trunk)
        return nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)

    def _move(self) -> None:
        self.optimizer.step()
        if self.average:
            self.average.follow(self.model, self.num_steps)

    def _undo(self, running: Sequence[Tensor]) -> None:
        """Restore BatchNorm's running statistics of before the forward pass.

        Skipping the optimiser alone would keep a NaN in them for ever.
        """
        for buffer, old in zip(self._running, running, strict=True):
            buffer.copy_(old)
        self.optimizer.zero_grad(set_to_none=True)

    def validate(self, batches: Iterable[Batch]) -> list[Accumulator]:
        """Metrics of this worker's batches; merge them over workers with ``collectives.gather_metrics``."""
        return self._measured([self.result], batches)[0]

    def validate_both(self, batches: Iterable[Batch]) -> list[list[Accumulator]]:
        """The same of the averaged weights, if there are some, and of the last step's, in that order."""
        averaged = [self.average.model] if self.average else []
        return self._measured([*averaged, self.model], batches)

    def _measured(
        self, models: Sequence[MultiHeadModel], batches: Iterable[Batch]
    ) -> list[list[Accumulator]]:
        for model in models:
            share_from_first(model.buffers())  # those of a checkpoint, by which every worker must validate
        return measure_each(
            models, self._as_fits(batches), self.heads, self.preprocess, self.device, self.cast
        )

    def _as_fits(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same rows; in pieces where training needed more than it was asked to make."""
        number = self.pieces.now.num_pieces
        for batch in batches:
            yield from batch.pieces(number) if number > self.recipe.accumulate else [batch]

    def state_dict(self) -> FitterState:
        """All that a resumed run needs."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loss_scale": self.cast.state_dict(),
            "num_steps": self.num_steps,
            "num_skipped": self.num_skipped,
        }

    def load_state_dict(self, state: FitterState) -> None:
        """Continue from what ``state_dict`` gave."""
        self.model.load_state_dict(state["model"])
        if self.average:
            assert state["average"] is not None, "the checkpoint was made without averaging"
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.cast.load_state_dict(state["loss_scale"])
        self.num_steps, self.num_skipped = state["num_steps"], state["num_skipped"]
        self._gradients.first_step = self.num_steps
        self.schedule.load_state_dict(state["schedule"], self.num_steps)


def step_seed(seed: int, step: int) -> int:
    """A seed for torch, far from that of the next step whatever the number of workers."""
    return (seed * 1_000_003 + step) * 4096
