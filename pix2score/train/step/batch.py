"""A batch of training pictures and labels on one worker.

Shapes: B images, S input size, K bins of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pix2score.heads.bins import MISSING


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on this worker.

    ``bins`` and ``labels``: head -> [B]; a bin is -1 and the label NaN where there is none.
    """

    pixels_BSSC: Tensor
    """uint8 RGB."""
    bins: dict[str, Tensor]
    labels: dict[str, Tensor]

    def to(self, device: torch.device) -> Batch:
        """The batch with pixels and bins on ``device``; raw labels stay on the CPU, where metrics are."""
        pixels = self.pixels_BSSC.to(device, non_blocking=True)
        return Batch(
            pixels,
            {name: bins.to(device, non_blocking=True) for name, bins in self.bins.items()},
            self.labels,
        )

    def pieces(self, number: int) -> list[Batch]:
        """The batch in at most ``number`` pieces, together all its rows."""
        size = math.ceil(len(self.pixels_BSSC) / number)
        return [self.rows(slice(i, i + size)) for i in range(0, len(self.pixels_BSSC), size)]

    def rows(self, rows: slice | Tensor) -> Batch:
        """Some of the rows."""
        bins = {name: b[rows] for name, b in self.bins.items()}
        return Batch(self.pixels_BSSC[rows], bins, {name: v[rows] for name, v in self.labels.items()})


def noisy_bins(bins_B: Tensor, num_bins: int, std: float) -> Tensor:
    """Bins moved by rounded normal noise of ``std`` bins, kept in range; a missing label stays missing."""
    if not std:
        return bins_B
    moved = (bins_B + std * torch.randn(len(bins_B), device=bins_B.device)).round().clamp(0, num_bins - 1)
    return torch.where(bins_B == MISSING, bins_B, moved.to(bins_B.dtype))
