"""Optimiser and learning-rate schedule of a recipe; which parameters decay and at which rate they move."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from pix2score.model.network import MultiHeadModel
from pix2score.train.step.recipe import Recipe

Scheduler: TypeAlias = LambdaLR | OneCycleLR | ReduceLROnPlateau | StepLR

MOMENTUM = 0.9
STEP_DROPS = 3
"""Of the ``step`` schedule: the rate is a tenth after each third of the steps."""
PLATEAU_FACTOR, PLATEAU_EPOCHS = 0.3, 2


def make_optimizer(model: MultiHeadModel, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum, fused on a GPU."""
    groups, fused = parameter_groups(model, recipe), device.type == "cuda"
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=fused)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=MOMENTUM, nesterov=True, fused=fused)


def parameter_groups(model: MultiHeadModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Trunk and heads, each with and without weight decay.

    Kernels and matrices have it, norms and biases not.
    """
    groups = []
    for module, rate in (
        (model.trunk, recipe.learning_rate),
        (model.outputs, recipe.learning_rate * recipe.head_rate),
    ):
        for decays in (True, False):
            parameters = [p for p in module.parameters() if (p.ndim > 1) == decays]
            if parameters:
                groups.append(
                    {"params": parameters, "lr": rate, "weight_decay": recipe.weight_decay * decays}
                )
    return groups


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> Scheduler:
    """The schedule by name.

    All but ``plateau`` move every step, that one every epoch by the validation loss.
    """
    if recipe.schedule == "step":
        return StepLR(optimizer, max(1, math.ceil(recipe.total_steps / STEP_DROPS)))
    if recipe.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_EPOCHS)
    if recipe.schedule == "onecycle":
        top = [group["lr"] for group in optimizer.param_groups]
        rise = max(0.01, recipe.warmup_fraction)
        steps = recipe.total_steps + 1  # torch refuses the call after the last step, which a training makes
        return OneCycleLR(optimizer, top, total_steps=steps, pct_start=rise, cycle_momentum=False)
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, recipe))


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Share of the top rate at ``step``.

    Linear warm-up from one step's worth, then cosine to zero at ``total_steps``.
    """
    warmup = max(1, round(recipe.warmup_fraction * recipe.total_steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, recipe.total_steps - warmup))
    return 0.5 * (1 + math.cos(math.pi * progress))


def trunk_is_frozen(step: int, recipe: Recipe) -> bool:
    """Whether ``step`` moves the heads alone."""
    return step < round(recipe.frozen_fraction * recipe.total_steps)


def drop_gradients(module: nn.Module) -> None:
    """Keep the parameters of ``module`` as they are in this step.

    Neither momentum nor decay moves them: optimisers pass over a gradient of None.
    """
    for parameter in module.parameters():
        parameter.grad = None
