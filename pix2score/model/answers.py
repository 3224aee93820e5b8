"""What heads say of stored embeddings: in numpy, without pictures, trunk or torch.

Shapes: N embeddings, D their width, W the width that the outputs see, A outputs of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.errors import DataError
from pix2score.heads.spec import Floats
from pix2score.model.card import ModelCard
from pix2score.model.folder import TRUNK, Shape, Weights, check_shapes
from pix2score.model.widen import widen

NORM_EPSILON = 1e-5
"""Of the hidden layer's BatchNorm."""
BLOCK_ROWS = 256
"""Widened to float32 and multiplied while they are in the core's cache: 2 MB of float32[2048]."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What all heads say of N embeddings.

    ``heads`` has each head's answer as its ``HeadSpec.answer`` gives it; ``finite`` bool [N]: False where the
    embedding or an output is NaN or infinite.
    """

    heads: dict[str, Any]
    finite: npt.NDArray[np.bool_]


class EmbeddingPredictor:
    """The heads of a model behind its trunk. Safe to call from several threads."""

    def __init__(self, card: ModelCard, weights: Weights) -> None:
        """Raises ``DataError`` for an ensemble, and for weights that do not fit the card."""
        if card.members:
            raise DataError(f"model {card.version} is an ensemble: its heads see more than one embedding")
        check_shapes(_shapes_behind_trunk(weights), _wanted_shapes(card), f"model {card.version}")
        self.card = card
        self._hidden = _Hidden(weights) if card.hidden else None
        layers = [f"outputs.{head.name}_logits" for head in card.heads]
        # One product for all heads: the embedding is read once.
        self._weight_WA = np.concatenate([weights[f"{layer}.weight"] for layer in layers]).T.copy()
        self._bias_A = np.concatenate([weights[f"{layer}.bias"] for layer in layers])
        self._ends = np.cumsum([head.num_outputs for head in card.heads])[:-1]

    def outputs(self, embedding_ND: npt.NDArray[np.floating]) -> dict[str, Floats]:
        """Head -> float32 [N, A], before calibration, of float16 or float32 as they are stored."""
        return self._outputs(embedding_ND)[0]

    def predict(self, embedding_ND: npt.NDArray[np.floating]) -> Answers:
        """Answers of N >= 0 pictures with these embeddings, as ``Predictor.predict`` of the pictures.

        Float16 or float32, as they are stored.
        """
        outputs, finite = self._outputs(embedding_ND)
        answers = {h.name: h.answer(outputs[h.name], self.card.calibration(h.name)) for h in self.card.heads}
        return Answers(answers, finite)

    def _outputs(
        self, embedding_ND: npt.NDArray[np.floating]
    ) -> tuple[dict[str, Floats], npt.NDArray[np.bool_]]:
        """Head -> outputs, and which rows are finite."""
        found_NA = np.empty((len(embedding_ND), len(self._bias_A)), dtype=np.float32)
        finite = np.empty(len(embedding_ND), dtype=np.bool_)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(embedding_ND), BLOCK_ROWS):
                block = slice(start, start + BLOCK_ROWS)
                finite[block] = self._answer(embedding_ND[block], found_NA[block])
        parts = np.split(found_NA, self._ends, axis=1)
        return {head.name: part for head, part in zip(self.card.heads, parts, strict=True)}, finite

    def _answer(self, stored_BD: npt.NDArray[np.floating], found_BA: Floats) -> npt.NDArray[np.bool_]:
        """Put the outputs of a block into ``found_BA``, before calibration; return which rows are finite."""
        embedding_BD = widen(stored_BD)
        seen_BW = self._hidden(embedding_BD) if self._hidden else embedding_BD
        np.matmul(seen_BW, self._weight_WA, out=found_BA)
        found_BA += self._bias_A
        # Of float16's numbers no sum leaves float32; a test of each takes longer.
        is_half = stored_BD.dtype == np.float16
        tested = embedding_BD.sum(axis=1, keepdims=True) if is_half else embedding_BD
        is_finite: npt.NDArray[np.bool_] = np.logical_and.reduce(
            [np.isfinite(numbers).all(axis=1) for numbers in (tested, found_BA)]
        )
        return is_finite


class _Hidden:
    """The layer between embedding and outputs, its BatchNorm folded in."""

    def __init__(self, weights: Weights) -> None:
        scale_W = weights["hidden.1.weight"] / np.sqrt(weights["hidden.1.running_var"] + NORM_EPSILON)
        self._weight_DW = (weights["hidden.0.weight"] * scale_W[:, None]).T.copy()
        self._bias_W = weights["hidden.1.bias"] - weights["hidden.1.running_mean"] * scale_W

    def __call__(self, embedding_ND: Floats) -> Floats:
        found: Floats = np.maximum(embedding_ND @ self._weight_DW + self._bias_W, 0)
        return found


def _shapes_behind_trunk(weights: Weights) -> dict[str, Shape]:
    return {name: tensor.shape for name, tensor in weights.items() if not name.startswith(TRUNK)}


def _wanted_shapes(card: ModelCard) -> dict[str, Shape]:
    width = card.hidden or card.embedding_dim
    wanted: dict[str, Shape] = {}
    for head in card.heads:
        layer = f"outputs.{head.name}_logits"
        wanted |= {f"{layer}.weight": (head.num_outputs, width), f"{layer}.bias": (head.num_outputs,)}
    if card.hidden:
        norm = ("weight", "bias", "running_mean", "running_var")
        wanted |= {f"hidden.1.{name}": (card.hidden,) for name in norm}
        wanted |= {"hidden.0.weight": (card.hidden, card.embedding_dim), "hidden.1.num_batches_tracked": ()}
    return wanted
