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
from pix2score.heads.spec import HeadSpec
from pix2score.images.decode import open_upright
from pix2score.model.card import ModelCard
from pix2score.model.parity import MOST_CHANGE, change_of
from pix2score.serve.graph import OUTPUTS
from pix2score.storage.parquet import parquet_batches

logger = logging.getLogger(__name__)
RGB = npt.NDArray[np.uint8]
NUM_CALIBRATION = 128
"""Training pictures that give the ranges."""
NUM_COMPARED = 512
"""Validation pictures that both models answer."""
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
        _quantise(before, after, kernels(proto), dataset)
        changes = _changes(before, after, card, dataset)
        small = onnx.load(after)
    for output in [output for output in small.graph.output if output.name.endswith(OUTPUTS)]:
        small.graph.output.remove(output)
    return bytes(small.SerializeToString()), changes


def _quantise(before: Path, after: Path, names: Sequence[str], dataset: PreparedDataset) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        """Feeds of the graph, one after the other, then None."""

        def __init__(self) -> None:
            self._rest = islice(_pictures(dataset, "train"), NUM_CALIBRATION)

        def get_next(self) -> dict[str, RGB] | None:
            row = next(self._rest, None)
            return None if row is None else {"image": row[0]}

    logger.info("ranges of %d kernels from %d training pictures", len(names), NUM_CALIBRATION)
    with quiet():
        quantize_static(
            before,
            after,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_quantize=names,
        )


def kernels(proto: onnx.ModelProto) -> list[str]:
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
    for data, row in rows_of(dataset, split):
        with contextlib.suppress(ImageFailure):
            yield np.asarray(open_upright(data)), row


def rows_of(dataset: PreparedDataset, split: str) -> Iterator[tuple[bytes, pa.RecordBatch]]:
    """Each row of a split, and the bytes of its picture."""
    for batch in parquet_batches(dataset.folder, [part.path for part in dataset.parts(split)]):
        for i, data in enumerate(batch.column("image").to_pylist()):
            yield data, batch.slice(i, 1)


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
        said = {
            name: np.stack(found[head.name]) for name, found in zip(("float32", "int8"), outputs, strict=True)
        }
        targets, labels = targets_of(head, labelled)
        changes[head.name] = change_of(head, card.calibration(head.name), said, targets, labels)
        say_change(head, changes[head.name])
    return changes


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def targets_of(head: HeadSpec, rows: pa.Table) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Targets and labels of a head, as numbers."""
    labels = head.label_values(rows.column(f"{head.name}_label"))
    return head.targets(rows.column(head.target_field().name)), np.asarray(labels, np.float64)


def say_change(head: HeadSpec, moved: dict[str, Any]) -> None:
    """Log how far a head's answers moved."""
    is_far = moved["mean_prob_change"] > MOST_CHANGE
    logger.log(
        logging.WARNING if is_far else logging.INFO,
        "%s: probabilities of %d validation pictures move by %.4f on average, scores by %.4f%s",
        *(head.name, moved["pictures"], moved["mean_prob_change"], moved["mean_score_change"]),
        "; this network is better left in float32" if is_far else "",
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What ONNX Runtime tells the root logger, silenced: a line for each weight whose scale it raised, and
    advice to simplify a graph that the exporter has simplified."""

    def nothing(_record: logging.LogRecord) -> bool:
        return False

    logging.getLogger().addFilter(nothing)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(nothing)
