"""The bare forward pass is timed in every way, on a network whose answers are finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pix2score.benchmark.forward import random_model
from pix2score.model.predictor import Predictor
from tests.support.jobs import summary_of


@pytest.mark.slow
def test_the_bare_forward_pass_is_timed_in_every_way() -> None:
    result = summary_of("benchmark", "--stage=model", "--input-size=32", "--batch-size=4", "--runs=1")
    ways = {t["way"]: t["images_per_s"] for t in result["model"]}
    assert {"torch, eager", "predictor, onnx"} <= set(ways) or torch.cuda.is_available()
    assert min(ways.values()) > 0


@pytest.mark.parametrize("backbone", ["resnet18", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_a_random_model_answers_within_float16(backbone: str) -> None:
    card, weights = random_model(backbone, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    prediction = Predictor(card, weights, batch_size=4).predict(pixels)
    assert prediction.finite.all()
    assert 0 < np.abs(prediction.embedding).max() < 60_000
