"""A backbone of timm's as a trunk: pictures in, pooled feature out, for pictures of one size.

Shapes: B images, S input size, D embedding.
"""

from __future__ import annotations

import functools
from typing import Any

import timm
import torch
from torch import nn

from pix2score.errors import ConfigError
from pix2score.model.backbones import CLASSIC, check_backbone


def build_trunk(backbone: str, size: int | None = None, drop_path: float = 0.0) -> nn.Module:
    """A randomly initialised trunk, float32 [B, 3, S, S] -> [B, D].

    ``size``: side of its input in px, which only networks with a fixed input ask for; None is timm's own.
    ``drop_path``: chance, in training, that the last block is passed over; earlier ones less.

    Raises ``ConfigError``: no such backbone, no ``drop_path`` in it, or a ``size`` that its patch does not
    divide.
    """
    check_backbone(backbone)
    asked: dict[str, Any] = {"img_size": size} if size and _is_of_fixed_size(backbone) else {}
    if drop_path:
        asked["drop_path_rate"] = drop_path
    if backbone in CLASSIC:
        # As torchvision drew them: with an output layer, which took random numbers, and no zeroed norms.
        trunk = _created(backbone, asked | {"num_classes": 1000, "zero_init_last": False}, size)
        trunk.reset_classifier(0)  # type: ignore[operator]
    else:
        trunk = _created(backbone, asked | {"num_classes": 0}, size)
    _check_patch(backbone, trunk, size)
    return trunk


def embedding_dim(trunk: nn.Module) -> int:
    """D of a trunk: what comes after the pooling, which some networks widen once more."""
    return int(trunk.head_hidden_size)  # type: ignore[arg-type]


@functools.cache  # of each of a comparison's trainings it is asked again and again
def check_size(backbone: str, size: int) -> None:
    """Raise ``ConfigError`` if ``backbone`` cannot take pictures of ``size`` px.

    Computes shapes alone, without memory for weights and without random numbers.
    """
    if backbone in CLASSIC:
        return
    with torch.device("meta"):
        trunk = build_trunk(backbone, size).eval()
        try:
            trunk(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError, ValueError) as exc:
            first_line = str(exc).partition("\n")[0]
            raise ConfigError(f"backbone {backbone} cannot take {size} px: {first_line}") from None


def _created(backbone: str, asked: dict[str, Any], size: int | None) -> nn.Module:
    try:
        made: nn.Module = timm.create_model(backbone, pretrained=False, **asked)
    except TypeError as exc:
        if "drop_path_rate" in str(exc):
            raise ConfigError(f"--drop-path: {backbone} has no paths to drop; leave it out") from None
        raise
    except (AssertionError, ValueError, RuntimeError) as exc:
        raise ConfigError(f"backbone {backbone} cannot be made for {size} px: {exc}") from None
    return made


def _is_of_fixed_size(backbone: str) -> bool:
    """Whether the network is built for one input size, as those with position embeddings are."""
    found = timm.models.get_pretrained_cfg(backbone)
    return bool(found and found.fixed_input_size)


def _check_patch(backbone: str, trunk: nn.Module, size: int | None) -> None:
    """timm leaves out the last pixels of a picture that the patch does not divide, and says nothing."""
    patch = getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
    side = int(patch[0]) if isinstance(patch, tuple) else int(patch or 1)
    if size and size % side and _is_of_fixed_size(backbone):
        below = size // side * side
        sizes = " or ".join(str(s) for s in (below, below + side) if s)
        raise ConfigError(f"input size {size} px: {backbone} has patches of {side} px; take {sizes}")
