"""The trunk alone as a whole ONNX model: pixels in, the embedding as it is before it is rounded out.

What runs in fewer bits ends there: heads see the rounded embedding in float32, whichever engine made it.
"""

from __future__ import annotations

import numpy as np
import onnx

from pix2score.model.folder import Weights
from pix2score.model.forward_onnx import EMBEDDING

_ROUNDS = "Cast"


def trunk_of(graph: bytes, weights: Weights) -> bytes:
    """``model.onnx``, the ``graph``, without what is behind the trunk, and with its weights inside."""
    proto = onnx.load_model_from_string(graph)
    made = {output: node for node in proto.graph.node for output in node.output}
    name = EMBEDDING
    while made[name].op_type == _ROUNDS:
        name = made[name].input[0]
    embedding = next(value for value in proto.graph.output if value.name == EMBEDDING)
    _keep_behind(proto.graph, made, name)
    proto.graph.node.append(onnx.helper.make_node("Identity", [name], [EMBEDDING], name=EMBEDDING))
    del proto.graph.output[:]
    proto.graph.output.append(embedding)
    for tensor in proto.graph.initializer:
        array = np.ascontiguousarray(weights[tensor.name])
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return bytes(proto.SerializeToString())


def _keep_behind(graph: onnx.GraphProto, made: dict[str, onnx.NodeProto], name: str) -> None:
    """Remove all that the tensor ``name`` does not depend on."""
    seen, left = set[str](), [name]
    while left:
        one = left.pop()
        if one not in seen:
            seen.add(one)
            left.extend(made[one].input if one in made else ())
    for node in [node for node in graph.node if seen.isdisjoint(node.output)]:
        graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in seen]:
        graph.initializer.remove(tensor)
