"""A trained network as an ONNX graph, made from its weights alone.

Imports no torch, which takes a worker some seconds.

BatchNorm is folded into the convolution before it. The structure is torchvision's ResNet, read off the names
of the weights. Shapes: B images, S input size, D embedding, K bins of a head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from pix2score.model.folder import ModelCard, Weights
from pix2score.model.resnet_shapes import check_weights

Array = npt.NDArray[Any]
OPSET = 18
BATCH_NORM_EPSILON = 1e-5  # torch's default, which torchvision's ResNets keep
PIXELS, EMBEDDING = "pixels", "embedding"
LOGITS = "_logits"
"""Ending of the name of a head's output."""


def resnet_graph(card: ModelCard, weights: Weights, batch_size: int) -> bytes:
    """Serialised ONNX model of a trained network.

    ``pixels`` uint8 [B, S, S, 3] in; ``<head>_logits`` float32 [B, K] each and ``embedding`` [B, D] out.

    Raises ``DataError`` listing weights that are not those of ``card``'s network.
    """
    check_weights(card, weights)
    size = card.preprocess.size
    graph = _Graph({name.removeprefix("trunk."): tensor for name, tensor in weights.items()})
    embedding = graph.trunk(graph.normalised(PIXELS, card.preprocess.mean, card.preprocess.std))
    graph.node("Identity", [embedding], output=EMBEDDING)
    for head in card.heads:
        layer = f"outputs.{head.name}{LOGITS}"
        graph.node(
            "Gemm", [embedding, f"{layer}.weight", f"{layer}.bias"], output=head.name + LOGITS, transB=1
        )
        graph.keep(f"{layer}.weight", graph.weights[f"{layer}.weight"])
        graph.keep(f"{layer}.bias", graph.weights[f"{layer}.bias"])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch_size, width])
        for name, width in [
            *((h.name + LOGITS, h.num_outputs) for h in card.heads),
            (EMBEDDING, card.embedding_dim),
        ]
    ]
    inputs = [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, [batch_size, size, size, 3])]
    made = helper.make_graph(graph.nodes, "resnet", inputs, outputs, graph.kept)
    opset = [helper.make_opsetid("", OPSET)]
    return bytes(helper.make_model(made, opset_imports=opset, ir_version=10).SerializeToString())


class _Graph:
    """Nodes and constants as they are added; every method returns the name of what it made."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.kept: list[onnx.TensorProto] = []

    def keep(self, name: str, array: Array) -> str:
        self.kept.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], *, output: str = "", **attributes: Any) -> str:
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def normalised(self, pixels: str, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
        """float32 [B, 3, S, S]."""
        image = self.node("Transpose", [self.node("Cast", [pixels], to=TensorProto.FLOAT)], perm=[0, 3, 1, 2])
        scale = 1 / (255 * np.array(std, dtype=np.float64))
        shift = -np.array(mean, dtype=np.float64) / std
        scaled = self.node("Mul", [image, self.keep("scale", scale.reshape(1, 3, 1, 1))])
        return self.node("Add", [scaled, self.keep("shift", shift.reshape(1, 3, 1, 1))])

    def trunk(self, image: str) -> str:
        """float32 [B, D]."""
        x = self.node("Relu", [self.convolution(image, "conv1", "bn1", stride=2)])
        x = self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        for layer in range(1, 5):
            block = 0
            while f"layer{layer}.{block}.conv1.weight" in self.weights:
                x = self.block(x, f"layer{layer}.{block}", stride=2 if layer > 1 and block == 0 else 1)
                block += 1
        return self.node("Flatten", [self.node("GlobalAveragePool", [x])])

    def block(self, x: str, name: str, *, stride: int) -> str:
        """Basic (two convolutions, the first strides) or bottleneck (three, the second strides)."""
        num = 3 if f"{name}.conv3.weight" in self.weights else 2
        shortcut, inner = x, x
        for i in range(1, num + 1):
            inner = self.convolution(
                inner, f"{name}.conv{i}", f"{name}.bn{i}", stride=stride if i == num - 1 else 1
            )
            inner = inner if i == num else self.node("Relu", [inner])
        if f"{name}.downsample.0.weight" in self.weights:
            shortcut = self.convolution(x, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
        return self.node("Relu", [self.node("Add", [inner, shortcut])])

    def convolution(self, x: str, name: str, norm: str, *, stride: int) -> str:
        """With its BatchNorm folded in; padded so that a stride of 1 keeps the size."""
        kernel = self.weights[f"{name}.weight"].astype(np.float32, copy=False)
        gamma, beta, mean, var = (
            self.weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / np.sqrt(var + BATCH_NORM_EPSILON)
        weight = self.keep(f"{name}.weight", kernel * gain.astype(np.float32)[:, None, None, None])
        bias = self.keep(f"{name}.bias", beta - mean * gain)
        side = kernel.shape[2]
        # A second convolution has as many channels in as out.
        groups = kernel.shape[0] // kernel.shape[1] if name.endswith("conv2") else 1
        return self.node(
            "Conv",
            [x, weight, bias],
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[side // 2] * 4,
            group=groups,
        )
