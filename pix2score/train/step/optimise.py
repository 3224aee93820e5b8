"""Optimiser of a recipe: which parameters decay, at which top rate they move, which stay frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pix2score.model.network import MultiHeadModel
from pix2score.train.step.recipe import Recipe

MOMENTUM = 0.9


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


def trunk_is_frozen(step: int, recipe: Recipe) -> bool:
    """Whether ``step`` moves the heads alone."""
    return step < round(recipe.frozen_fraction * recipe.total_steps)


def drop_gradients(module: nn.Module) -> None:
    """Keep the parameters of ``module`` as they are in this step.

    Neither momentum nor decay moves them: optimisers pass over a gradient of None.
    """
    for parameter in module.parameters():
        parameter.grad = None
