"""R-Drop: two answers to the same pictures, under two dropout masks, are to agree.

https://arxiv.org/abs/2106.14448. Dropout stands behind the trunk here, so that the trunk runs once.
Shapes: B images, A outputs of a head, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pix2score.heads.spec import HeadSpec
from pix2score.train.step.batch import is_labelled, or_one, weighted_sum
from pix2score.train.step.losses_tags import TAG_LOSSES


def _of_shares(a_BA: Tensor, b_BA: Tensor) -> Tensor:
    """[B]: mean of both Kullback-Leibler divergences of the softmaxes, nats."""
    log_p, log_q = a_BA.log_softmax(1), b_BA.log_softmax(1)
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)


def _of_chances(a_BA: Tensor, b_BA: Tensor) -> Tensor:
    """[B]: the same of Bernoulli distributions, summed over outputs."""
    return 0.5 * ((a_BA.sigmoid() - b_BA.sigmoid()) * (a_BA - b_BA)).flatten(1).sum(1)


def _of_numbers(a_BA: Tensor, b_BA: Tensor) -> Tensor:
    """[B]: squared difference, in the unit of the outputs."""
    return (a_BA - b_BA).square().flatten(1).sum(1)


def _of_bins_or_a_number(a_BA: Tensor, b_BA: Tensor) -> Tensor:
    """A loss of order is for heads with bins and for heads with one number."""
    return (_of_shares if a_BA.shape[1] > 1 else _of_numbers)(a_BA, b_BA)


SHARES = ("cross_entropy", "ordinal", "squared_emd", "class_weighted", "logit_adjusted")
DISAGREEMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **dict.fromkeys((*SHARES, "soft_cross_entropy", "soft_squared_emd", "expected"), _of_shares),
    **dict.fromkeys(("binary_cross_entropy", "binary_focal", *TAG_LOSSES), _of_chances),
    **dict.fromkeys(("mse", "smooth_l1", "bradley_terry"), _of_numbers),
    "pairwise": _of_bins_or_a_number,
}
"""Name of a loss -> how far apart two answers [B, A] are, [B]."""


def disagreements(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    num_labelled_all: Mapping[str, Tensor],
    heads: Sequence[HeadSpec],
    weights_B: Tensor | None = None,
) -> Tensor:
    """float32 [H]: this worker's part of the mean over labelled images, in the unit of the head's loss."""
    parts = []
    for head in heads:
        labelled_B = is_labelled(targets[head.name])
        apart_B = DISAGREEMENTS[head.loss_name](first[head.name].float(), second[head.name].float())
        scale = head.weight / head.null_cost
        weights_L = None if weights_B is None else weights_B[labelled_B]
        total = weighted_sum(apart_B[labelled_B], weights_L)
        parts.append(total / or_one(num_labelled_all[head.name]) * scale)
    return torch.stack(parts)
