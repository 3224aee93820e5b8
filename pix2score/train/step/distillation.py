"""Distillation: a trained model answers the very pictures that the student sees, and the student comes near.

Same crop, same augmentation, in every step anew: https://arxiv.org/abs/2106.05237. Answers of the teacher are
calibrated, so that what it says weighs what it is worth. Costs are in the unit of labels: a student that
gives the constant answer costs about 1.

Shapes: B rows, N images, C channels, S input size, A outputs of a head, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.images.preprocess import Preprocess
from pix2score.model.card import ModelCard
from pix2score.model.network import renormalised
from pix2score.model.networks import Network
from pix2score.model.pooling import calibrated
from pix2score.train.step.batch import Batch
from pix2score.train.step.consistency import SHARES
from pix2score.train.step.losses_tags import TAG_LOSSES
from pix2score.train.step.precision import Caster

Cost = Callable[[Tensor, Tensor, Any], Tensor]
"""Of the teacher's calibrated outputs, the student's, both [B, A], and the student's head -> [B]."""


def _of_shares(teacher_BA: Tensor, student_BA: Tensor, head: HeadSpec) -> Tensor:
    """Cross-entropy of the teacher's probabilities, over that of the constant answer to labels.

    The Kullback-Leibler divergence from the teacher, and the entropy of its answer, which no student can
    avoid.
    """
    share_BA = teacher_BA.softmax(1)
    log_prior_A = torch.from_numpy(_bias(head)).log_softmax(0)
    return -(share_BA * student_BA.log_softmax(1)).sum(1) / -(log_prior_A.exp() * log_prior_A).sum().item()


def _of_chances(teacher_BA: Tensor, student_BA: Tensor, head: HeadSpec) -> Tensor:
    """The same of yes and no, summed over outputs."""
    cost_B = F.binary_cross_entropy_with_logits(student_BA, teacher_BA.sigmoid(), reduction="none").sum(1)
    bias_A = torch.from_numpy(_bias(head))
    return cost_B / F.binary_cross_entropy_with_logits(bias_A, bias_A.sigmoid(), reduction="sum").item()


def _of_numbers(teacher_B1: Tensor, student_BA: Tensor, head: ValueHead) -> Tensor:
    """Squared difference, in units of the variance of labels."""
    if student_BA.shape[1] > 1:  # a distribution over ``support``
        support_A = torch.tensor(head.support, dtype=torch.float32, device=student_BA.device)
        student_BA = (student_BA.softmax(1) @ support_A)[:, None]
    return (teacher_B1 - student_BA).square().sum(1)


def _of_rewards(teacher_BA: Tensor, student_BA: Tensor, _head: HeadSpec) -> Tensor:
    """Squared difference, summed over a row's images, such that it is what pairs of them cost.

    Of a pair with errors e and e' the divergence of its chances is (e - e')^2 / 8 to second order: e^2 / 4 on
    average for independent errors, and in units of ln 2 as labels are.
    """
    return (teacher_BA - student_BA).square().sum(1) / (4 * math.log(2))


def _of_order(teacher_BA: Tensor, student_BA: Tensor, head: Any) -> Tensor:
    return (_of_numbers if isinstance(head, ValueHead) else _of_shares)(teacher_BA, student_BA, head)


COSTS: dict[str, Cost] = {
    **dict.fromkeys((*SHARES, "soft_cross_entropy", "soft_squared_emd"), _of_shares),
    **dict.fromkeys(("binary_cross_entropy", "binary_focal", *TAG_LOSSES), _of_chances),
    **dict.fromkeys(("mse", "smooth_l1", "expected"), _of_numbers),
    "pairwise": _of_order,
    "bradley_terry": _of_rewards,
}
"""Name of the student's loss of labels -> what its distance from a teacher costs."""


def _bias(head: HeadSpec) -> Any:
    """Outputs of the constant answer, float32 [A]."""
    bias_A = head.initial_bias()
    return np.zeros(head.num_outputs, dtype=np.float32) if bias_A is None else bias_A


class Teacher:
    """A trained network that is asked about what a student sees. It stays as it is."""

    def __init__(
        self,
        network: Network,
        card: ModelCard,
        student: Preprocess,
        heads: Sequence[HeadSpec],
        weight: float,
        device: torch.device,
    ) -> None:
        """``heads``: the student's, of which the teacher answers those that it has.

        ``weight``: of its answers in the loss of these heads; the rest is the labels'.
        """
        self._network = network.to(device).eval().requires_grad_(False)
        self._card, self._student, self.weight = card, student, weight
        ours = {head.name: head for head in card.heads}
        self._pairs = [(head, ours[head.name]) for head in heads if head.name in ours]
        self.names = frozenset(head.name for head, _ in self._pairs)

    @torch.no_grad()
    def answers(self, seen_NCSS: Tensor, caster: Caster) -> dict[str, Tensor]:
        """Head -> its calibrated outputs [N, A], float32, from the student's own input."""
        with caster.autocast():
            outputs, _ = self._network(self._as_wanted(seen_NCSS.detach()))
        card = self._card
        return {
            head.name: _in_units_of(head, own, calibrated(own, outputs[own.name], card.calibration(own.name)))
            for head, own in self._pairs
        }

    def costs(
        self, said: Mapping[str, Tensor], answers: Mapping[str, Tensor], batch: Batch, num_rows_all: Tensor
    ) -> dict[str, Tensor]:
        """Head -> this worker's part of the mean over the rows of all workers, labelled or not.

        Of ``said`` and ``answers`` to all rows of ``batch``, as ``Batch.by_row`` has them.
        """
        found = {}
        for head, _ in self._pairs:
            cost_B = COSTS[head.loss_name](said[head.name], answers[head.name].float(), head)
            if head.COMPARES and batch.others is not None:
                cost_B = cost_B / (1 + batch.others.counts_B.to(cost_B.device))
            found[head.name] = cost_B.sum() / num_rows_all * head.weight
        return found

    def _as_wanted(self, image_NCSS: Tensor) -> Tensor:
        """In the teacher's normalisation and size."""
        ours, own = self._student, self._card.preprocess
        image_NCSS = renormalised(image_NCSS, ours, own)
        if ours.size != own.size:
            image_NCSS = F.interpolate(image_NCSS, (own.size, own.size), mode="bilinear", antialias=True)
        return image_NCSS


def _in_units_of(head: HeadSpec, own: HeadSpec, outputs_NA: Tensor) -> Tensor:
    """Numbers in standard deviations of the student's labels, where the teacher learnt from others."""
    if not (isinstance(head, ValueHead) and isinstance(own, ValueHead)):
        return outputs_NA
    (centre, scale), (own_centre, own_scale) = head.centre_and_scale, own.centre_and_scale
    return (outputs_NA * own_scale + own_centre - centre) / scale
