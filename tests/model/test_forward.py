"""The engines of the forward pass give the same answers, and name weights that do not fit."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pix2score.cli import packages
from pix2score.errors import ConfigError, DataError
from pix2score.model.card import ModelCard
from pix2score.model.folder import Weights
from pix2score.model.forward_torch import HALVES, Outputs, TorchForward, within_range
from pix2score.model.network import MultiHeadModel, weights_of
from pix2score.model.predictor import Engine, Predictor
from pix2score.score.config import ScoreConfig
from tests.support.torch_helpers import HEADS, card_and_weights, pixels

ENGINES: list[Engine] = ["onnx", "torch"]


def lively(backbone: str) -> tuple[ModelCard, Weights]:
    """A network with BatchNorm statistics of its own, whose answers differ between pictures."""
    torch.manual_seed(0)
    network = MultiHeadModel(backbone, HEADS)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(part.running_var, 0.7, 1.4)
            torch.nn.init.uniform_(part.weight, 0.3, 0.9)
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.weight, std=0.5)
    card = replace(card_and_weights()[0], backbone=backbone, embedding_dim=network.embedding_dim)
    return card, weights_of(network)


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18",
        *(
            pytest.param(other, marks=pytest.mark.slow)
            for other in ("resnext50_32x4d", "resnet50", "wide_resnet50_2", "resnet101")
        ),
    ],
)
def test_every_engine_gives_the_same_probabilities_within_1e_4(backbone: str) -> None:
    card, weights = lively(backbone)
    images = pixels(6, seed=2)
    onnx, plain = (
        Predictor(card, weights, batch_size=4, engine=engine).predict(images) for engine in ENGINES
    )
    np.testing.assert_allclose(onnx.embedding, plain.embedding, rtol=1e-3, atol=1e-4)
    for head in HEADS:
        assert plain.heads[head.name].probs.std(axis=0).max() > 1e-3
        np.testing.assert_allclose(onnx.heads[head.name].probs, plain.heads[head.name].probs, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_that_do_not_fit_are_named(engine: Engine) -> None:
    card, weights = card_and_weights()
    wrong = {name: tensor for name, tensor in weights.items() if name != "trunk.conv1.weight"}
    with pytest.raises(DataError, match=r"do not fit: lacks trunk\.conv1\.weight"):
        Predictor(card, wrong, batch_size=1, engine=engine)
    with pytest.raises(DataError, match="has unknown surplus"):
        Predictor(card, {**weights, "surplus": np.zeros(1, np.float32)}, batch_size=1, engine=engine)
    with pytest.raises(DataError, match=r"trunk\.bn1\.bias is \(65,\), expected \(64,\)"):
        Predictor(card, {**weights, "trunk.bn1.bias": np.zeros(65, np.float32)}, batch_size=1, engine=engine)


def test_the_engine_of_a_cpu_imports_no_torch() -> None:
    modules = "pix2score.model.predictor, pix2score.model.forward_onnx, pix2score.score.stages"
    script = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "False"


def test_an_engine_that_is_not_there_falls_back_with_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with caplog.at_level(logging.WARNING):
        predictor = Predictor(*card_and_weights(), batch_size=2)
    assert predictor.engine == "torch"
    assert "without onnxruntime the network runs in torch" in caplog.text
    assert predictor.predict(pixels(1, seed=1)).finite.all()
    with pytest.raises(ConfigError, match="engine onnx needs onnxruntime; pip install onnxruntime"):
        Predictor(*card_and_weights(), batch_size=2, engine="onnx")


def test_onnx_on_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="runs on the CPU only"):
        Predictor(*card_and_weights(), batch_size=2, engine="onnx", device="cuda")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_cpu_is_refused(precision: Any) -> None:
    with pytest.raises(ConfigError, match=f"precision {precision} is for GPUs"):
        Predictor(*card_and_weights(), batch_size=2, precision=precision)
    with pytest.raises(ConfigError, match=f"precision {precision} is for GPUs"):
        ScoreConfig(catalog="c", model="m", out="o", device="cpu", precision=precision)


def test_a_precision_is_what_the_network_runs_in() -> None:
    card, weights = card_and_weights()
    halves = {
        name: TorchForward(card, weights, device="cpu", num_threads=None, precision=name).half
        for name in ("auto", "fp16", "bf16", "fp32")
    }
    assert set(halves.values()) == {None}  # of a CPU
    assert {"auto": torch.float16, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": None} == HALVES


def test_a_batch_that_does_not_fit_into_memory_goes_in_halves_with_the_same_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    card, weights = card_and_weights()
    images, room = pixels(8, seed=3), 3
    forward, whole = (TorchForward(card, weights, device="cpu", num_threads=None) for _ in range(2))

    def measured(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    forward.network.register_forward_pre_hook(measured)
    (logits, embedding), (expected, expected_embedding) = forward(images), whole(images)
    assert forward.num_pieces == 4
    assert "goes in 4 pieces" in caplog.text
    np.testing.assert_allclose(embedding, expected_embedding, atol=2e-4)
    np.testing.assert_allclose(logits["bookmark"], expected["bookmark"], atol=1e-4)
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        forward(images)


def test_rows_that_leave_the_range_of_half_precision_are_computed_exactly_and_no_others() -> None:
    logits, embedding = (
        torch.tensor([[1.0, 2.0], [3.0, 4.0], [torch.nan, 5.0], [6.0, 7.0]]).half(),
        torch.ones(4, 3).half(),
    )
    embedding[1, 2] = torch.inf
    exact = ({"a": torch.full((4, 2), 9.0)}, torch.full((4, 3), 7e4))
    found, found_embedding = within_range(({"a": logits}, embedding), lambda: exact)
    assert found["a"].tolist() == [[1.0, 2.0], [9.0, 9.0], [9.0, 9.0], [6.0, 7.0]]
    assert found_embedding.tolist() == [[1.0] * 3, [7e4] * 3, [7e4] * 3, [1.0] * 3]


def test_nothing_is_computed_twice_while_half_precision_does() -> None:
    def exactly() -> Outputs:
        raise AssertionError("every row is within range")

    outputs = {"a": torch.full((2, 3), 65_504.0).half()}, torch.zeros(2, 5).half()
    found, embedding = within_range(outputs, exactly)
    assert found["a"].dtype == embedding.dtype == torch.float32
    assert torch.equal(found["a"], torch.full((2, 3), 65_504.0))
