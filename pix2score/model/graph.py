"""A network as an ONNX graph without weights, by torch's exporter: what ``forward_onnx`` runs.

A function of the card alone. The weights stay in ``model.safetensors``: the graph says where in that file
each lies, so the two together are an ordinary ONNX model for any runtime. Shapes: B images, S input size, D
embedding, K bins of a head.
"""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Mapping

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from pix2score.errors import TrainingError
from pix2score.images.preprocess import Preprocess
from pix2score.model.card import ModelCard
from pix2score.model.folder import WEIGHTS, Span
from pix2score.model.forward_onnx import BATCH, EMBEDDING, LOGITS, PIXELS, UNUSED
from pix2score.model.networks import Network, network_of_card

logger = logging.getLogger(__name__)
OPSET = 18
_NETWORK = "network."
"""What the exporter's names of weights begin with."""


def export_graph(card: ModelCard, spans: Mapping[str, Span] | None = None) -> bytes:
    """Serialised ONNX model: ``pixels`` uint8 [B, S, S, 3] in; ``<head>_logits`` float32 [B, K] each and
    ``embedding`` [B, D] out.

    ``spans``: where each weight lies in ``model.safetensors``; without them the graph is for ``OnnxForward``
    alone, which brings the weights itself.

    Raises ``TrainingError`` if the exporter cannot write this network.
    """
    start = time.monotonic()
    network = network_of_card(card)
    _make_distinct(network)
    try:
        proto = _exported(_FromPixels(network, card).eval(), card)
    except Exception as exc:  # the exporter's errors have no common class
        first_line = str(exc).partition("\n")[0]
        raise TrainingError(f"{card.backbone} has no ONNX form: {type(exc).__name__}: {first_line}") from exc
    used = _refer_to_file(proto, spans or {})
    entry = proto.metadata_props.add()
    entry.key, entry.value = UNUSED, "\n".join(sorted(network.state_dict().keys() - used))
    logger.info("%s as an ONNX graph: %.1f s", card.backbone, time.monotonic() - start)
    return bytes(proto.SerializeToString())


def graph_or_none(card: ModelCard, spans: Mapping[str, Span] | None = None) -> bytes | None:
    """``export_graph`` for ``save_model``; None, with a line in the log, where the network has no such form.

    A model that was trained is worth saving without it.
    """
    try:
        return export_graph(card, spans)
    except TrainingError as exc:
        logger.warning("%s: on a CPU it runs in torch, which is slower", exc)
        return None


class _FromPixels(nn.Module):
    """The network behind its normalisation, with outputs in the graph's order."""

    def __init__(self, network: Network, card: ModelCard) -> None:
        super().__init__()
        self.network, self.heads = network, [head.name for head in card.heads]
        self.scale, self.shift = _normalisation(card.preprocess)

    def forward(self, pixels_BSSC: Tensor) -> tuple[Tensor, ...]:
        image_BCHW = pixels_BSSC.float().permute(0, 3, 1, 2)
        logits, embedding_BD = self.network(image_BCHW * self.scale + self.shift)
        return (*(logits[name] for name in self.heads), embedding_BD)


def _normalisation(preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """Factor and term, [3, 1, 1], that make the network's input from 0..255: one pass each."""
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (preprocess.mean, preprocess.std)
    )
    return (1 / (255 * std)).float(), (-mean / std).float()


def _make_distinct(network: nn.Module) -> None:
    """Random weights: the exporter would otherwise merge those that are equal by chance, as fresh biases
    are."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1.0)


def _exported(module: _FromPixels, card: ModelCard) -> onnx.ModelProto:
    size, data = card.preprocess.size, io.BytesIO()
    outputs = [*(name + LOGITS for name in module.heads), EMBEDDING]
    with warnings.catch_warnings(), _quiet():
        # Of the exporter by torch.export, which took 10 to 15 s for ResNets, ten times as long, and needs
        # another package; and of shapes that become constants, as they are meant to.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros((2, size, size, 3), dtype=torch.uint8),),
            data,  # type: ignore[arg-type]  # the exporter in use takes a file object
            dynamo=False,
            export_params=False,
            training=torch.onnx.TrainingMode.PRESERVE,  # BatchNorm stays a layer; runtimes fold it
            do_constant_folding=False,
            input_names=[PIXELS],
            output_names=outputs,
            dynamic_axes={name: {0: BATCH} for name in (PIXELS, *outputs)},
            opset_version=OPSET,
        )
    return onnx.load_from_string(data.getvalue())


class _quiet:
    """The exporter's own log, silenced below errors."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("torch.onnx")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)


def _refer_to_file(proto: onnx.ModelProto, spans: Mapping[str, Span]) -> set[str]:
    """Turn the inputs that are weights into tensors of ``model.safetensors``; return their names."""
    weights = [value for value in proto.graph.input if value.name != PIXELS]
    names = {value.name: value.name.removeprefix(_NETWORK) for value in weights}
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in weights:
        proto.graph.input.remove(value)
        proto.graph.initializer.append(_external(names[value.name], value, spans))
    return set(names.values())


def _external(name: str, value: onnx.ValueInfoProto, spans: Mapping[str, Span]) -> TensorProto:
    kind = value.type.tensor_type
    tensor = TensorProto(name=name, data_type=kind.elem_type, data_location=TensorProto.EXTERNAL)
    tensor.dims.extend(dim.dim_value for dim in kind.shape.dim)
    offset, length = spans.get(name, (0, 0))
    for key, number in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(number))
    return tensor
