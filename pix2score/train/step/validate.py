"""How good a model is on batches: metrics per head, and the one number by which epochs are ranked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.kinds import accumulator
from pix2score.metrics.protocol import Accumulator
from pix2score.model.network import MultiHeadModel, normalise
from pix2score.train.step.batch import Batch, is_labelled
from pix2score.train.step.precision import Caster


def measure(
    model: MultiHeadModel,
    batches: Iterable[Batch],
    heads: Sequence[HeadSpec],
    preprocess: Preprocess,
    device: torch.device,
    caster: Caster,
) -> list[Accumulator]:
    """Metrics of ``model`` in eval mode, per head. Rows without any label cost no forward pass."""
    return measure_each([model], batches, heads, preprocess, device, caster)[0]


@torch.no_grad()
def measure_each(
    models: Sequence[MultiHeadModel],
    batches: Iterable[Batch],
    heads: Sequence[HeadSpec],
    preprocess: Preprocess,
    device: torch.device,
    caster: Caster,
) -> list[list[Accumulator]]:
    """The same of several models, which see each batch in turn: it is read and decoded once."""
    for model in models:
        model.eval()
    metrics = [[accumulator(head) for head in heads] for _ in models]
    for whole in batches:
        batch = whole.rows(torch.stack([is_labelled(whole.targets[head.name]) for head in heads]).any(0))
        if not len(batch.pixels_BSSC):
            continue
        seen = normalise(batch.to(device).images, preprocess)
        for model, of_model in zip(models, metrics, strict=True):
            with caster.autocast():
                outputs, _ = model(seen)
            _add(of_model, batch, batch.by_row(outputs, heads))
    return metrics


def _add(metrics: Sequence[Accumulator], batch: Batch, outputs: Mapping[str, Tensor]) -> None:
    for metric in metrics:
        name = metric.head.name
        metric.add(
            outputs[name].float().cpu().numpy(), batch.targets[name].numpy(), batch.labels[name].numpy()
        )


def validation_loss(metrics: Sequence[Accumulator]) -> float:
    """Weighted mean over heads of the loss at the fitted calibration, over that of the constant answer.

    What checkpoints are ranked by; infinite without labels, and where a loss is not finite.
    """
    labelled = [m for m in metrics if m.num_labelled]
    total_weight = sum(m.head.weight for m in labelled)
    loss = sum(m.head.weight * m.relative_loss() for m in labelled)
    return loss / total_weight if total_weight and math.isfinite(loss) else math.inf
