"""Networks of many kinds, by name, with random weights: built, saved, exported, explained."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from pix2score.evaluate.saliency import saliency
from pix2score.images.preprocess import Preprocess
from pix2score.model.backbones import wanted_input
from pix2score.model.batchnorm import norms_of, reestimate_norms
from pix2score.model.folder import GRAPH, load_graph, load_model
from pix2score.model.graph import export_graph
from pix2score.model.network import MultiHeadModel, normalise
from pix2score.model.networks import model_from_card
from pix2score.model.predictor import Predictor, load_predictor
from tests.support.torch_helpers import COUNT_HEAD, HEADS, pixels, save_network

SIZES = {
    "test_vit": 64,
    "tf_efficientnet_lite0": 64,
    "vgg16_bn": 224,  # a smaller last map is stretched to 7 x 7, which the exporter does not know
    "mobilenetv2_100": 64,
    "mobilenetv3_small_100": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 64,
    "vit_small_patch16_224.dino": 64,
    "vit_small_patch14_dinov2": 56,
    "eva02_tiny_patch14_224": 56,
    "swin_tiny_patch4_window7_224": 224,
}
"""Backbone -> input in px."""
QUICK = "test_vit"
FAMILIES = [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SIZES]


def lively(backbone: str) -> tuple[MultiHeadModel, Preprocess]:
    """A network that knows the statistics of drawn pixels and whose answers differ between them."""
    torch.manual_seed(0)
    size, wanted = SIZES[backbone], wanted_input(backbone)
    preprocess = Preprocess(size=size, mean=wanted.mean, std=wanted.std)
    # Unrounded, as engines may fall to different steps of float16.
    model = MultiHeadModel(backbone, HEADS, size=size, hidden=8, embedding_dtype=None)
    for name, weight in model.named_parameters():
        if name.endswith(("gamma", "ls1", "ls2")) and weight.ndim == 1:  # of layers that begin as nothing
            torch.nn.init.constant_(weight, 0.5)
    reestimate_norms(model, [torch.from_numpy(pixels(8, seed=9, size=size // 4 * 4))], preprocess)
    for output in model.outputs.values():
        torch.nn.init.normal_(output.weight, std=0.5)
    return model.eval(), preprocess


def saved(backbone: str, place: Path) -> MultiHeadModel:
    model, preprocess = lively(backbone)
    save_network(
        str(place),
        model,
        backbone=backbone,
        preprocess=preprocess,
        hidden=8,
        embedding_dtype=None,
        graph=export_graph,
    )
    return model


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of the quick one, with its graph."""
    place = tmp_path_factory.mktemp("quick")
    saved(QUICK, place)
    return place


@pytest.mark.parametrize("backbone", FAMILIES)
def test_any_backbone_goes_from_file_to_answer(backbone: str, tmp_path: Path) -> None:
    model, size = saved(backbone, tmp_path), SIZES[backbone]
    images = pixels(5, seed=2, size=size)
    card, weights = load_model(str(tmp_path))
    loaded = model_from_card(card, weights)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())

    plain = Predictor(card, weights, batch_size=4, engine="torch").predict(images)
    onnx = Predictor(
        card, weights, batch_size=4, engine="onnx", graph=load_graph(str(tmp_path), card)
    ).predict(images)
    with torch.inference_mode():
        logits, embedding = model(normalise(torch.from_numpy(images), card.preprocess))
    assert embedding.shape == (5, card.embedding_dim)
    assert onnx.embedding.shape == (5, card.embedding_dim)
    np.testing.assert_allclose(plain.embedding, embedding.numpy(), rtol=1e-4, atol=1e-4)
    for head in HEADS:
        probs = logits[head.name].softmax(1).numpy()
        assert probs.std(axis=0).max() > 1e-3, "answers do not differ between pictures"
        np.testing.assert_allclose(plain.heads[head.name].probs, probs, atol=1e-4)
        np.testing.assert_allclose(onnx.heads[head.name].probs, probs, atol=1e-4)

    shown = saliency(Predictor(card, weights, batch_size=4, engine="torch"), COUNT_HEAD, images)
    assert shown.shape == (5, size, size)
    assert 0 <= shown.min() <= shown.max() == pytest.approx(1)
    assert shown.std(axis=(1, 2)).max() > 0.01


def test_graph_and_weights_together_are_a_model_for_any_runtime(quick: Path) -> None:
    card, weights = load_model(str(quick))
    images = pixels(3, seed=1, size=64)
    session = onnxruntime.InferenceSession(str(quick / GRAPH), providers=["CPUExecutionProvider"])
    *_, embedding = session.run(None, {"pixels": images})
    expected = Predictor(card, weights, batch_size=3, engine="torch").predict(images)
    np.testing.assert_allclose(embedding, expected.embedding, atol=1e-4)


def test_a_model_with_a_graph_is_loaded_on_a_cpu_without_torch(quick: Path) -> None:
    script = (
        "import sys; from pix2score.model.predictor import load_predictor\n"
        f"p = load_predictor({str(quick)!r}, batch_size=2, device='cpu', num_threads=1)\n"
        "print(p.engine, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["onnx", "False"]


def test_a_model_without_a_graph_gets_one_when_it_is_loaded(quick: Path, tmp_path: Path) -> None:
    shutil.copytree(quick, tmp_path, dirs_exist_ok=True)
    images = pixels(3, seed=1, size=64)

    def embedding() -> np.ndarray:
        predictor = load_predictor(str(tmp_path), batch_size=4, device="cpu", num_threads=1)
        assert predictor.engine == "onnx"
        return predictor.predict(images).embedding

    with_graph = embedding()
    (tmp_path / GRAPH).unlink()
    np.testing.assert_array_equal(embedding(), with_graph)


def test_the_repair_of_norms_leaves_a_network_without_them_as_it_is() -> None:
    model, preprocess = MultiHeadModel("test_vit", HEADS, size=64), Preprocess(size=64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert norms_of(model) == []
    assert reestimate_norms(model, [torch.from_numpy(pixels(4, size=64))], preprocess) == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
