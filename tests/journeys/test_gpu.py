"""A GPU does as the CPU: fp16 predictions close to float32, finite steps, skipped ones restored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pix2score.benchmark.pictures import SETS, encoded
from pix2score.images.decode import to_rgb
from pix2score.images.preprocess import Preprocess
from pix2score.model.device_decode import CHUNK, DeviceDecoder
from pix2score.model.predictor import Predictor
from tests.support.torch_helpers import (
    HEADS,
    MultiHeadModel,
    PoisonableModel,
    assert_same_state,
    batch,
    card_and_weights,
    fitter_of,
    pixels,
    seeded,
    state_of,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CUDA = torch.device("cuda")


def test_half_precision_probabilities_are_those_of_float32_within_5e_3() -> None:
    images = pixels(64, seed=1)
    exact = Predictor(*card_and_weights(), batch_size=8).predict(images)
    fast = Predictor(*card_and_weights(), batch_size=8, device="cuda")
    found = fast.predict(images)
    assert fast.engine == "torch"
    assert found.finite.all()
    for head in HEADS:
        expected = exact.heads[head.name].probs
        np.testing.assert_allclose(found.heads[head.name].probs, expected, atol=5e-3)
        top = np.sort(expected, axis=1)[:, -2:]
        sure = top[:, 1] - top[:, 0] > 1e-2
        assert sure.any()
        assert np.array_equal(found.heads[head.name].bin[sure], exact.heads[head.name].bin[sure])


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-3), ("fp16", 5e-3), ("bf16", 5e-2)])
def test_every_precision_answers_as_the_cpu_within_its_bound(precision: Any, bound: float) -> None:
    images = pixels(16, seed=1)
    exact = Predictor(*card_and_weights(), batch_size=8).predict(images)
    found = Predictor(*card_and_weights(), batch_size=8, device="cuda", precision=precision).predict(images)
    for head in HEADS:
        np.testing.assert_allclose(found.heads[head.name].probs, exact.heads[head.name].probs, atol=bound)


def test_a_row_on_the_gpu_does_not_depend_on_its_batch_mates() -> None:
    predictor, images = Predictor(*card_and_weights(), batch_size=8, device="cuda"), pixels(19, seed=1)
    whole = predictor.predict(images)
    for row in (0, 7, 8, 18):
        alone = predictor.predict(images[row : row + 1])
        np.testing.assert_allclose(
            alone.heads["bookmark"].probs[0], whole.heads["bookmark"].probs[row], atol=5e-3
        )


def test_what_leaves_the_range_of_half_precision_is_answered_all_the_same() -> None:
    card, weights = card_and_weights()
    for name in ("weight", "bias"):
        weights[f"trunk.layer4.0.bn2.{name}"] = weights[f"trunk.layer4.0.bn2.{name}"] * 1e6
    for head in HEADS:
        weights[f"outputs.{head.name}_logits.weight"] = weights[f"outputs.{head.name}_logits.weight"] / 1e6
    images = pixels(19, seed=1)
    exact, found = (
        Predictor(card, weights, batch_size=8, device=device).predict(images) for device in ("cpu", "cuda")
    )
    assert exact.embedding.max() > np.finfo(np.float16).max
    assert found.finite.all()
    for head in HEADS:
        np.testing.assert_allclose(found.heads[head.name].probs, exact.heads[head.name].probs, atol=5e-3)


@pytest.mark.parametrize("gradient", ["sum", "pcgrad"])
def test_training_on_the_gpu_stays_finite_and_learns(gradient: str) -> None:
    network = seeded(MultiHeadModel).to(CUDA, memory_format=torch.channels_last)  # type: ignore[call-overload]
    fitter = fitter_of(network, device=CUDA, total_steps=30, gradient=gradient)
    images = batch(16, missing=0.2)
    results = [fitter.train_step(images) for _ in range(30)]
    assert not any(result.skipped for result in results)
    assert all(math.isfinite(result.loss) for result in results)
    assert results[-1].loss < 0.5 * results[0].loss
    assert all(torch.isfinite(t).all() for t in fitter.model.state_dict().values())
    (bookmark, _) = fitter.validate([replace(images)])
    assert math.isfinite(bookmark.nll_sum)


def test_a_skipped_step_on_the_gpu_restores_weights_and_batchnorm() -> None:
    model = seeded(PoisonableModel).to(CUDA)
    assert isinstance(model, PoisonableModel)
    fitter = fitter_of(model, device=CUDA)
    fitter.train_step(batch(8, 0))
    before, model.gain = state_of(model), math.inf
    assert fitter.train_step(batch(8, 1)).skipped
    assert_same_state(state_of(model), before)
    model.gain = 1.0
    assert not fitter.train_step(batch(8, 2)).skipped


@pytest.mark.parametrize("kind", SETS)
def test_jpegs_decoded_on_the_gpu_are_those_of_to_rgb_within_the_bound(kind: str) -> None:
    rng, preprocess = np.random.default_rng(3), Preprocess(size=224)
    files = [encoded(SETS[kind](rng, side, side)) for side in (300, 1200) for _ in range(CHUNK // 2)]
    found = list(DeviceDecoder(preprocess, "cuda")([*files, files[0][:400] + b"\xff\xd9"]))
    assert found.pop() is None
    apart = [
        np.abs(ours.astype(int) - to_rgb(data, preprocess)).mean()
        for ours, data in zip(found, files, strict=True)
    ]
    assert np.mean(apart) <= 2
    assert np.quantile(apart, 0.99) <= 4
