"""Loss of a head that learns from ranked sets of images.

Shapes: B rows, K images of a row at most, P = K (K - 1) / 2 pairs of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2score.heads.compared import FIRST_RANK, WEIGHT
from pix2score.heads.spec import HeadSpec
from pix2score.train.step.batch import is_labelled, weighted_sum

CENTRING = 0.01
"""Of the squared sum of a pair's rewards, which their difference leaves open: as in TRL's reward trainer."""


def bradley_terry(
    rewards_BK: Tensor, target_BT: Tensor, _head: HeadSpec, weights_L: Tensor | None = None
) -> Tensor:
    """Negative log chance of each pair's order, averaged over a set's pairs; an equal rank is half of each.

    All pairs of a set are in one step, and weigh together what the set does: shuffled over steps, pairs of
    the same images are soon learnt by heart (https://arxiv.org/abs/2203.02155).
    """
    present, ranks_BK = is_labelled(target_BT), target_BT[:, FIRST_RANK:]
    i, j = torch.triu_indices(ranks_BK.shape[1], ranks_BK.shape[1], 1, device=ranks_BK.device)
    ahead_BP = ranks_BK[:, j] - ranks_BK[:, i]  # above 0: the first is better; NaN: no such pair
    there_BP = ~ahead_BP.isnan()
    first_BP = 0.5 + 0.5 * ahead_BP.nan_to_num().sign()
    one_BP, other_BP = rewards_BK[:, i], rewards_BK[:, j]
    cost_BP = F.binary_cross_entropy_with_logits(one_BP - other_BP, first_BP, reduction="none")
    cost_BP = cost_BP + CENTRING * (one_BP + other_BP).square()
    mean_B = (cost_BP * there_BP).sum(1) / there_BP.sum(1).clamp(min=1)
    return weighted_sum((mean_B * target_BT[:, WEIGHT].nan_to_num())[present], weights_L)
