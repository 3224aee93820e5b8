"""Heads behind a hidden layer, learnt in steps over stored embeddings: what cannot be solved.

Shapes: N rows, B rows of a step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.protocol import Accumulator
from pix2score.model.network import MultiHeadModel
from pix2score.refit.solve import CPU, measured
from pix2score.train.step.batch import Batch
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.recipe import PRESETS, Augment, Recipe, scaled_rate
from pix2score.train.step.validate import validation_loss

logger = logging.getLogger(__name__)
STEP_ROWS = 256


def learnt(
    model: MultiHeadModel, heads: Sequence[HeadSpec], train: Batch, val: Batch, epochs: int, seed: int = 0
) -> list[Accumulator]:
    """Train what is behind the trunk of ``model``; its metrics on ``val``, at the epoch that is best there.

    The recipe is the small preset's without pictures' part of it.
    """
    num_rows = len(train.pixels_BSSC)
    steps_per_epoch = num_rows // STEP_ROWS
    model.start_at_prior(heads)
    model.trunk.requires_grad_(False)
    fitter = Fitter(model, heads, Preprocess(), _recipe(epochs * steps_per_epoch, seed), CPU)
    best: tuple[float, list[Accumulator], dict[str, Tensor]] | None = None
    for epoch in range(1, epochs + 1):
        order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed + epoch))
        for step in range(steps_per_epoch):
            rows = train.rows(order[step * STEP_ROWS : (step + 1) * STEP_ROWS])
            fitter.train_step(rows.with_images(rows.images.float()))
        metrics = measured(model, val, heads)
        loss = validation_loss(metrics)
        logger.info("epoch %d of %d: validation %.3f", epoch, epochs, loss)
        if best is None or loss < best[0]:
            best = loss, metrics, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert best is not None, "at least one epoch"
    model.load_state_dict(best[2])
    model.eval()
    return best[1]


def _recipe(total_steps: int, seed: int) -> Recipe:
    preset: dict[str, Any] = dict(PRESETS["small"].recipe)
    preset |= {"average": 0.0, "augment": Augment(), "total_steps": max(1, total_steps), "seed": seed}
    preset["learning_rate"] = scaled_rate(preset["learning_rate"], "adamw", STEP_ROWS)
    return Recipe(**preset)
