"""Recomputed statistics heal a model whose weights are sound."""

from __future__ import annotations

import math

import torch

from pix2score.model.batchnorm import is_running_statistic, non_finite, reestimate_norms
from pix2score.model.network import normalise
from tests.support.torch_helpers import PREPROCESS, assert_same_state, pixels, settled_model, state_of

CLEAN = [torch.from_numpy(pixels(32, seed)) for seed in (99, 98)]


def test_nan_statistics_become_finite_and_weights_stay() -> None:
    model = settled_model()
    before = state_of(model)
    with torch.no_grad():
        model.trunk.bn1.running_var.fill_(math.nan)
        model.trunk.layer1[0].bn1.running_mean.fill_(math.inf)
    assert sorted(non_finite(model)) == ["trunk.bn1.running_var", "trunk.layer1.0.bn1.running_mean"]
    assert reestimate_norms(model, CLEAN, PREPROCESS) == 64
    assert non_finite(model) == []
    after = state_of(model)
    weights = [name for name in before if not is_running_statistic(name)]
    assert_same_state({n: after[n] for n in weights}, {n: before[n] for n in weights})
    assert not model.training


def test_the_pictures_they_were_made_from_give_the_same_statistics_again() -> None:
    model = settled_model()  # from the first batch alone
    before = state_of(model)
    reestimate_norms(model, CLEAN[:1], PREPROCESS)
    for name, tensor in state_of(model).items():
        if is_running_statistic(name):
            torch.testing.assert_close(tensor, before[name], rtol=1e-4, atol=1e-5)


def test_a_healed_model_answers_as_the_sound_one_did() -> None:
    model = settled_model()
    images = normalise(torch.from_numpy(pixels(8, 5)), PREPROCESS)
    with torch.no_grad():
        expected, _ = model(images)
        model.trunk.bn1.running_mean.fill_(math.nan)
        assert not torch.isfinite(model(images)[0]["bookmark"]).any()
        reestimate_norms(model, CLEAN[:1], PREPROCESS)
        torch.testing.assert_close(model(images)[0]["bookmark"], expected["bookmark"], rtol=1e-3, atol=1e-3)


def test_a_batch_of_one_picture_is_left_out() -> None:
    assert reestimate_norms(settled_model(), [CLEAN[0], CLEAN[1][:1]], PREPROCESS) == 32
