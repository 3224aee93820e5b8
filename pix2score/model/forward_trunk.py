"""A forward pass in two parts: the trunk in fewer bits, the heads in float32 behind it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import Floats
from pix2score.model.answers import EmbeddingPredictor
from pix2score.model.card import ModelCard
from pix2score.model.folder import Weights

Trunk = Callable[[npt.NDArray[np.uint8]], Floats]
"""uint8 [B, S, S, 3] -> embedding float32 [B, D] before it is rounded."""


class TrunkThenHeads:
    """What ``predictor.Forward`` asks for. As safe to call from several threads as its trunk.

    The heads are those that answer from stored embeddings, and they see what is stored: so an answer from a
    stored embedding is the answer from the picture.
    """

    def __init__(self, card: ModelCard, weights: Weights, trunk: Trunk) -> None:
        """Raises ``DataError`` for an ensemble, and for weights that do not fit the card."""
        self._dtype = card.embedding_dtype or "float32"
        self._trunk, self._heads = trunk, EmbeddingPredictor(card, weights)

    def __call__(self, pixels_BSSC: npt.NDArray[np.uint8]) -> tuple[dict[str, Floats], Floats]:
        """Logits [B, K] by head, and embedding [B, D]."""
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float16: such a row fails by itself
            embedding_BD = self._trunk(pixels_BSSC).astype(self._dtype).astype(np.float32)
            return self._heads.outputs(embedding_BD), embedding_BD
