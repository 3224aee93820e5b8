"""The training step and loop state of one worker. Knows torch and torch.distributed, no Ray.

Shapes: B images per worker, S input size, K bins of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pix2score.heads import HeadSpec
from pix2score.images import Preprocess
from pix2score.losses import multi_head_loss, total_loss
from pix2score.metrics import HeadMetrics
from pix2score.model import MultiHeadModel, normalise
from pix2score.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on this worker. ``bins`` and ``labels``: head -> [B]; a bin is -1 and the label NaN where there is none."""

    pixels_BSSC: Tensor
    """uint8 RGB."""
    bins: dict[str, Tensor]
    labels: dict[str, Tensor]

    def to(self, device: torch.device) -> Batch:
        """The batch with pixels and bins on ``device``; raw labels stay on the CPU, where metrics are."""
        pixels = self.pixels_BSSC.to(device, non_blocking=True)
        return Batch(pixels, {name: bins.to(device, non_blocking=True) for name, bins in self.bins.items()}, self.labels)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Loss of the joint batch over all workers (1 = a uniform guess on every head); whether the step was skipped as non-finite."""

    loss: float
    skipped: bool


class Fitter:
    """Owns model, optimiser and schedule of one worker; parameters are the same on every worker after every step.

    ``network`` is the model itself or its DistributedDataParallel.
    """

    def __init__(
        self,
        network: nn.Module,
        heads: Sequence[HeadSpec],
        preprocess: Preprocess,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.network, self.heads, self.preprocess, self.device = network, heads, preprocess, device
        self.recipe = recipe
        self.model = cast(MultiHeadModel, getattr(network, "module", network))
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, recipe), lr=recipe.learning_rate, fused=device.type == "cuda"
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: learning_rate_factor(step, recipe))
        self.num_steps = 0
        self.num_skipped = 0
        # bf16 has float32's range: no loss scaling, which is where fp16 training went NaN in the reference system.
        self.autocast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        self._running = list(self.model.buffers())  # the counters too: a skipped step leaves no trace

    def train_step(self, batch: Batch) -> StepResult:
        """One optimiser step on the joint batch of all workers; skipped on all of them together if loss or gradient is not finite."""
        self.network.train()
        before = [buffer.clone() for buffer in self._running]
        batch = batch.to(self.device)
        loss_part = self._loss_part(batch)
        self.optimizer.zero_grad(set_to_none=True)
        # DDP averages gradients over workers; the parts are to be added.
        torch.autograd.backward(loss_part * num_workers())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        loss, num_bad = _sum_over_workers(torch.stack([loss_part.detach(), (~torch.isfinite(norm + loss_part)).float()]))
        skipped = bool(num_bad > 0)
        if skipped:
            self._undo(before)
        else:
            self.optimizer.step()
        self.schedule.step()
        self.num_steps += 1
        self.num_skipped += skipped
        return StepResult(float(loss), skipped)

    def _loss_part(self, batch: Batch) -> Tensor:
        """This worker's part of the joint loss."""
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.autocast):
            logits, _ = self.network(normalise(batch.pixels_BSSC, self.preprocess))
        sums = multi_head_loss(logits, batch.bins, self.heads)
        counts = _sum_over_workers(torch.stack([sums.num_labelled[head.name] for head in self.heads]).clone())
        return total_loss(sums, {head.name: n for head, n in zip(self.heads, counts, strict=True)}, self.heads)

    def _undo(self, running: Sequence[Tensor]) -> None:
        """BatchNorm's running statistics as before the forward pass: skipping the optimiser alone would keep a NaN in them for ever."""
        for buffer, old in zip(self._running, running, strict=True):
            buffer.copy_(old)
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> list[HeadMetrics]:
        """Metrics of this worker's batches; merge them over workers with ``gather_metrics``."""
        self._share_buffers()
        self.network.eval()
        metrics = [HeadMetrics(head) for head in self.heads]
        for batch in batches:
            moved = batch.to(self.device)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.autocast):
                logits, _ = self.model(normalise(moved.pixels_BSSC, self.preprocess))
            for metric in metrics:
                name = metric.head.name
                metric.add(logits[name].float().cpu().numpy(), batch.bins[name].numpy(), batch.labels[name].numpy())
        return metrics

    def _share_buffers(self) -> None:
        """BatchNorm's running statistics of worker 0 on all: those of a checkpoint, by which every worker must validate."""
        if num_workers() > 1:
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs; tensors and plain values only, so that it loads with ``weights_only``."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "num_steps": self.num_steps,
            "num_skipped": self.num_skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.num_steps, self.num_skipped = state["num_steps"], state["num_skipped"]


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Share of the top rate at ``step``: linear warm-up from one step's worth, then cosine to zero at ``total_steps``."""
    warmup = max(1, round(recipe.warmup_fraction * recipe.total_steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, recipe.total_steps - warmup))
    return 0.5 * (1 + math.cos(math.pi * progress))


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels; none for norms and biases."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def num_workers() -> int:
    """Workers in the process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum_over_workers(tensor: Tensor) -> Tensor:
    if num_workers() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_metrics(mine: Sequence[HeadMetrics]) -> list[HeadMetrics]:
    """Metrics merged over all workers, on every worker."""
    if num_workers() == 1:
        return list(mine)
    everyone: list[Any] = [None] * num_workers()
    dist.all_gather_object(everyone, list(mine))
    merged = everyone[0]
    for other in everyone[1:]:
        merged = [a.merge(b) for a, b in zip(merged, other, strict=True)]
    return list(merged)


def validation_loss(metrics: Sequence[HeadMetrics]) -> float:
    """Weighted mean over heads of NLL / ln K at the fitted temperature: what checkpoints are ranked by. NaN-free while the NLL is."""
    parts = [(m.head.weight, _calibrated_nll(m) / math.log(m.head.num_bins)) for m in metrics if m.num_labelled]
    total_weight = sum(weight for weight, _ in parts)
    return sum(weight * loss for weight, loss in parts) / total_weight if total_weight else math.inf


def _calibrated_nll(metrics: HeadMetrics) -> float:
    nll = float(np.min(metrics.nll_by_temperature)) / metrics.num_labelled
    return nll if math.isfinite(nll) else math.inf
