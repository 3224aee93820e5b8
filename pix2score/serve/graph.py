"""The model as one graph that other runtimes can hold.

An upright RGB image of any size in, every head's answer and the embedding out. Resizing is written as two
matrix products, one per axis, which compute what Pillow computes, its rounding to 8 bits between the passes
included: every runtime has a matrix product, few have the same antialiased resize.

Shapes: H height, W width of the image given, n one of them, S input size, D embedding, K bins of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pix2score.heads.binary import BinaryHead
from pix2score.heads.binary_labels import BINARY
from pix2score.heads.class_labels import CLASSES
from pix2score.heads.classes import ClassesHead
from pix2score.heads.distribution import DistributionHead
from pix2score.heads.distribution_labels import DISTRIBUTION
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.ordered_labels import BINS, LEVELS
from pix2score.heads.preference import PREFERENCE, reward_quantiles
from pix2score.heads.quantiles import knots
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.heads.tags import TAGS, TagsHead
from pix2score.heads.value import ValueHead
from pix2score.heads.value_labels import VALUE
from pix2score.images.preprocess import Preprocess
from pix2score.model.card import ModelCard
from pix2score.model.folder import Weights
from pix2score.model.network import normalise
from pix2score.model.networks import model_from_card

OUTPUTS = "_outputs"
"""Ending of the name of a head's raw outputs [A], which only a comparison asks for."""
FIXED_POINT = 2.0**22  # Pillow holds resampling weights as integers of so many parts


class ServedModel(nn.Module):
    """Preprocessing, network and decoding in one module; its output is a flat dictionary of tensors."""

    def __init__(self, card: ModelCard, weights: Weights, *, with_outputs: bool = False) -> None:
        """``with_outputs``: heads' raw outputs, too, before calibration."""
        super().__init__()
        self.with_outputs = with_outputs
        self.network = model_from_card(card, weights)
        self.preprocess = card.preprocess
        self.heads = card.heads
        self.calibrations = {head.name: card.calibration(head.name) for head in card.heads}

    def forward(self, image_HWC: Tensor) -> dict[str, Tensor]:
        """uint8 [H, W, 3] -> the columns of the scores table for one image.

        Per head ``<h>_probs`` float32 [K], ``<h>_bin`` int64 [], ``<h>_score`` and ``<h>_expected`` float32
        [], and where the head has it ``<h>_median`` int64 []; and ``embedding`` float32 [D].
        """
        image_BCHW = normalise(resize(image_HWC, self.preprocess).permute(1, 2, 0)[None], self.preprocess)
        outputs_of, embedding_BD = self.network(image_BCHW)
        outputs: dict[str, Tensor] = {}
        for head in self.heads:
            answer = ANSWERS[head.kind](head, outputs_of[head.name][0], self.calibrations[head.name])
            outputs |= {f"{head.name}_{name}": tensor for name, tensor in answer.items()}
        if self.with_outputs:
            outputs |= {f"{head.name}{OUTPUTS}": outputs_of[head.name][0] for head in self.heads}
        return outputs | {"embedding": embedding_BD[0]}


def answers_of(head: HeadSpec, outputs_BA: Tensor, calibration: Calibration) -> list[dict[str, Tensor]]:
    """What ``ANSWERS`` says of each row, on the graph."""
    return [ANSWERS[head.kind](head, row_A, calibration) for row_A in outputs_BA]


def _ordered(head: OrderedHead, logits_K: Tensor, calibration: Calibration) -> dict[str, Tensor]:
    probs_K = torch.softmax(logits_K / calibration.get("temperature", 1.0), dim=0)
    ranks = torch.tensor(head.ranks, dtype=torch.float32, device=logits_K.device)
    typical = torch.tensor(head.typical_values, dtype=torch.float32, device=logits_K.device)
    score = (probs_K * ranks).sum().clamp(0, 1)
    found = {"probs": probs_K, "bin": probs_K.argmax(), "score": score, "expected": (probs_K * typical).sum()}
    if head.has_median:
        found["median"] = (probs_K.cumsum(0) < 0.5).sum().clamp(max=head.num_bins - 1)
    return found


def _binary(head: BinaryHead, outputs_1: Tensor, calibration: Calibration) -> dict[str, Tensor]:
    logit = outputs_1[0] * calibration.get("slope", 1.0) + calibration.get("offset", 0.0)
    prob, (no, yes) = torch.sigmoid(logit), head.ranks.tolist()
    return {"prob": prob, "score": (no + (yes - no) * prob).clamp(0, 1)}


def _value(head: ValueHead, outputs_A: Tensor, calibration: Calibration) -> dict[str, Tensor]:
    centre, scale = head.centre_and_scale
    support = torch.tensor(head.support, dtype=torch.float64, device=outputs_A.device)
    outputs = outputs_A.double()
    standardised = torch.softmax(outputs, dim=0) @ support if head.is_expected else outputs[0]
    line = calibration.get("slope", 1.0) * (centre + scale * standardised) + calibration.get("offset", 0.0)
    value = line.clamp(*head.bounds)
    return {"value": value.float(), "score": quantile_of(value, head.train_quantiles).float()}


def _distribution(head: DistributionHead, logits_K: Tensor, calibration: Calibration) -> dict[str, Tensor]:
    probs_K = torch.softmax(logits_K / calibration.get("temperature", 1.0), dim=0)
    values_K = torch.tensor(head.class_values, dtype=torch.float32, device=logits_K.device)
    mean = (probs_K * values_K).sum().clamp(head.class_values[0], head.class_values[-1])
    std = (probs_K * (values_K - mean).square()).sum().sqrt()
    return {
        "probs": probs_K,
        "value": mean,
        "std": std,
        "score": quantile_of(mean, head.score_quantiles).float(),
    }


def quantile_of(number: Tensor, quantiles: Sequence[float]) -> Tensor:
    """``heads.quantiles.quantile_of`` in torch: a straight line between each two knots, in float64."""
    values, levels = (torch.from_numpy(knot).to(number.device) for knot in knots(quantiles))
    part = ((number.double() - values[:-1]) / values.diff()).clamp(0, 1)
    return levels[0] + (part * levels.diff()).sum()


def _tags(_head: TagsHead, logits_V: Tensor, calibration: Calibration) -> dict[str, Tensor]:
    """All probabilities [V]; ``score``: of the surest tag."""
    calibrated_V = logits_V * calibration.get("slope", 1.0) + calibration.get("offset", 0.0)
    probs_V = torch.sigmoid(calibrated_V)
    return {"probs": probs_V, "score": probs_V.max()}


def _preference(_head: HeadSpec, outputs_1: Tensor, calibration: Calibration) -> dict[str, Tensor]:
    reward = (outputs_1[0].double() - calibration.get("mean", 0.0)) / calibration.get("std", 1.0)
    return {"reward": reward.float(), "score": quantile_of(reward, reward_quantiles(calibration)).float()}


def _classes(_head: ClassesHead, logits_K: Tensor, calibration: Calibration) -> dict[str, Tensor]:
    """``class``: its number; ``score``, like ``prob``: how sure the answer is."""
    probs_K = torch.softmax(logits_K / calibration.get("temperature", 1.0), dim=0)
    best = probs_K.max()
    return {"class": probs_K.argmax(), "prob": best, "probs": probs_K, "score": best}


ANSWERS: Mapping[str, Callable[[Any, Tensor, Calibration], dict[str, Tensor]]] = {
    BINS: _ordered,
    LEVELS: _ordered,
    BINARY: _binary,
    VALUE: _value,
    DISTRIBUTION: _distribution,
    CLASSES: _classes,
    TAGS: _tags,
    PREFERENCE: _preference,
}
"""Kind -> what the outputs [A] of one image mean, as ``HeadSpec.answer`` says it in numpy."""


def resize(image_HWC: Tensor, preprocess: Preprocess) -> Tensor:
    """The model's input as ``images.decode`` makes it: uint8 [H, W, 3] -> float32 [3, S, S].

    Values are whole numbers 0..255.
    """
    height, width = (torch.full((), image_HWC.shape[axis], dtype=torch.float64) for axis in (0, 1))
    rows_SH, has_row_S = _axis(image_HWC.shape[0], height, width, preprocess)
    columns_SW, has_column_S = _axis(image_HWC.shape[1], width, height, preprocess)
    image_CHW = image_HWC.permute(
        2, 0, 1
    ).double()  # 8 bits of pixel times 22 of weight: too many for float32
    across = _eight_bit(image_CHW @ columns_SW.T)  # each row first, as images does
    whole = _eight_bit(rows_SH @ across)
    inside = has_row_S[:, None] * has_column_S[None, :]
    return (whole * inside + 255 * (1 - inside)).float()  # white around what ``pad`` leaves


def _axis(length: int, n: Tensor, other: Tensor, preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """Weights [S, n] that resample one axis, and [S]: 0 where ``pad`` leaves white, else 1."""
    size = preprocess.size
    start, span = torch.zeros_like(n), n
    out_start, out_size = torch.zeros_like(n), torch.full_like(n, size)
    if preprocess.resize == "crop":
        span = torch.minimum(n, other)
        start = (n - span) / 2
    elif preprocess.resize == "pad":
        out_size = torch.where(n < other, torch.round(n / other * size), out_size).clamp(min=1)
        out_start = torch.round((size - out_size) * 0.5)
    position = torch.arange(size, dtype=torch.float64) - out_start
    scale = span / out_size
    centre = start + (position + 0.5) * scale
    pixel = torch.arange(length, dtype=torch.float64)
    # In Pillow's order of operations: half a step of fixed point shows on flat areas.
    weight = (1 - ((pixel[None, :] - centre[:, None] + 0.5) * (1 / scale.clamp(min=1))).abs()).clamp(min=0)
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-9)
    inside = ((position >= 0) & (position < out_size)).double()
    return torch.floor(weight * FIXED_POINT + 0.5) / FIXED_POINT, inside


def _eight_bit(values: Tensor) -> Tensor:
    return torch.floor(values + 0.5).clamp(0, 255)
