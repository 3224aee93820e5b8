"""The network that a model folder holds: one with heads, or an ensemble of such."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch

from pix2score.model.card import ModelCard
from pix2score.model.ensemble import EnsembleModel
from pix2score.model.folder import Weights
from pix2score.model.network import MultiHeadModel, load_exactly

Network: TypeAlias = MultiHeadModel | EnsembleModel


def network_of_card(card: ModelCard) -> Network:
    """The network that a card describes, with random weights."""
    if card.members:
        return EnsembleModel(card.members, card.heads, card.preprocess)
    return MultiHeadModel(
        card.backbone,
        card.heads,
        size=card.preprocess.size,
        hidden=card.hidden,
        embedding_dtype=card.embedding_dtype,
    )


def model_from_card(card: ModelCard, weights: Weights) -> Network:
    """The trained network in eval mode.

    Raises ``DataError`` listing weights that are missing, surplus or of another shape.
    """
    model = network_of_card(card)
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in weights.items()}
    load_exactly(model, tensors, f"model {card.version}")
    return model.eval()
