"""The network as a peer would load it: plain torch, eager, and what it answers for a batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pix2score.model.folder import load_model
from pix2score.model.network import MultiHeadModel
from pix2score.model.networks import model_from_card

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(model: str) -> tuple[MultiHeadModel, int]:
    """The network in eval mode, and the side of its input in px."""
    card, weights = load_model(model)
    network = model_from_card(card, weights)
    assert isinstance(network, MultiHeadModel), "peers are measured with one network"
    return network, card.preprocess.size


@torch.inference_mode()
def answers(network: MultiHeadModel, image_BCHW: Tensor) -> dict[str, npt.NDArray[np.float32]]:
    """``<head>_probs`` [B, K] and ``embedding`` [B, D] of normalised images."""
    logits, embedding = network(image_BCHW)
    return {f"{name}_probs": tensor.softmax(1).numpy() for name, tensor in logits.items()} | {
        "embedding": embedding.numpy()
    }
