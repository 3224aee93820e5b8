"""What a step makes smaller: the joint loss of all heads over all workers, from labels and from a teacher.

Shapes: B rows, A outputs of a head, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pix2score.heads.spec import HeadSpec
from pix2score.train.step.batch import Batch, label_mass
from pix2score.train.step.collectives import sum_over_workers
from pix2score.train.step.consistency import disagreements
from pix2score.train.step.distillation import Teacher
from pix2score.train.step.losses import head_losses, multi_head_loss


class JointCounts(NamedTuple):
    """Of the joint batch of all workers."""

    labelled: dict[str, Tensor]
    """Head -> rows with a label, or the sum of their weights."""
    rows: Tensor


class Objective:
    """Losses of answers to a batch, each worker's part of those of the joint batch."""

    def __init__(
        self, heads: Sequence[HeadSpec], *, resampled: HeadSpec | None = None, teacher: Teacher | None = None
    ) -> None:
        """``resampled``: a head as the rows of a resampled epoch have it, ``Resampling.head``."""
        self.heads, self.teacher = tuple(heads), teacher
        self._taught = [resampled if resampled and resampled.name == h.name else h for h in heads]
        self._shifts = {
            taught.name: shift
            for head, taught in zip(heads, self._taught, strict=True)
            if taught is not head and (shift := _shift(head, taught)) is not None
        }

    def counts(self, batch: Batch) -> JointCounts:
        """Rows of the joint batch, labelled ones and all; every worker asks at once."""
        device = batch.pixels_BSSC.device
        mine = [label_mass(batch.targets[head.name], batch.weights_B) for head in self.heads]
        *labelled, rows = sum_over_workers(
            torch.stack([*mine, torch.tensor(len(batch.pixels_BSSC), device=device)])
        )
        return JointCounts(dict(zip((head.name for head in self.heads), labelled, strict=True)), rows)

    def losses(
        self,
        answers: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        said: Mapping[str, Tensor] | None,
        batch: Batch,
        counts: JointCounts,
    ) -> Tensor:
        """float32 [H]: by labels, and by what the teacher ``said`` where there is one.

        Answers to the rows of ``batch``, head -> [B, A]; without a label a row teaches by the teacher alone.
        """
        sums = multi_head_loss(self._shifted(answers), targets, self._taught, batch.weights_B)
        part_H = head_losses(sums, counts.labelled, self._taught)
        if self.teacher is None or said is None:
            return part_H
        costs, weight = self.teacher.costs(said, answers, batch, counts.rows), self.teacher.weight
        return torch.stack(
            [
                (1 - weight) * part + weight * costs[head.name] if head.name in costs else part
                for head, part in zip(self.heads, part_H, strict=True)
            ]
        )

    def disagreements(
        self,
        first: Mapping[str, Tensor],
        second: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        batch: Batch,
        counts: JointCounts,
    ) -> Tensor:
        """float32 [H]: how far two answers to the same rows are apart."""
        return disagreements(first, second, targets, counts.labelled, self._taught, batch.weights_B)

    def _shifted(self, answers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answers to rows of which rare classes come more often.

        So the outputs themselves answer for the data as it is: whatever validates, averages or saves them
        need not know.
        """
        shift = self._shifts
        return {
            name: outputs.float() + shift[name].to(outputs.device) if name in shift else outputs
            for name, outputs in answers.items()
        }


def _shift(head: HeadSpec, taught: HeadSpec) -> Tensor | None:
    """What moves the constant answer to the data to that to the resampled rows: float32 [A]."""
    before_A, after_A = head.initial_bias(), taught.initial_bias()
    return None if before_A is None or after_A is None else torch.from_numpy(after_A - before_A)
