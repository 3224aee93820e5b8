"""A batch of training pictures and labels on one worker.

Shapes: B images, S input size, K bins of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pix2score.heads.spec import MISSING, HeadSpec


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on this worker.

    ``targets`` and ``labels``: head -> [B] or [B, …]; where there is none, an integer target is -1, a
    floating one NaN, and the label NaN.
    """

    pixels_BSSC: Tensor
    """uint8 RGB."""
    targets: dict[str, Tensor]
    labels: dict[str, Tensor]

    def to(self, device: torch.device) -> Batch:
        """The batch with pixels and targets on ``device``; raw labels stay on the CPU, where metrics are."""
        pixels = self.pixels_BSSC.to(device, non_blocking=True)
        return Batch(
            pixels,
            {name: target.to(device, non_blocking=True) for name, target in self.targets.items()},
            self.labels,
        )

    def pieces(self, number: int) -> list[Batch]:
        """The batch in at most ``number`` pieces, together all its rows."""
        size = math.ceil(len(self.pixels_BSSC) / number)
        return [self.rows(slice(i, i + size)) for i in range(0, len(self.pixels_BSSC), size)]

    def rows(self, rows: slice | Tensor) -> Batch:
        """Some of the rows."""
        targets = {name: target[rows] for name, target in self.targets.items()}
        return Batch(self.pixels_BSSC[rows], targets, {name: v[rows] for name, v in self.labels.items()})


def is_labelled(target: Tensor) -> Tensor:
    """bool [B]: which rows of a target [B] or [B, …] have a label."""
    first = target.flatten(1)[:, 0] if target.ndim > 1 else target
    return ~first.isnan() if first.is_floating_point() else first != MISSING


def noisy_targets(batch: Batch, head: HeadSpec, std: float) -> Tensor:
    """Targets of the labels moved by normal noise of ``std`` in their own unit; a missing one stays missing.

    Those of a kind whose labels have no neighbours stay as they are.
    """
    target_B = batch.targets[head.name]
    if not std:
        return target_B
    label_B = batch.labels[head.name].numpy()
    moved_B = head.targets_of(label_B + std * torch.randn(label_B.shape, dtype=torch.float64).numpy())
    if moved_B is None:
        return target_B
    moved = torch.from_numpy(moved_B).to(target_B)
    return torch.where(is_labelled(target_B), moved, target_B)
