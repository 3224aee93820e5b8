"""Gradients of the joint loss of all workers, each worker's batch in as many pieces as fit in its memory.

Shapes: B images, H heads, P parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pix2score.model.network import MultiHeadModel
from pix2score.train.step.adversarial import moved_against, statistics_kept
from pix2score.train.step.batch import Batch
from pix2score.train.step.collectives import num_workers, share_from_first, sum_over_workers
from pix2score.train.step.pcgrad import conflict_free, flat, unflatten_into_gradients
from pix2score.train.step.pieces import Pieces, is_out_of_memory, shortage
from pix2score.train.step.precision import Caster
from pix2score.train.step.recipe import Recipe

Losses: TypeAlias = Callable[[Batch, nn.Module, Tensor | None], tuple[Tensor, Tensor]]
"""A piece, the network to ask, and its input where that is not the piece's own -> float32 [H] on the graph,
this worker's part of the joint losses; and the network's input."""
Found: TypeAlias = tuple[Tensor, Tensor | None]
"""This worker's part of the joint losses, float32 [H], and for PCGrad of their gradients, float32 [H, P]."""


class Gradients:
    """Makes the gradients of one worker. ``network`` is the model or its DistributedDataParallel."""

    def __init__(self, network: nn.Module, recipe: Recipe, caster: Caster, pieces: Pieces) -> None:
        self._network, self._recipe, self._cast, self._pieces = network, recipe, caster, pieces
        self._model = cast(MultiHeadModel, getattr(network, "module", network))
        self._is_ddp = isinstance(network, DistributedDataParallel)
        self.first_step = 0
        """That this process makes: a resumed run may find another device."""

    def make(
        self, batch: Batch, losses: Losses, *, step: int, order_seed: int, start_over: Callable[[], None]
    ) -> Tensor:
        """Set every ``grad`` to that of the joint loss; return this worker's part of it, float32 [H].

        ``start_over`` brings model and random numbers back to where the step began. ``order_seed``: PCGrad's,
        the same on all workers.

        Raises ``ConfigError`` if not even one image at a time fits in memory.
        """
        if self._reduces_while_it_computes(step):
            part_H, _ = self._pass(batch, losses, self._network)
        else:
            part_H, gradient_HP = self._fitting_pass(batch, losses, start_over)
            self._join(gradient_HP, order_seed)
        for parameter in self._model.parameters():
            if parameter.grad is not None:
                parameter.grad /= self._cast.scale
        return part_H

    def _reduces_while_it_computes(self, step: int) -> bool:
        """Whether DDP adds gradients up during the backward pass, from where no worker can step back.

        Not in the steps that show how much memory one takes: the first one brings the optimiser's moments,
        so does that in which the trunk begins to move, and the one after has them all.
        """
        thawed = round(self._recipe.frozen_fraction * self._recipe.total_steps)
        shows = any(start <= step < start + 2 for start in (self.first_step, thawed))
        return self._is_ddp and not shows and self._recipe.gradient != "pcgrad"

    def _fitting_pass(self, batch: Batch, losses: Losses, start_over: Callable[[], None]) -> Found:
        """``_pass`` without a word to other workers, in as many pieces as it takes to fit in all memories."""
        while True:
            share_from_first(self._model.buffers())  # as DDP's forward pass does
            found, why = self._tried_pass(batch, losses)
            num_short = sum_over_workers(torch.tensor(float(found is None), device=batch.pixels_BSSC.device))
            if found is not None and not num_short:
                return found
            del found
            start_over()
            if batch.pixels_BSSC.is_cuda:
                torch.cuda.empty_cache()
            self._pieces.tighten(len(batch.pixels_BSSC), why or "of another worker")

    def _tried_pass(self, batch: Batch, losses: Losses) -> tuple[Found | None, str]:
        """What ``_pass`` gives, or None and why it did not fit in memory."""
        try:
            return self._pass(batch, losses, self._model), ""
        except RuntimeError as exc:
            if not is_out_of_memory(exc):
                raise
            return None, shortage(exc, batch.pixels_BSSC.device)

    def _pass(self, batch: Batch, losses: Losses, network: nn.Module) -> Found:
        """Gradients are left in ``grad``, reduced if ``network`` is DDP's; those of PCGrad are returned."""
        backward = self._by_head if self._recipe.gradient == "pcgrad" else self._of_sum
        pieces = batch.pieces(self._pieces.now.num_pieces)
        total_H: Tensor | float = 0.0
        gradient_HP: Tensor | None = None
        for i, piece in enumerate(pieces):
            is_last, moves = i == len(pieces) - 1, bool(self._recipe.adversarial)
            with _reducing(network, is_last and not moves):
                part_H, seen = losses(piece, network, None)
                with self._pieces.backward():
                    rows_HP = backward(part_H)
            if moves:
                with _reducing(network, is_last), statistics_kept(self._model):
                    again_H, _ = losses(piece, network, moved_against(seen, self._recipe.adversarial))
                    backward(again_H)
            total_H = total_H + part_H.detach()
            gradient_HP = rows_HP if gradient_HP is None or rows_HP is None else gradient_HP + rows_HP
        return cast(Tensor, total_H), gradient_HP

    def _of_sum(self, part_H: Tensor) -> None:
        # DDP averages gradients over workers; the parts are to be added.
        torch.autograd.backward(part_H.sum() * (num_workers() * self._cast.scale))

    def _by_head(self, part_H: Tensor) -> Tensor:
        """float32 [H, P]."""
        parameters = [*self._trunk(), *self._rest()]
        rows = [
            torch.autograd.grad(loss * self._cast.scale, parameters, retain_graph=True, allow_unused=True)
            for loss in part_H
        ]
        return torch.stack([flat(row, parameters) for row in rows])

    def _join(self, gradient_HP: Tensor | None, order_seed: int) -> None:
        """Every ``grad`` from the parts of all workers."""
        if gradient_HP is not None:
            self._project(sum_over_workers(gradient_HP), order_seed)
        elif num_workers() > 1:
            for parameter in self._model.parameters():
                if parameter.grad is not None:
                    sum_over_workers(parameter.grad).div_(num_workers())

    def _project(self, joint_HP: Tensor, order_seed: int) -> None:
        """PCGrad's gradient of the trunk, the plain sum of the heads'."""
        num_trunk = sum(p.numel() for p in self._trunk())
        unflatten_into_gradients(conflict_free(joint_HP[:, :num_trunk], order_seed), self._trunk())
        unflatten_into_gradients(joint_HP[:, num_trunk:].sum(0), self._rest())

    def _trunk(self) -> Sequence[nn.Parameter]:
        return list(self._model.trunk.parameters())

    def _rest(self) -> Sequence[nn.Parameter]:
        return [p for name, p in self._model.named_parameters() if not name.startswith("trunk.")]


def _reducing(network: nn.Module, reduces: bool) -> contextlib.AbstractContextManager[None]:
    """Whether DDP reduces the gradients of this backward pass over workers."""
    if isinstance(network, DistributedDataParallel) and not reduces:
        return cast(contextlib.AbstractContextManager[None], network.no_sync())
    return contextlib.nullcontext()
