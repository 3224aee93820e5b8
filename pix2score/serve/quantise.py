"""An exported ONNX model with 8-bit kernels: a quarter of the file, and how far its answers are from before.

Static quantisation by ONNX Runtime: what flows between kernels gets its range from training pictures. Two
things stay in float32 because there it costs most and saves least: kernels that mix no channels, the one that
sees the pixels, and the outputs of the heads. Weights have 7 bits: CPUs without VNNI add products of 8 bits
in 16, which overflows. Measured on EfficientNet-Lite0 at 96 px, mean change of a probability: all 49 kernels
in 8 bits .016, in 7 bits .012, without depthwise ones .009, without the first .004; ResNet18 at 64 px .001.

Shapes: N pictures, A outputs of a head.
"""

from __future__ import annotations

import contextlib
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

from pix2score.dataset.card import PreparedDataset
from pix2score.errors import DataError, ImageFailure
from pix2score.heads.spec import Calibration, HeadSpec, present
from pix2score.images.decode import open_upright
from pix2score.metrics.kinds import main_metric, numbers_of
from pix2score.metrics.protocol import Answers
from pix2score.model.folder import ModelCard
from pix2score.serve.graph import OUTPUTS
from pix2score.storage.parquet import parquet_batches

logger = logging.getLogger(__name__)
RGB = npt.NDArray[np.uint8]
NUM_CALIBRATION = 128
"""Training pictures that give the ranges."""
NUM_COMPARED = 512
"""Validation pictures that both models answer."""
MOST_CHANGE = 0.01
"""Mean change of a probability from which on a warning says so."""
NUM_COLOURS = 3
_OF_OUTPUTS = ".outputs."
"""In the names of the weights behind the embedding that are a head's own."""


def quantised(data: bytes, card: ModelCard, dataset: PreparedDataset) -> tuple[bytes, dict[str, Any]]:
    """The ONNX model ``data``, which has the heads' raw outputs beside their answers, with 8-bit kernels and
    without these; and per head how far answers of validation pictures moved.

    Raises ``DataError`` if the dataset has no picture that decodes.
    """
    proto = onnx.load_from_string(data)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(data)
        _quantise(before, after, _kernels(proto), dataset)
        changes = _changes(before, after, card, dataset)
        small = onnx.load(after)
    for output in [output for output in small.graph.output if output.name.endswith(OUTPUTS)]:
        small.graph.output.remove(output)
    return bytes(small.SerializeToString()), changes


def _quantise(before: Path, after: Path, kernels: Sequence[str], dataset: PreparedDataset) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        """Feeds of the graph, one after the other, then None."""

        def __init__(self) -> None:
            self._rest = islice(_pictures(dataset, "train"), NUM_CALIBRATION)

        def get_next(self) -> dict[str, RGB] | None:
            row = next(self._rest, None)
            return None if row is None else {"image": row[0]}

    logger.info("ranges of %d kernels from %d training pictures", len(kernels), NUM_CALIBRATION)
    with _quiet():
        quantize_static(
            before,
            after,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_quantize=kernels,
        )


def _kernels(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes that become 8-bit ones."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        and any(name in weights for name in node.input)
        and not any(_OF_OUTPUTS in name for name in node.input)
        and not (node.op_type == "Conv" and _stays(node, weights))
    ]


def _stays(node: onnx.NodeProto, weights: dict[str, tuple[int, ...]]) -> bool:
    """Whether a convolution sees pixels, or mixes no channels."""
    groups = {a.name: a.i for a in node.attribute}.get("group", 1)
    return groups > 1 or weights[node.input[1]][1] == NUM_COLOURS


def _pictures(dataset: PreparedDataset, split: str) -> Iterator[tuple[RGB, pa.RecordBatch]]:
    """Pictures of a split in whole size, and the row that each is of; those that do not decode are left
    out."""
    paths = [part.path for part in dataset.parts(split)]
    for batch in parquet_batches(dataset.folder, paths):
        for i, data in enumerate(batch.column("image").to_pylist()):
            try:
                yield np.asarray(open_upright(data)), batch.slice(i, 1)
            except ImageFailure:
                continue


def _changes(before: Path, after: Path, card: ModelCard, dataset: PreparedDataset) -> dict[str, Any]:
    """Head -> mean change of a probability and of the score, and the main number of both."""
    sessions = [_session(path) for path in (before, after)]
    outputs: list[dict[str, list[Any]]] = [{head.name: [] for head in card.heads} for _ in sessions]
    rows = []
    for image, row in islice(_pictures(dataset, "val"), NUM_COMPARED):
        rows.append(row)
        for session, found in zip(sessions, outputs, strict=True):
            names = [head.name + OUTPUTS for head in card.heads]
            for head, values in zip(card.heads, session.run(names, {"image": image}), strict=True):
                found[head.name].append(values)
    if not rows:
        raise DataError(f"{dataset.folder.uri}: no validation picture that decodes")
    labelled = pa.Table.from_batches(rows)
    changes = {}
    for head in card.heads:
        said = [_measured(head, card, np.stack(found[head.name])) for found in outputs]
        changes[head.name] = _change(head, card, said, labelled)
    return changes


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _measured(head: HeadSpec, card: ModelCard, outputs_NA: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return head.measured(head.answer(outputs_NA.astype(np.float32), card.calibration(head.name)))


def _main(
    head: HeadSpec, outputs_NA: npt.NDArray[Any], rows: pa.Table, calibration: Calibration
) -> float | None:
    """The main number over the labelled rows, as an evaluation has it."""
    targets = head.targets(rows.column(head.target_field().name))
    labels = np.asarray(head.label_values(rows.column(f"{head.name}_label")), np.float64)
    labelled = present(targets)
    if not labelled.any():
        return None
    groups, ones = np.arange(labelled.sum()), np.ones(labelled.sum())
    answers = Answers(head, outputs_NA[labelled], targets[labelled], labels[labelled], groups, calibration)
    return numbers_of(head).measures(answers)[main_metric(head)](ones)


def _change(
    head: HeadSpec, card: ModelCard, said: Sequence[npt.NDArray[Any]], rows: pa.Table
) -> dict[str, Any]:
    before, after = (np.asarray(outputs, np.float64) for outputs in said)
    moved = numbers_of(head).change(head, before, after)
    found: dict[str, Any] = {"pictures": len(before), **moved}
    if not head.COMPARES:  # its numbers are of several pictures at once
        for name, outputs in (("float32", before), ("int8", after)):
            found[name] = {main_metric(head): _main(head, outputs, rows, card.calibration(head.name))}
    level = logging.WARNING if moved["mean_prob_change"] > MOST_CHANGE else logging.INFO
    logger.log(
        level,
        "%s: probabilities of %d validation pictures move by %.4f on average, scores by %.4f%s",
        *(head.name, len(before), moved["mean_prob_change"], moved["mean_score_change"]),
        "; this network is better left in float32" if level == logging.WARNING else "",
    )
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What ONNX Runtime tells the root logger, silenced: a line for each weight whose scale it raised, and
    advice to simplify a graph that the exporter has simplified."""

    def nothing(_record: logging.LogRecord) -> bool:
        return False

    logging.getLogger().addFilter(nothing)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(nothing)
