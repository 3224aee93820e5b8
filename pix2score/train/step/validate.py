"""How good a model is on batches: metrics per head, and the one number by which epochs are ranked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.kinds import accumulator
from pix2score.metrics.protocol import Accumulator
from pix2score.model.network import MultiHeadModel, normalise
from pix2score.train.step.batch import Batch, is_labelled
from pix2score.train.step.precision import Caster


@torch.no_grad()
def measure(
    model: MultiHeadModel,
    batches: Iterable[Batch],
    heads: Sequence[HeadSpec],
    preprocess: Preprocess,
    device: torch.device,
    caster: Caster,
) -> list[Accumulator]:
    """Metrics of ``model`` in eval mode, per head. Rows without any label cost no forward pass."""
    model.eval()
    metrics = [accumulator(head) for head in heads]
    for whole in batches:
        batch = whole.rows(torch.stack([is_labelled(whole.targets[head.name]) for head in heads]).any(0))
        if not len(batch.pixels_BSSC):
            continue
        with caster.autocast():
            outputs, _ = model(normalise(batch.to(device).images, preprocess))
        outputs = batch.by_row(outputs, heads)
        for metric in metrics:
            name = metric.head.name
            metric.add(
                outputs[name].float().cpu().numpy(), batch.targets[name].numpy(), batch.labels[name].numpy()
            )
    return metrics


def validation_loss(metrics: Sequence[Accumulator]) -> float:
    """Weighted mean over heads of the loss at the fitted calibration, over that of the constant answer.

    What checkpoints are ranked by; infinite without labels, and where a loss is not finite.
    """
    labelled = [m for m in metrics if m.num_labelled]
    total_weight = sum(m.head.weight for m in labelled)
    loss = sum(m.head.weight * m.relative_loss() for m in labelled)
    return loss / total_weight if total_weight and math.isfinite(loss) else math.inf
