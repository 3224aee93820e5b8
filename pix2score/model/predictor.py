"""The fast forward pass: uint8 pixels in, calibrated probabilities and embeddings out, on the device at hand.

Imports no torch: on a CPU the network runs in ONNX Runtime (``forward_onnx``), on a GPU in torch
(``forward_torch``). Shapes: N images given, B fixed batch, S input size, D embedding, K bins of a head.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pix2score.cli.packages import missing
from pix2score.errors import ConfigError
from pix2score.heads.spec import Floats
from pix2score.model.card import ModelCard
from pix2score.model.folder import Weights, load_graph, load_model
from pix2score.model.prediction import Prediction

logger = logging.getLogger(__name__)
Engine: TypeAlias = Literal["auto", "onnx", "torch", "int8", "bf16"]
Runtime: TypeAlias = Literal["openvino", "onnxruntime"]
"""What runs a trunk in 8 bits or bfloat16."""
Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
"""Of a forward pass on a GPU; auto: fp16. A CPU has float32: auto or fp32."""
Forward: TypeAlias = Callable[[npt.NDArray[np.uint8]], tuple[dict[str, Floats], Floats]]
"""uint8 [B, S, S, 3] -> logits [B, K] by head before temperature, and embedding [B, D]."""


class Predictor:
    """A loaded model.

    Every forward pass has the same shape [B, S, S, 3], padded with black, so that a result does not depend on
    how many other images are in the batch.
    """

    def __init__(
        self,
        card: ModelCard,
        weights: Weights,
        *,
        batch_size: int,
        device: str = "cpu",
        engine: Engine = "auto",
        num_threads: int | None = None,
        compiled: bool = False,
        precision: Precision = "auto",
        graph: bytes | None = None,
        runtime: Runtime = "openvino",
    ) -> None:
        """Load the network onto ``device``.

        ``device``: cpu or cuda, said by the caller: a process may see a GPU that it was not given.
        ``engine``: auto is ONNX Runtime on a CPU, torch on a GPU. ``num_threads``: on the CPU, None for all.
        ``compiled``: by torch.compile, on a GPU only. ``precision``: of a GPU. ``graph``: the model's
        ``model.onnx``; without it the ONNX engine makes one, which imports torch and takes seconds. Of engine
        int8 it is ``model.int8.onnx``. ``runtime``: of int8 and bf16, which ``admission`` lets answer.

        Raises ``DataError`` listing weights that are missing, surplus or of another shape, ``ConfigError``
        for an engine or a precision that cannot be.
        """
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size}: at least 1")
        self.card, self.weights, self.batch_size, self.device = card, weights, batch_size, device
        check_precision(precision, device)
        self.engine = _engine(engine, device)
        if self.engine in ("int8", "bf16"):
            if graph is None and self.engine == "bf16":
                graph = _made_graph(card)
            self._forward = _narrow(card, weights, graph, self.engine, runtime, batch_size, num_threads)
            return
        graph = (graph or _made_graph(card)) if self.engine == "onnx" else None
        self.engine = "onnx" if graph else "torch"
        self._forward = _forward(card, weights, graph, batch_size, device, num_threads, compiled, precision)

    def predict(self, pixels_NSSC: npt.NDArray[np.uint8]) -> Prediction:
        """Predictions of N >= 0 images, uint8 RGB [N, S, S, 3] as ``images.decode.to_rgb`` gives them."""
        outputs, embedding = self.outputs(pixels_NSSC)
        finite = np.logical_and.reduce(
            [np.isfinite(part).all(axis=1) for part in (embedding, *outputs.values())]
        )
        heads = {h.name: h.answer(outputs[h.name], self.card.calibration(h.name)) for h in self.card.heads}
        return Prediction(heads, embedding, finite)

    def outputs(self, pixels_NSSC: npt.NDArray[np.uint8]) -> tuple[dict[str, Floats], Floats]:
        """Head -> outputs [N, K] before calibration, and embedding [N, D], of images as ``predict`` takes
        them."""
        starts = range(0, len(pixels_NSSC), self.batch_size)
        parts = [self._batch(pixels_NSSC[i : i + self.batch_size]) for i in starts]
        embedding = _joined([embedding for _, embedding in parts], self.card.embedding_dim)
        return {
            h.name: _joined([part[h.name] for part, _ in parts], h.num_outputs) for h in self.card.heads
        }, embedding

    def _batch(self, pixels_nSSC: npt.NDArray[np.uint8]) -> tuple[dict[str, Floats], Floats]:
        n, size = len(pixels_nSSC), self.card.preprocess.size
        if n < self.batch_size:
            padded = np.zeros((self.batch_size, size, size, 3), dtype=np.uint8)
            padded[:n] = pixels_nSSC
            pixels_nSSC = padded
        logits, embedding_BD = self._forward(pixels_nSSC)
        return {name: tensor[:n] for name, tensor in logits.items()}, embedding_BD[:n]


def load_predictor(
    model: str,
    *,
    batch_size: int,
    device: str,
    num_threads: int | None,
    engine: Engine = "auto",
    compiled: bool = False,
    precision: Precision = "auto",
    graph: bytes | None = None,
) -> Predictor:
    """The predictor of the model folder ``model`` for this process; the rest as ``Predictor`` has it.

    ``graph``: where the caller has made one; else the folder's is used.
    """
    card, weights = load_model(model)
    if graph is None and device == "cpu":
        graph = load_graph(model, card)
    return Predictor(
        card,
        weights,
        batch_size=batch_size,
        device=device,
        num_threads=num_threads,
        engine=engine,
        compiled=compiled,
        precision=precision,
        graph=graph,
    )


def check_precision(precision: Precision, device: str) -> None:
    """Raises ``ConfigError`` for one that ``device`` does not have."""
    if device == "cpu" and precision in ("bf16", "fp16"):
        raise ConfigError(f"precision {precision} is for GPUs; on a CPU the network runs in float32")


def check_engine(engine: Engine, device: str) -> None:
    """Raises ``ConfigError`` for one that ``device`` does not have."""
    if device != "cpu" and engine in ("onnx", "int8", "bf16"):
        raise ConfigError(f"engine {engine} runs on the CPU only; use auto or torch on a GPU")


def graph_if_absent(model: str, card: ModelCard) -> bytes | None:
    """A graph for a model folder that lacks one, None if it has one: for a caller whose many workers would
    each make it.

    Imports torch only then.
    """
    if load_graph(model, card) is not None or missing(["onnx", "onnxruntime"]):
        return None
    return _made_graph(card)


def _made_graph(card: ModelCard) -> bytes | None:
    from pix2score.model.graph import graph_or_none  # imports torch

    logger.info("the model has no graph for CPUs, as older ones have not: it is made now")
    return graph_or_none(card)


def _engine(engine: Engine, device: str) -> Literal["onnx", "torch", "int8", "bf16"]:
    """What ``engine`` means on ``device`` with the packages at hand.

    Raises ``ConfigError`` for one that cannot be.
    """
    if device != "cpu":
        check_engine(engine, device)
        return "torch"
    if engine in ("int8", "bf16"):
        return engine
    absent = missing(["onnx", "onnxruntime"])
    if engine == "onnx" and absent:
        raise ConfigError(
            f"engine onnx needs {' and '.join(absent)}; pip install {' '.join(absent)}, or use --engine torch"
        )
    if engine == "auto" and absent:
        logger.warning("without %s the network runs in torch, which is slower on a CPU", " and ".join(absent))
        return "torch"
    return "torch" if engine == "torch" else "onnx"


def _forward(
    card: ModelCard,
    weights: Weights,
    graph: bytes | None,
    batch_size: int,
    device: str,
    num_threads: int | None,
    compiled: bool,
    precision: Precision,
) -> Forward:
    """By ONNX Runtime where there is a graph, else by torch."""
    if graph is not None:
        from pix2score.model.forward_onnx import OnnxForward

        return OnnxForward(card, weights, graph, batch_size=batch_size, num_threads=num_threads)
    from pix2score.model.forward_torch import TorchForward  # imports torch

    return TorchForward(
        card, weights, device=device, num_threads=num_threads, compiled=compiled, precision=precision
    )


def _narrow(
    card: ModelCard,
    weights: Weights,
    graph: bytes | None,
    engine: Literal["int8", "bf16"],
    runtime: Runtime,
    batch_size: int,
    num_threads: int | None,
) -> Forward:
    """The trunk in fewer bits, the heads in float32. Raises ``ConfigError`` without a graph for it."""
    from pix2score.model.forward_trunk import Trunk, TrunkThenHeads

    if graph is None:
        raise ConfigError(f"engine {engine}: {card.backbone} has no ONNX form")
    if engine == "bf16":
        from pix2score.model.trunk_graph import trunk_of

        graph = trunk_of(graph, weights)
    trunk: Trunk
    if runtime == "openvino":
        from pix2score.model.forward_openvino import OpenVinoTrunk

        trunk = OpenVinoTrunk(graph, batch_size=batch_size, num_threads=num_threads, bf16=engine == "bf16")
    else:
        from pix2score.model.forward_onnx import OnnxTrunk

        trunk = OnnxTrunk(graph, batch_size=batch_size, num_threads=num_threads)
    return TrunkThenHeads(card, weights, trunk)


def _joined(parts: list[Floats], width: int) -> Floats:
    return np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.float32)
