"""M1: heads say of a stored embedding what the whole network says of the picture, for every kind of head."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from pix2score.errors import DataError
from pix2score.model.answers import EmbeddingPredictor
from pix2score.model.card import ModelCard
from pix2score.model.folder import trunk_weights, weights_digest
from pix2score.model.network import MultiHeadModel, weights_of
from pix2score.model.predictor import Predictor
from tests.support.every_head import FITTED
from tests.support.torch_helpers import NARROW, PREPROCESS, pixels

HEADS = tuple(FITTED.values())


def model_of(hidden: int, dtype: Literal["float16", "float32"]) -> tuple[ModelCard, dict[str, Any]]:
    """A network with a head of every kind, whose outputs and norms are not those of a fresh one."""
    torch.manual_seed(0)
    model = MultiHeadModel(NARROW, HEADS, hidden=hidden, embedding_dtype=dtype).eval()
    for name, tensor in model.state_dict().items():
        if name.startswith(("outputs.", "hidden.")) and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "running_var" in name else torch.randn_like(tensor))
    weights = weights_of(model)
    card = ModelCard(
        backbone=NARROW,
        heads=HEADS,
        preprocess=PREPROCESS,
        embedding_dim=model.embedding_dim,
        temperatures={"bookmark": 1.3},
        weights_sha256="0" * 64,
        hidden=hidden,
        embedding_dtype=dtype,
        trunk_sha256=weights_digest(trunk_weights(weights)),
    )
    return card, weights


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("hidden", [0, 8])
def test_m1_answers_from_what_is_stored_are_those_from_the_picture(
    hidden: int, dtype: Literal["float16", "float32"], engine: Any
) -> None:
    card, weights = model_of(hidden, dtype)
    of_pictures = Predictor(card, weights, batch_size=8, engine=engine).predict(pixels(19, seed=1))
    stored = of_pictures.embedding.astype(dtype)
    assert np.array_equal(stored.astype(np.float32), of_pictures.embedding), "nothing is lost in storage"
    again = EmbeddingPredictor(card, weights).predict(stored)
    assert again.finite.all()
    for head in HEADS:
        a, b = (head.columns(p.heads[head.name]) for p in (of_pictures, again))
        assert a.keys() == b.keys()
        said = head.measured(of_pictures.heads[head.name])
        assert said.std(axis=0).max() > 1e-6, "answers depend on the picture"
        scale = max(1.0, float(np.abs(said).max()))
        np.testing.assert_allclose(
            head.measured(again.heads[head.name]) / scale, said / scale, atol=1e-5, err_msg=head.name
        )


def test_what_float16_does_not_hold_is_not_finite_and_nothing_else_is_touched() -> None:
    card, weights = model_of(0, "float16")
    stored = np.ones((3, card.embedding_dim), dtype=np.float16)
    stored[1, 0] = np.inf
    predictor = EmbeddingPredictor(card, weights)
    assert predictor.predict(stored).finite.tolist() == [True, False, True]
    assert len(predictor.predict(stored[:0]).finite) == 0


def test_weights_that_do_not_fit_and_ensembles_are_refused() -> None:
    card, weights = model_of(8, "float16")
    del weights["hidden.0.weight"]
    with pytest.raises(DataError, match=r"lacks hidden\.0\.weight"):
        EmbeddingPredictor(card, weights)
