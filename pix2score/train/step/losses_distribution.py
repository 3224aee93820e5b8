"""Losses of heads of kind ``distribution``. Shapes: B images, K classes."""

from __future__ import annotations

import torch
from torch import Tensor

from pix2score.heads.distribution import DistributionHead
from pix2score.train.step.batch import weighted_sum


def soft_cross_entropy(
    logits_BK: Tensor, target_BL: Tensor, _head: DistributionHead, weights_L: Tensor | None = None
) -> Tensor:
    """Cross-entropy of votes' shares, times each image's weight: least where the answer is the shares."""
    share_NK, weight_N, is_there = _parts(target_BL)
    return -weighted_sum((share_NK * logits_BK[is_there].log_softmax(1)).sum(1) * weight_N, weights_L)


def soft_squared_emd(
    logits_BK: Tensor, target_BL: Tensor, head: DistributionHead, weights_L: Tensor | None = None
) -> Tensor:
    """Squared differences of the cumulative shares, times each image's weight.

    https://arxiv.org/abs/1709.05424; values that lie farther apart weigh more.
    """
    share_NK, weight_N, is_there = _parts(target_BL)
    miss_NK = (logits_BK[is_there].softmax(1) - share_NK).cumsum(1)
    step_K = torch.tensor(head.steps(), dtype=miss_NK.dtype, device=miss_NK.device)
    return weighted_sum((miss_NK[:, :-1].square() * step_K).sum(1) * weight_N, weights_L)


def _parts(target_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares [N, K] and weights [N] of the images that have a label, and which those are, bool [B]."""
    is_there = ~target_BL[:, -1].isnan()
    found = target_BL[is_there]
    return found[:, :-1], found[:, -1], is_there
