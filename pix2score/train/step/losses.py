"""Masked per-head losses as sums and counts: the division is done once, after adding over workers.

Shapes: B images, K bins of a head, H heads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2score.errors import ConfigError
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.spec import MISSING, HeadSpec
from pix2score.train.step.batch import is_labelled, label_mass, or_one, weighted_sum
from pix2score.train.step.losses_distribution import soft_cross_entropy, soft_squared_emd
from pix2score.train.step.losses_number import (
    binary_cross_entropy,
    binary_focal,
    expected_value,
    smooth_l1,
    squared_error,
)
from pix2score.train.step.losses_pairwise import PAIRWISE, pairwise
from pix2score.train.step.losses_preference import bradley_terry
from pix2score.train.step.losses_tags import TAG_LOSSES

ORDINAL_WIDTH = 0.1
"""Standard deviation of a soft ordinal label, in ranks of the train split: 1.5 of 15 even bins, 0.5 of 5.

Measured once, on one fold (by group) of 4,173 drawings with two count heads of 15 even bins, resnet18 at 32
px, 10 epochs, one seed. Spearman, NLL at the fitted temperature, and that temperature, for the two heads:

    this width          0.553 2.477 1.07   0.562 2.501 1.11
    half of it          0.523 2.473 1.02   0.543 2.494 1.01
    cross-entropy       0.555 2.509 1.65   0.533 2.570 1.98
    squared EMD         0.547 2.584 2.00   0.544 2.644 3.03

So blurring is what keeps a model from over-confidence; its width hardly matters for NLL. That was before the
bell was balanced. Balancing, on 40 % of the rows, grey, with 40 % of the labels tied at zero, 5 epochs of 10:
NLL 1.860 -> 1.755 beside a prior of 1.838, and 1.980 -> 1.904 beside 2.000.
"""
_BALANCE_STEPS = 200


@dataclass(frozen=True, slots=True)
class LossSums:
    """Per head: ``loss_sum`` (float32 scalar, nats, on the graph) and ``num_labelled``.

    That is an int64 scalar, or float32, the sum of their weights, where rows have weights.
    """

    loss_sum: dict[str, Tensor]
    num_labelled: dict[str, Tensor]


def _cross_entropy(
    logits_BK: Tensor,
    labels_B: Tensor,
    _head: OrderedHead,
    weights_L: Tensor | None = None,
    weight_K: Tensor | None = None,
) -> Tensor:
    if weights_L is None:
        return F.cross_entropy(logits_BK, labels_B, weight=weight_K, ignore_index=MISSING, reduction="sum")
    present = labels_B != MISSING
    cost_L = F.cross_entropy(logits_BK[present], labels_B[present], weight=weight_K, reduction="none")
    return weighted_sum(cost_L, weights_L)


def _ordinal(
    logits_BK: Tensor, labels_B: Tensor, head: OrderedHead, weights_L: Tensor | None = None
) -> Tensor:
    """Cross-entropy against a bell around the true bin.

    A near miss is nearly right, and no bin is certain.
    """
    present = labels_B != MISSING
    target_KK = soft_labels(head.train_counts).to(logits_BK.device)
    return -weighted_sum((target_KK[labels_B.clamp(min=0)] * logits_BK.log_softmax(1))[present], weights_L)


@functools.lru_cache(maxsize=64)
def soft_labels(counts: tuple[int, ...]) -> Tensor:
    """float32 [K, K], rows add to 1: for each true bin a bell over the bins.

    ``ORDINAL_WIDTH`` wide in ranks of the train split.

    Balanced so that labels with the train split's shares give blurred labels with the same shares: a bin of
    many ties (zeros, say) does not leak into its neighbours, where no temperature could bring it back from.
    """
    share_K = torch.tensor(counts, dtype=torch.float64) + 1e-3  # an empty bin gets next to nothing
    share_K = share_K / share_K.sum()
    rank_K = share_K.cumsum(0) - share_K / 2
    kernel_KK = torch.exp(-0.5 * ((rank_K[:, None] - rank_K) / ORDINAL_WIDTH) ** 2)
    scale_K = torch.ones_like(share_K)
    for _ in range(_BALANCE_STEPS):  # Sinkhorn's iteration for a symmetric kernel, damped by the square root
        scale_K = (scale_K / (kernel_KK @ (share_K * scale_K))).sqrt()
    target_KK = scale_K[:, None] * kernel_KK * (share_K * scale_K)
    return (target_KK / target_KK.sum(1, keepdim=True)).float()


def _squared_emd(
    logits_BK: Tensor, labels_B: Tensor, head: OrderedHead, weights_L: Tensor | None = None
) -> Tensor:
    """Squared differences of the cumulative probabilities.

    Scaled so that a uniform guess costs ln K as with cross-entropy.
    """
    k = head.num_bins
    bins = torch.arange(k, device=labels_B.device)
    steps_KK = (bins >= bins[:, None]).float()
    uniform_cost = ((bins + 1) / k - steps_KK).square().sum(1).mean()
    present = labels_B != MISSING
    misses_BK = logits_BK.softmax(1).cumsum(1) - steps_KK[labels_B.clamp(min=0)]
    return weighted_sum(misses_BK[present].square(), weights_L) * (math.log(k) / uniform_cost)


def _class_weighted(
    logits_BK: Tensor, labels_B: Tensor, head: OrderedHead, weights_L: Tensor | None = None
) -> Tensor:
    """Cross-entropy in which every class weighs the same in all, as far as ``class_weights`` allow."""
    weight_K = torch.tensor(head.class_weights, dtype=torch.float32, device=logits_BK.device)
    return _cross_entropy(logits_BK, labels_B, head, weights_L, weight_K)


def _logit_adjusted(
    logits_BK: Tensor, labels_B: Tensor, head: OrderedHead, weights_L: Tensor | None = None
) -> Tensor:
    """Cross-entropy of logits + log share, so that the logits themselves favour no class.

    https://arxiv.org/abs/2007.07314
    """
    return _cross_entropy(logits_BK + _shares(head, logits_BK.device).log(), labels_B, head, weights_L)


def _shares(head: OrderedHead, device: torch.device) -> Tensor:
    """float32 [K]: share of each bin in the train split.

    Add-one smoothed, so that an empty one has a logarithm.
    """
    counts_K = torch.tensor(head.train_counts, dtype=torch.float32, device=device) + 1
    return counts_K / counts_K.sum()


LOSSES: dict[str, Callable[[Tensor, Tensor, Any, Tensor | None], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "ordinal": _ordinal,
    "squared_emd": _squared_emd,
    "class_weighted": _class_weighted,
    "logit_adjusted": _logit_adjusted,
    "binary_cross_entropy": binary_cross_entropy,
    "binary_focal": binary_focal,
    "mse": squared_error,
    "smooth_l1": smooth_l1,
    "expected": expected_value,
    "soft_cross_entropy": soft_cross_entropy,
    "soft_squared_emd": soft_squared_emd,
    PAIRWISE: pairwise(_ordinal),
    **TAG_LOSSES,
    "bradley_terry": bradley_terry,
}
"""Name of a loss -> its sum over labelled images, of outputs [B, A], targets [B] or [B, …], head, and the
weights of the labelled images, or None."""


def multi_head_loss(
    outputs_BA: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    heads: Sequence[HeadSpec],
    weights_B: Tensor | None = None,
) -> LossSums:
    """Loss of each head, summed over the images that have a label for it.

    Sums and counts, not means: heads have different numbers of labels, so they must be added over
    microbatches and workers before the single division.

    Args:
        outputs_BA: head -> float [B, A] as the network gives them; A differs per head.
        targets: head -> [B] or [B, …]: ``Batch.targets``.
        weights_B: ``Batch.weights_B``.

    Returns:
        A head with no labelled image gives 0 and 0 and sends no gradient.

    Raises:
        ConfigError: the mappings name different heads; the message lists the difference.
    """
    names = {head.name for head in heads}
    if set(outputs_BA) != names or set(targets) != names:
        raise ConfigError(
            f"heads differ: specs {sorted(names)}, logits {sorted(outputs_BA)}, labels {sorted(targets)}"
        )
    loss_sum, num_labelled = {}, {}
    for head in heads:
        target = targets[head.name]
        weights_L = None if weights_B is None else weights_B[is_labelled(target)]
        loss_sum[head.name] = LOSSES[head.loss_name](outputs_BA[head.name].float(), target, head, weights_L)
        num_labelled[head.name] = label_mass(target, weights_B)
    return LossSums(loss_sum, num_labelled)


def head_losses(sums: LossSums, num_labelled_all: Mapping[str, Tensor], heads: Sequence[HeadSpec]) -> Tensor:
    """float32 [H]: weight * loss_sum / num_labelled_all / null cost.

    Every head on the scale where the constant answer costs its weight.

    ``num_labelled_all`` counts over all workers, or adds weights, so that adding the results of all workers
    gives the losses of the joint batch.
    """
    parts = [
        sums.loss_sum[head.name] / or_one(num_labelled_all[head.name]) * (head.weight / head.null_cost)
        for head in heads
    ]
    return torch.stack(parts)
