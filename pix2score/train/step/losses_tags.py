"""Losses of heads of kind ``tags``: every tag is a yes or no of its own.

Sums over the labelled images. Shapes: B images, V tags, n of the images labelled.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2score.heads.tags import CLIP, GAMMA, TagsHead
from pix2score.train.step.batch import is_labelled, weighted_sum


def bce(logits_BV: Tensor, targets_BV: Tensor, _head: TagsHead, weights_n: Tensor | None = None) -> Tensor:
    """Cross-entropy of each tag."""
    logits_nV, has_nV = _labelled(logits_BV, targets_BV)
    cost_nV = F.binary_cross_entropy_with_logits(logits_nV, has_nV, reduction="none")
    return weighted_sum(cost_nV, weights_n)


def frequency(
    logits_BV: Tensor, targets_BV: Tensor, head: TagsHead, weights_n: Tensor | None = None
) -> Tensor:
    """Cross-entropy in which a tag weighs by the inverse root of its prevalence: ``TagsHead.weights``."""
    logits_nV, has_nV = _labelled(logits_BV, targets_BV)
    weight_V = torch.tensor(head.weights, dtype=torch.float32, device=logits_BV.device)
    cost_nV = F.binary_cross_entropy_with_logits(logits_nV, has_nV, weight=weight_V, reduction="none")
    return weighted_sum(cost_nV, weights_n)


def asymmetric(
    logits_BV: Tensor, targets_BV: Tensor, _head: TagsHead, weights_n: Tensor | None = None
) -> Tensor:
    """Cross-entropy in which negatives weigh by (p - ``CLIP``)^``GAMMA``: easy ones hardly count.

    https://arxiv.org/abs/2009.14119. Its probabilities are too high by themselves: the calibration mends
    that.
    """
    logits_nV, has_nV = _labelled(logits_BV, targets_BV)
    shifted_nV = (logits_nV.sigmoid() - CLIP).clamp(min=0)
    of_negative_nV = -shifted_nV.pow(GAMMA) * torch.log1p(-shifted_nV)
    return weighted_sum(has_nV * -F.logsigmoid(logits_nV) + (1 - has_nV) * of_negative_nV, weights_n)


def _labelled(logits_BV: Tensor, targets_BV: Tensor) -> tuple[Tensor, Tensor]:
    """Both of the labelled images alone, the targets as 0 and 1."""
    labelled_B = is_labelled(targets_BV)
    return logits_BV[labelled_B], targets_BV[labelled_B].to(logits_BV.dtype)


TAG_LOSSES: dict[str, Callable[[Tensor, Tensor, TagsHead, Tensor | None], Tensor]] = {
    "tags_bce": bce,
    "tags_asymmetric": asymmetric,
    "tags_frequency": frequency,
}
