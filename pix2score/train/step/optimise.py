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
    """Layers of the trunk, last the heads, each with and without weight decay.

    Kernels and matrices have it; norms, biases, and what the trunk's ``no_weight_decay`` names have not.
    """
    undecayed = {f"trunk.{name}" for name in getattr(model.trunk, "no_weight_decay", set)()}
    depths = depth_by_name(model.trunk) if recipe.layer_decay < 1 else {}
    deepest = max(depths.values(), default=0)
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_head, decays = not name.startswith("trunk."), parameter.ndim > 1 and name not in undecayed
        depth = depths.get(name.removeprefix("trunk."), deepest)
        groups.setdefault((is_head, depth, not decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate
            * (recipe.head_rate if is_head else recipe.layer_decay ** (deepest - depth)),
            "weight_decay": recipe.weight_decay * (not is_plain),
        }
        for (is_head, depth, is_plain), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


def depth_by_name(trunk: nn.Module) -> dict[str, int]:
    """Parameter of the trunk -> its layer as timm has it, a ResNet's blocks, from 0 at the pixels."""
    from timm.models import group_parameters

    matcher = trunk.group_matcher(coarse=False)  # type: ignore[operator]
    found: dict[str, int] = group_parameters(trunk, matcher, reverse=True)
    return found


def trunk_is_frozen(step: int, recipe: Recipe) -> bool:
    """Whether ``step`` moves the heads alone."""
    return step < round(recipe.frozen_fraction * recipe.total_steps)


def drop_gradients(module: nn.Module) -> None:
    """Keep the parameters of ``module`` as they are in this step.

    Neither momentum nor decay moves them: optimisers pass over a gradient of None.
    """
    for parameter in module.parameters():
        parameter.grad = None
