"""How good a model is on batches: metrics per head, and the one number by which epochs are ranked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from pix2score.heads.bins import MISSING
from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.accumulate import HeadMetrics
from pix2score.model.network import MultiHeadModel, normalise
from pix2score.train.step.batch import Batch
from pix2score.train.step.precision import Caster


@torch.no_grad()
def measure(
    model: MultiHeadModel,
    batches: Iterable[Batch],
    heads: Sequence[HeadSpec],
    preprocess: Preprocess,
    device: torch.device,
    caster: Caster,
) -> list[HeadMetrics]:
    """Metrics of ``model`` in eval mode, per head. Rows without any label cost no forward pass."""
    model.eval()
    metrics = [HeadMetrics(head) for head in heads]
    for whole in batches:
        batch = whole.rows(torch.stack([whole.bins[head.name] != MISSING for head in heads]).any(0))
        if not len(batch.pixels_BSSC):
            continue
        with caster.autocast():
            logits, _ = model(normalise(batch.to(device).pixels_BSSC, preprocess))
        for metric in metrics:
            name = metric.head.name
            metric.add(
                logits[name].float().cpu().numpy(), batch.bins[name].numpy(), batch.labels[name].numpy()
            )
    return metrics


def validation_loss(metrics: Sequence[HeadMetrics]) -> float:
    """Weighted mean over heads of NLL / ln K at the fitted temperature: what checkpoints are ranked by.
    NaN-free while the NLL is."""
    parts = [
        (m.head.weight, _calibrated_nll(m) / math.log(m.head.num_bins)) for m in metrics if m.num_labelled
    ]
    total_weight = sum(weight for weight, _ in parts)
    return sum(weight * loss for weight, loss in parts) / total_weight if total_weight else math.inf


def _calibrated_nll(metrics: HeadMetrics) -> float:
    nll = float(np.min(metrics.nll_by_temperature)) / metrics.num_labelled
    return nll if math.isfinite(nll) else math.inf
