"""Losses of heads with one answer: yes or no, or a number. Sums over labelled images.

Shapes: B images, A outputs, K values of a distribution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2score.heads.binary import FOCUS, BinaryHead
from pix2score.heads.spec import MISSING
from pix2score.heads.value import ValueHead
from pix2score.train.step.batch import weighted_sum


def binary_cross_entropy(
    outputs_B1: Tensor, yes_B: Tensor, head: BinaryHead, weights_L: Tensor | None = None
) -> Tensor:
    """Of log odds; an image that is yes weighs ``head.weight_of_yes``."""
    return weighted_sum(_weighted_bce(outputs_B1, yes_B, head)[0], weights_L)


def binary_focal(
    outputs_B1: Tensor, yes_B: Tensor, head: BinaryHead, weights_L: Tensor | None = None
) -> Tensor:
    """The same times ``(1 - probability of the true answer) ** FOCUS``. https://arxiv.org/abs/1708.02002"""
    cost_L, true_L = _weighted_bce(outputs_B1, yes_B, head)
    return weighted_sum((1 - true_L) ** FOCUS * cost_L, weights_L)


def _weighted_bce(outputs_B1: Tensor, yes_B: Tensor, head: BinaryHead) -> tuple[Tensor, Tensor]:
    """Cost of each labelled image, and the probability of its true answer."""
    present = yes_B != MISSING
    logit_L, yes_L = outputs_B1[present, 0], yes_B[present].to(outputs_B1.dtype)
    cost_L = F.binary_cross_entropy_with_logits(logit_L, yes_L, reduction="none")
    weight_L = 1 + (head.weight_of_yes - 1) * yes_L
    return weight_L * cost_L, torch.exp(-cost_L)


def squared_error(
    outputs_B1: Tensor, number_B: Tensor, head: ValueHead, weights_L: Tensor | None = None
) -> Tensor:
    """In units of the train split's variance."""
    present, wanted_B = _standardised(number_B, head)
    return weighted_sum((outputs_B1[present, 0] - wanted_B[present]).square(), weights_L)


def smooth_l1(
    outputs_B1: Tensor, number_B: Tensor, head: ValueHead, weights_L: Tensor | None = None
) -> Tensor:
    """Half the squared error up to a standard deviation, beyond it the error less a half."""
    present, wanted_B = _standardised(number_B, head)
    cost_L = F.smooth_l1_loss(outputs_B1[present, 0], wanted_B[present], reduction="none")
    return weighted_sum(cost_L, weights_L)


def expected_value(
    outputs_BK: Tensor, number_B: Tensor, head: ValueHead, weights_L: Tensor | None = None
) -> Tensor:
    """Cross-entropy of a distribution over ``head.support`` and squared error of its mean.

    https://arxiv.org/abs/2010.10721
    """
    present, wanted_B = _standardised(number_B, head)
    logits_LK, wanted_L = outputs_BK[present], wanted_B[present]
    support_K = torch.as_tensor(head.support, dtype=torch.float32, device=outputs_BK.device)
    at_L1 = wanted_L.clamp(support_K[0], support_K[-1])[:, None]
    shares_LK = (1 - (at_L1 - support_K).abs() / (support_K[1] - support_K[0])).clamp(min=0)
    entropy = -weighted_sum(shares_LK * logits_LK.log_softmax(1), weights_L)
    return entropy + weighted_sum((logits_LK.softmax(1) @ support_K - wanted_L).square(), weights_L)


def _standardised(number_B: Tensor, head: ValueHead) -> tuple[Tensor, Tensor]:
    """Which images have a label, and their labels in standard deviations from the mean."""
    centre, scale = head.centre_and_scale
    return ~number_B.isnan(), ((number_B.double() - centre) / scale).float()
