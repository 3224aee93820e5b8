"""The network: a trunk of timm's, its pooled feature as embedding, and one linear output per head.

Shapes: B images, C channels, H height, W width, S input size, D embedding, K bins of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor, nn

from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.model.folder import Shape, check_shapes
from pix2score.model.trunk import build_trunk, embedding_dim
from pix2score.snapshots.tables import EmbeddingDtype

_CASTS = ("cpu", "cuda")
"""Devices that may run in half precision; of others, such as meta, torch refuses the question."""


class Normalisation(Protocol):
    """Mean and deviation of each colour, of 0..1."""

    @property
    def mean(self) -> tuple[float, float, float]: ...

    @property
    def std(self) -> tuple[float, float, float]: ...


class MultiHeadModel(nn.Module):
    """One trunk shared by all heads; every head sees the same embedding."""

    def __init__(
        self,
        backbone: str,
        heads: Sequence[HeadSpec],
        *,
        size: int | None = None,
        hidden: int = 0,
        drop_path: float = 0.0,
        embedding_dtype: EmbeddingDtype | None = "float16",
    ) -> None:
        """``size``, ``drop_path``: as ``build_trunk`` has them.

        ``embedding_dtype``: what ``embed`` rounds to, None for nothing. ``hidden``: width of a layer with
        BatchNorm between the embedding and the outputs; 0 for none.
        """
        super().__init__()
        self.trunk = build_trunk(backbone, size, drop_path)
        self.embedding_dim, self.embedding_dtype = embedding_dim(self.trunk), embedding_dtype
        self.hidden = _hidden_layer(self.embedding_dim, hidden)
        # Suffixed: a bare name such as "type" or "update" would collide with ModuleDict's own attributes.
        self.dropout = nn.Dropout(0.0)  # its rate is the training's; not part of the model
        width = hidden or self.embedding_dim
        self.outputs = nn.ModuleDict(
            {f"{head.name}_logits": nn.Linear(width, head.num_outputs) for head in heads}
        )

    def forward(self, image_BCHW: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Head -> logits [B, K], and the embedding [B, D]; input as ``normalise`` gives it.

        Logits are unnormalised, before the temperature. Beside training, heads see the embedding as it is
        stored, and in float32 whatever the trunk ran in: so an answer from a stored embedding is the same.
        """
        # Where pictures were embedded before, those embeddings come in their place.
        if image_BCHW.ndim == 2 or self.training:
            embedding_BD = image_BCHW if image_BCHW.ndim == 2 else self.trunk(image_BCHW)
            return self.answers(embedding_BD), embedding_BD
        embedding_BD = self.embed(image_BCHW)
        device = embedding_BD.device.type
        if device not in _CASTS or not torch.is_autocast_enabled(device):
            return self.answers(embedding_BD), embedding_BD
        with torch.autocast(device, enabled=False):
            return self.answers(embedding_BD), embedding_BD

    def embed(self, image_BCHW: Tensor) -> Tensor:
        """Embedding float32 [B, D] as it is stored; what its precision cannot hold is infinite."""
        embedding_BD: Tensor = self.trunk(image_BCHW)
        if self.embedding_dtype == "float16":
            embedding_BD = embedding_BD.half()
        return embedding_BD.float()

    def answers(self, embedding_BD: Tensor) -> dict[str, Tensor]:
        """Head -> logits [B, K] of pictures with that embedding."""
        seen_BD = self.dropout(self.hidden(embedding_BD))
        return {name.removesuffix("_logits"): output(seen_BD) for name, output in self.outputs.items()}

    @torch.no_grad()
    def start_at_prior(self, heads: Sequence[HeadSpec]) -> None:
        """Let every head begin around the best constant answer: ``HeadSpec.initial_bias``.

        Weights stay random. With weights of zero, an exact start, the demo's training of 8 epochs ended at an
        NLL of 2.51 and 2.44 for views (two seeds), with random ones at 2.40 and 2.35.
        """
        for head in heads:
            layer, bias_A = self.outputs[f"{head.name}_logits"], head.initial_bias()
            assert isinstance(layer, nn.Linear)
            if bias_A is not None:
                layer.bias.copy_(torch.from_numpy(bias_A))


def _hidden_layer(embedding_dim: int, width: int) -> nn.Module:
    """An identity for a ``width`` of 0: it has no weights, and so no names in a model's file."""
    if not width:
        return nn.Identity()
    return nn.Sequential(nn.Linear(embedding_dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())


def normalise(pixels_BSSC: Tensor, preprocess: Preprocess) -> Tensor:
    """RGB in 0..255, uint8 or float [B, S, S, 3], as the network's float32 input [B, 3, S, S].

    On the same device, channels_last in memory. Embeddings [B, D] in their place stay as they are.
    """
    if pixels_BSSC.ndim == 2:
        return pixels_BSSC
    image_BCHW = pixels_BSSC.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
    mean = torch.tensor(preprocess.mean, device=image_BCHW.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocess.std, device=image_BCHW.device).view(1, 3, 1, 1)
    return (image_BCHW / 255 - mean) / std


def renormalised(image_BCHW: Tensor, given: Normalisation, wanted: Normalisation) -> Tensor:
    """What is normalised as ``given`` says, in the mean and deviation of ``wanted``."""
    if (tuple(given.mean), tuple(given.std)) == (tuple(wanted.mean), tuple(wanted.std)):
        return image_BCHW
    mean, std, own_mean, own_std = (
        torch.tensor(v, dtype=torch.float32, device=image_BCHW.device).view(1, 3, 1, 1)
        for v in (given.mean, given.std, wanted.mean, wanted.std)
    )
    return (image_BCHW * std + mean - own_mean) / own_std


def weights_of(model: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """Parameters and buffers as numpy arrays on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def load_exactly(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Load ``tensors`` into ``module``. Raises ``DataError`` naming what differs."""
    check_shapes(_shapes(tensors), _shapes(module.state_dict()), what)
    module.load_state_dict(tensors)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
