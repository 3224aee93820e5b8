"""What several networks say together: the mean of their calibrated answers, as outputs of one network.

Shapes: B images, A outputs of a head (some losses of a value have several, its mean one), M networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pix2score.heads.binary_labels import BINARY
from pix2score.heads.class_labels import CLASSES
from pix2score.heads.distribution_labels import DISTRIBUTION
from pix2score.heads.ordered_labels import BINS, LEVELS
from pix2score.heads.preference import PREFERENCE
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.heads.tags import TAGS
from pix2score.heads.value import ValueHead
from pix2score.heads.value_labels import VALUE


def _log_shares(_head: HeadSpec, logits_BA: Tensor, calibration: Calibration) -> Tensor:
    return (logits_BA / float(calibration.get("temperature", 1.0))).log_softmax(1)


def _odds(_head: HeadSpec, logits_BA: Tensor, calibration: Calibration) -> Tensor:
    return logits_BA * float(calibration.get("slope", 1.0)) + float(calibration.get("offset", 0.0))


def _number(head: ValueHead, outputs_BA: Tensor, calibration: Calibration) -> Tensor:
    """Standard deviations from the mean, within the head's range."""
    (centre, scale), several = head.centre_and_scale, outputs_BA.shape[1] > 1
    support = torch.tensor(head.support, dtype=outputs_BA.dtype, device=outputs_BA.device)
    plain_B1 = (outputs_BA.softmax(1) @ support)[:, None] if several else outputs_BA
    slope, offset = float(calibration.get("slope", 1.0)), float(calibration.get("offset", 0.0))
    line = slope * (centre + scale * plain_B1) + offset
    return (line.clamp(*head.bounds) - centre) / scale


def _reward(_head: HeadSpec, outputs_BA: Tensor, calibration: Calibration) -> Tensor:
    return outputs_BA / float(calibration.get("temperature", 1.0))


def _mean_shares(found_MBA: Tensor, share_M: Tensor) -> Tensor:
    return torch.logsumexp(found_MBA + share_M.log(), dim=0)


def _mean_odds(found_MBA: Tensor, share_M: Tensor) -> Tensor:
    sign = torch.nn.functional.logsigmoid
    return _mean_shares(sign(found_MBA), share_M) - _mean_shares(sign(-found_MBA), share_M)


def _mean(found_MBA: Tensor, share_M: Tensor) -> Tensor:
    return (found_MBA * share_M).sum(0)


Calibrated = Callable[[Any, Tensor, Calibration], Tensor]
Mean = Callable[[Tensor, Tensor], Tensor]
POOLS: Mapping[str, tuple[Calibrated, Mean]] = {
    **dict.fromkeys((BINS, LEVELS, DISTRIBUTION, CLASSES), (_log_shares, _mean_shares)),
    **dict.fromkeys((BINARY, TAGS), (_odds, _mean_odds)),
    VALUE: (_number, _mean),
    PREFERENCE: (_reward, _mean),
}
"""Kind -> a network's outputs as those that need no calibration, and the mean of such outputs [M, B, A] by
shares [M, 1, 1] that add to 1."""


def calibrated(head: HeadSpec, outputs_BA: Tensor, calibration: Calibration) -> Tensor:
    """Outputs as those that need no calibration, ``HeadSpec.measured`` of the answer: float32 [B, A]."""
    return POOLS[head.kind][0](head, outputs_BA.float(), calibration)


def pooled(head: HeadSpec, found: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """The mean of answers that need no calibration, [B, A] each; a share of 0 is left out."""
    kept = [(outputs, share) for outputs, share in zip(found, shares, strict=True) if share > 0]
    share_M = torch.tensor([share for _, share in kept], dtype=torch.float32, device=kept[0][0].device)
    return POOLS[head.kind][1](torch.stack([outputs for outputs, _ in kept]), share_M.view(-1, 1, 1))
