"""A model whose answers say something, and the files beside it for engines of fewer bits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from pix2score.model.engine_files import CARD, INT8, PARITY, save_engine_files
from pix2score.model.folder import load_graph, load_model
from pix2score.model.graph import graph_or_none
from pix2score.model.network import normalise
from pix2score.model.parity import ParitySet, num_pictures
from pix2score.model.predictor import Predictor
from pix2score.model.trunk_graph import trunk_of
from pix2score.serve.engines import trunk_in_int8
from tests.support.torch_helpers import HEADS, PREPROCESS, RGB, pixels, save_network, settled_model

NUM = num_pictures(PREPROCESS.size)


def truth_of(images: RGB, num_bins: int) -> npt.NDArray[np.int64]:
    """Bin of the mean brightness, bins of equal numbers."""
    mean = images.mean((1, 2, 3))
    return np.digitize(mean, np.quantile(mean, np.arange(1, num_bins) / num_bins)).astype(np.int64)


def seeing_model(place: Path) -> str:
    """A saved random network whose heads were solved to tell how bright a picture is."""
    network, images = settled_model(), pixels(1000, seed=4)
    with torch.inference_mode():
        seen = network.embed(normalise(torch.from_numpy(images), PREPROCESS)).double()
    seen_ND = torch.cat([seen, torch.ones(len(seen), 1)], dim=1)
    for head in HEADS:
        bins, k_K = truth_of(images, head.num_bins), torch.arange(head.num_bins).float()
        ridge = 1e-3 * len(seen) * torch.eye(seen_ND.shape[1])
        found = torch.linalg.solve(seen_ND.T @ seen_ND + ridge, seen_ND.T @ torch.from_numpy(bins).double())
        layer = network.outputs[f"{head.name}_logits"]
        # The logits of a normal distribution around the number found: k x - k^2 / 2.
        layer.weight.data = k_K[:, None] * found[None, :-1].float()
        layer.bias.data = k_K * found[-1].float() - k_K**2 / 2
    save_network(str(place), network, graph=graph_or_none)
    return str(place)


def with_engine_files(place: Path) -> Path:
    """``seeing_model`` with its files for engines; returns ``place``."""
    card, weights = load_model(seeing_model(place))
    images = pixels(NUM, seed=5)
    outputs, _ = Predictor(card, weights, batch_size=16).outputs(images)
    bins = {head.name: truth_of(images, head.num_bins) for head in HEADS}
    labels = {name: found.astype(np.float64) for name, found in bins.items()}
    graph = load_graph(str(place), card)
    assert graph
    int8 = trunk_in_int8(trunk_of(graph, weights), pixels(32, seed=6))
    save_engine_files(str(place), card, ParitySet(images, outputs, bins, labels), int8, {})
    return place


def relist(place: Path) -> None:
    """List the files as they are now: not altered, made wrong."""
    content = json.loads((place / CARD).read_text())
    for key, name in (("int8_sha256", INT8), ("parity_sha256", PARITY)):
        content[key] = hashlib.sha256((place / name).read_bytes()).hexdigest()
    (place / CARD).write_text(json.dumps(content))


def permute_scales(place: Path) -> None:
    """Give each channel the scale of another, as a quantiser on a wrong axis would."""
    proto = onnx.load(place / INT8)
    scales = {node.input[1] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    wide = [t for t in proto.graph.initializer if t.name in scales and np.prod(t.dims, dtype=int) > 1]
    assert wide
    for tensor in wide:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
    onnx.save(proto, place / INT8)
    relist(place)
