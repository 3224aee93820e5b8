"""A batch of training pictures and labels on one worker.

Shapes: B rows, M images beyond the first of each row, S input size, A outputs of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pix2score.heads.compared import MAX_IMAGES
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
    others: Others | None = None
    """None where every row is one image."""
    weights_B: Tensor | None = None
    """float32, 0 or more: what each row's labels weigh in training; None where all weigh 1."""

    @property
    def images(self) -> Tensor:
        """uint8 RGB [B + M, S, S, 3]: the first image of each row, then the M others, row by row."""
        return (
            self.pixels_BSSC
            if self.others is None
            else torch.cat([self.pixels_BSSC, self.others.pixels_MSSC])
        )

    def with_images(self, images: Tensor) -> Batch:
        """The same rows with other ``images`` [B + M, …], such as their embeddings."""
        size = len(self.pixels_BSSC)
        others = self.others and replace(self.others, pixels_MSSC=images[size:])
        return replace(self, pixels_BSSC=images[:size], others=others)

    def to(self, device: torch.device) -> Batch:
        """The batch with pixels and targets on ``device``; raw labels stay on the CPU, where metrics are."""
        pixels = self.pixels_BSSC.to(device, non_blocking=True)
        return Batch(
            pixels,
            {name: target.to(device, non_blocking=True) for name, target in self.targets.items()},
            self.labels,
            self.others and self.others.to(device),
            None if self.weights_B is None else self.weights_B.to(device, non_blocking=True),
        )

    def pieces(self, number: int) -> list[Batch]:
        """The batch in at most ``number`` pieces, together all its rows."""
        size = math.ceil(len(self.pixels_BSSC) / number)
        return [self.rows(slice(i, i + size)) for i in range(0, len(self.pixels_BSSC), size)]

    def rows(self, rows: slice | Tensor) -> Batch:
        """Some of the rows."""
        targets = {name: target[rows] for name, target in self.targets.items()}
        labels = {name: v[rows] for name, v in self.labels.items()}
        weights = None if self.weights_B is None else self.weights_B[rows]
        return Batch(self.pixels_BSSC[rows], targets, labels, self.others and self.others.rows(rows), weights)

    def by_row(self, outputs: Mapping[str, Tensor], heads: Sequence[HeadSpec]) -> dict[str, Tensor]:
        """What heads say of the rows, from what they say of ``images``, [B + M, A].

        [B, A] of the first images; of a head that compares [B, MAX_IMAGES], each row's images side by side
        and zeros where there is none.
        """
        size = len(self.pixels_BSSC)
        return {
            head.name: self._side_by_side(outputs[head.name]) if head.COMPARES else outputs[head.name][:size]
            for head in heads
        }

    def _side_by_side(self, outputs_NA: Tensor) -> Tensor:
        size = len(self.pixels_BSSC)
        found = outputs_NA.new_zeros(size, MAX_IMAGES - 1)
        if self.others is not None:
            place = torch.arange(MAX_IMAGES - 1, device=found.device)
            there = place < self.others.counts_B.to(found.device)[:, None]
            found = found.masked_scatter(there, outputs_NA[size:, 0])
        return torch.cat([outputs_NA[:size, :1], found], dim=1)


@dataclass(frozen=True, slots=True)
class Others:
    """Images of a batch's rows beyond the first of each."""

    pixels_MSSC: Tensor
    """uint8 RGB, row by row."""
    counts_B: Tensor
    """int64, on the CPU: how many each row has."""

    def to(self, device: torch.device) -> Others:
        """With the pixels on ``device``."""
        return Others(self.pixels_MSSC.to(device, non_blocking=True), self.counts_B)

    def rows(self, rows: slice | Tensor) -> Others:
        """Those of some rows, in their order."""
        counts_B, first_B = self.counts_B[rows], (self.counts_B.cumsum(0) - self.counts_B)[rows]
        of_row = torch.arange(int(counts_B.sum())) - (counts_B.cumsum(0) - counts_B).repeat_interleave(
            counts_B
        )
        mine = first_B.repeat_interleave(counts_B) + of_row
        return Others(self.pixels_MSSC[mine.to(self.pixels_MSSC.device)], counts_B)


def is_labelled(target: Tensor) -> Tensor:
    """bool [B]: which rows of a target [B] or [B, …] have a label."""
    first = target.flatten(1)[:, 0] if target.ndim > 1 else target
    return ~first.isnan() if first.is_floating_point() else first != MISSING


def label_mass(target: Tensor, weights_B: Tensor | None) -> Tensor:
    """How many rows have a label, int64 scalar; with weights their sum, float32."""
    labelled_B = is_labelled(target)
    return labelled_B.sum() if weights_B is None else weights_B[labelled_B].sum()


def weighted_sum(terms: Tensor, weights_L: Tensor | None) -> Tensor:
    """Sum of terms [L] or [L, …] of labelled rows, each row's times its weight."""
    if weights_L is None:
        return terms.sum()
    of_row = terms.sum(tuple(range(1, terms.ndim))) if terms.ndim > 1 else terms
    return (of_row * weights_L).sum()


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


def or_one(mass: Tensor) -> Tensor:
    """``mass``, or 1 where there is none to divide by."""
    return torch.where(mass > 0, mass, torch.ones_like(mass))
