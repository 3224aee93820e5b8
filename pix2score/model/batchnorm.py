"""BatchNorm's running statistics, recomputed from clean pictures.

Heals a model in which they went NaN while its weights are sound.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pix2score.images.preprocess import Preprocess
from pix2score.model.network import MultiHeadModel, normalise

MIN_PICTURES = 2
"""A variance needs two."""


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """The layers that keep running statistics: none in most transformers."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@torch.no_grad()
def reestimate_norms(model: MultiHeadModel, pixels: Iterable[Tensor], preprocess: Preprocess) -> int:
    """Set the running statistics to the plain means over ``pixels``; return the number of pictures.

    ``pixels``: batches of uint8 [B, S, S, 3].

    Weights stay as they are. The model is in eval mode afterwards.
    """
    norms, num_pictures = norms_of(model), 0
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative mean
    model.eval()
    for norm in norms:  # they alone: nothing is dropped
        norm.train()
    for pixels_BSSC in pixels:
        if len(pixels_BSSC) >= MIN_PICTURES:
            model(normalise(pixels_BSSC, preprocess))
            num_pictures += len(pixels_BSSC)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    return num_pictures


def non_finite(model: nn.Module) -> list[str]:
    """Names of the weights and buffers that hold NaN or infinity."""
    return [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]


def is_running_statistic(name: str) -> bool:
    """Whether the weight of this name is one that ``reestimate_norms`` recomputes."""
    return name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))
