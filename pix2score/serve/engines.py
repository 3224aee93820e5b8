"""What ``score --engine int8`` and ``bf16`` need beside a model: pictures to check them by, and a trunk in 8
bits.

Static quantisation by ONNX Runtime, of the trunk alone. What flows between kernels gets its range from a
histogram over training pictures; validation pictures tell how far answers move. In float32 stay kernels that
mix no channels and the one that sees the pixels, as in ``quantise``. Weights have 8 bits: these engines run
only where sums of products have 32.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa

from pix2score.cli.packages import versions
from pix2score.dataset.card import PreparedDataset
from pix2score.errors import ConfigError, DataError, ImageFailure
from pix2score.images.decode import to_rgb
from pix2score.model.admission import Narrow
from pix2score.model.card import ModelCard
from pix2score.model.engine_files import save_engine_files
from pix2score.model.folder import Weights, load_graph
from pix2score.model.forward_onnx import PIXELS
from pix2score.model.members import refuse_ensemble
from pix2score.model.parity import ParitySet, changes, num_pictures, objections
from pix2score.model.predictor import Predictor, graph_if_absent
from pix2score.model.trunk_graph import trunk_of
from pix2score.serve.quantise import kernels, quiet, rows_of, say_change, targets_of

logger = logging.getLogger(__name__)
RGB = npt.NDArray[np.uint8]
NUM_CALIBRATION = 128
"""Training pictures that give the ranges."""
CHUNK = 4
"""Pictures whose activations are in memory at a time: 0.3 GB of ResNet101 at 224 px."""
PERCENTILE = 99.999
"""Of the values of a tensor that its range holds."""
_BATCH = 16


def make_engine_files(
    model: str, card: ModelCard, weights: Weights, dataset: PreparedDataset, engine: Narrow
) -> tuple[int, dict[str, Any]]:
    """Write them beside the model; return their bytes, and of int8 how far answers move here, by head.

    Raises ``DataError`` for an ensemble and for a dataset without a picture that decodes, ``ConfigError`` for
    a network without an ONNX form.
    """
    refuse_ensemble(card.members, f"engine {engine} is of single ones")
    graph = load_graph(model, card) or graph_if_absent(model, card)
    if graph is None:
        raise ConfigError(f"{card.backbone} has no ONNX form, which engine {engine} runs")
    parity = _parity(card, weights, dataset, graph)
    if engine == "bf16":
        return save_engine_files(model, card, parity, None, _about({})), {}
    int8 = trunk_in_int8(trunk_of(graph, weights), _pixels(card, dataset, "train", NUM_CALIBRATION))
    moved = _moved(card, weights, parity, int8)
    return save_engine_files(model, card, parity, int8, _about(moved)), moved


def trunk_in_int8(trunk: bytes, pixels_NSSC: RGB) -> bytes:
    """``trunk_of`` a model with kernels of 8 bits, their ranges from these pictures."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="pix2score-int8-") as folder, quiet():
        before, folded, after = (Path(folder) / f"{name}.onnx" for name in ("float32", "folded", "int8"))
        before.write_bytes(trunk)
        _fold(before, folded)
        names = kernels(onnx.load(folded))
        logger.info("ranges of %d kernels from %d training pictures", len(names), len(pixels_NSSC))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for each chunk
            quantize_static(
                folded,
                after,
                _Chunks(pixels_NSSC),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                nodes_to_quantize=names,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibStridedMinMax": CHUNK, "CalibPercentile": PERCENTILE},
            )
        return after.read_bytes()


class _Chunks:
    """ONNX Runtime's reader of calibration data: pictures one by one, of the chunk that was set."""

    def __init__(self, pixels_NSSC: RGB) -> None:
        self._pixels = pixels_NSSC[: max(CHUNK, len(pixels_NSSC) // CHUNK * CHUNK)]
        self._rest: Iterator[RGB] = iter(self._pixels)

    def __len__(self) -> int:
        return -(-len(self._pixels) // CHUNK) * CHUNK

    def set_range(self, start_index: int, end_index: int) -> None:
        """What ``get_next`` gives from now on."""
        self._rest = iter(self._pixels[start_index:end_index])

    def get_next(self) -> dict[str, RGB] | None:
        """Feeds of the graph, then None."""
        picture = next(self._rest, None)
        return None if picture is None else {PIXELS: picture[None]}


def _fold(before: Path, after: Path) -> None:
    """Write the graph with BatchNorm folded into its convolutions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(after)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(before, options, providers=["CPUExecutionProvider"])


def _parity(card: ModelCard, weights: Weights, dataset: PreparedDataset, graph: bytes) -> ParitySet:
    pixels, rows = _pixels_and_rows(card, dataset, "val", num_pictures(card.preprocess.size))
    predictor = Predictor(card, weights, batch_size=_BATCH, engine="auto", graph=graph)
    outputs, _ = predictor.outputs(pixels)
    told = {head.name: targets_of(head, rows) for head in card.heads}
    return ParitySet(
        pixels,
        outputs,
        {name: targets for name, (targets, _) in told.items()},
        {name: labels for name, (_, labels) in told.items()},
    )


def _pixels(card: ModelCard, dataset: PreparedDataset, split: str, most: int) -> RGB:
    return _pixels_and_rows(card, dataset, split, most)[0]


def _pixels_and_rows(
    card: ModelCard, dataset: PreparedDataset, split: str, most: int
) -> tuple[RGB, pa.Table]:
    """The first pictures of a split that decode, as the network sees them, and their rows."""

    def decoded() -> Iterator[tuple[RGB, pa.RecordBatch]]:
        for data, row in rows_of(dataset, split):
            with contextlib.suppress(ImageFailure):
                yield to_rgb(data, card.preprocess), row

    found: Sequence[tuple[RGB, pa.RecordBatch]] = list(islice(decoded(), most))
    if not found:
        raise DataError(f"{dataset.folder.uri}: no picture of split {split} decodes")
    return np.stack([pixels for pixels, _ in found]), pa.Table.from_batches([row for _, row in found])


def _moved(card: ModelCard, weights: Weights, parity: ParitySet, int8: bytes) -> dict[str, Any]:
    """How far answers in 8 bits are from float32's, by ONNX Runtime on this host."""
    predictor = Predictor(card, weights, batch_size=_BATCH, engine="int8", runtime="onnxruntime", graph=int8)
    outputs, _ = predictor.outputs(parity.pixels)
    calibrations = {head.name: card.calibration(head.name) for head in card.heads}
    found = changes(card.heads, calibrations, parity, outputs, "int8")
    for head in card.heads:
        say_change(head, found[head.name])
    for problem in objections(found, "int8"):
        logger.warning("a host that answers like this one will not use engine int8: %s", problem)
    return found


def _about(moved: dict[str, Any]) -> dict[str, Any]:
    return {"changes": moved, "versions": versions(("pix2score", "onnxruntime", "onnx"))}
