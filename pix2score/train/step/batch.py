"""A batch of training pictures and labels on one worker.

Shapes: B images, S input size, K bins of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pix2score.heads.spec import MISSING


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


def noisy_bins(bins_B: Tensor, num_bins: int, std: float) -> Tensor:
    """Bins moved by rounded normal noise of ``std`` bins, kept in range; a missing label stays missing."""
    if not std or bins_B.ndim > 1:  # labels that are no bins have no neighbours
        return bins_B
    moved = (bins_B + std * torch.randn(len(bins_B), device=bins_B.device)).round().clamp(0, num_bins - 1)
    return torch.where(bins_B == MISSING, bins_B, moved.to(bins_B.dtype))
