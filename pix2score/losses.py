"""Masked per-head losses as sums and counts: means are taken once, after adding over workers.

Shapes: B images, K bins of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2score.bins import MISSING
from pix2score.errors import ConfigError
from pix2score.heads import HeadSpec


@dataclass(frozen=True, slots=True)
class LossSums:
    """Per head: ``loss_sum`` (float32 scalar, nats, on the graph) and ``num_labelled`` (int64 scalar)."""

    loss_sum: dict[str, Tensor]
    num_labelled: dict[str, Tensor]


def _cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    return F.cross_entropy(logits_BK.float(), labels_B, ignore_index=MISSING, reduction="sum")


_LOSSES = {"cross_entropy": _cross_entropy}


def multi_head_loss(logits_BK: Mapping[str, Tensor], labels_B: Mapping[str, Tensor], heads: Sequence[HeadSpec]) -> LossSums:
    """Loss of each head, summed over the images that have a label for it.

    Sums and counts, not means: heads have different numbers of labels, so they must be added over microbatches and workers before the
    single division.

    Args:
        logits_BK: head -> float [B, K], unnormalised; K differs per head.
        labels_B: head -> int64 [B], bin in [0, K), or ``bins.MISSING`` (-1) where the image has no label.

    Returns:
        A head with no labelled image gives 0 and 0 and sends no gradient.

    Raises:
        ConfigError: the mappings name different heads; the message lists the difference.
    """
    names = {head.name for head in heads}
    if set(logits_BK) != names or set(labels_B) != names:
        raise ConfigError(f"heads differ: specs {sorted(names)}, logits {sorted(logits_BK)}, labels {sorted(labels_B)}")
    loss_sum = {head.name: _LOSSES[head.loss](logits_BK[head.name], labels_B[head.name]) for head in heads}
    num_labelled = {head.name: (labels_B[head.name] != MISSING).sum() for head in heads}
    return LossSums(loss_sum, num_labelled)


def total_loss(sums: LossSums, num_labelled_all: Mapping[str, Tensor], heads: Sequence[HeadSpec]) -> Tensor:
    """Weighted sum over heads of loss_sum / num_labelled_all / ln K: every head on the scale where a uniform guess costs 1.

    ``num_labelled_all`` counts over all workers, so that adding the results of all workers gives the loss of the joint batch.
    """
    parts = [
        sums.loss_sum[head.name] / num_labelled_all[head.name].clamp(min=1) * (head.weight / math.log(head.num_bins))
        for head in heads
    ]
    return torch.stack(parts).sum()
