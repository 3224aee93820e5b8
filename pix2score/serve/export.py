"""export: a model as one file for other runtimes, with its preprocessing inside.

ONNX, or torch.export by the suffix ``.pt2``.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pix2score.cli.packages import need
from pix2score.dataset.card import PreparedDataset, check_heads, open_dataset
from pix2score.model.admission import Narrow
from pix2score.model.card import ModelCard
from pix2score.model.folder import Weights, load_model
from pix2score.serve.config import ExportConfig
from pix2score.storage.folder import Folder
from pix2score.summaries import ExportSummary

if TYPE_CHECKING:
    from pix2score.serve.graph import ServedModel


logger = logging.getLogger(__name__)
OPSET = 18
FACTS = "pix2score"
"""Key of the ONNX metadata, and with ``.json`` name of the extra file of a .pt2, that holds version and
bins."""


def export(config: ExportConfig) -> ExportSummary:
    """Write the model to ``config.out``, or what an engine needs beside it; return its version, size and the
    names of its outputs.

    Raises ``DataError`` if there is no model, ``ConfigError`` if the packages for the format are missing.
    """
    card, weights = load_model(config.model)
    dataset = _dataset(config, card)
    if config.engine != "none" and dataset:
        return _engine(config, card, weights, dataset, config.engine)
    from pix2score.serve.graph import OUTPUTS, ServedModel  # imports torch, which --help does not need

    assert config.out is not None, "checked by the config"
    served = ServedModel(card, weights, with_outputs=config.int8).eval()
    out = Folder(config.out)
    suffix = next(suffix for suffix in _WRITERS if config.out.endswith(suffix))
    data, compared = _WRITERS[suffix](served, card), None
    if dataset:
        from pix2score.serve.quantise import quantised

        data, compared = quantised(data, card, dataset)
    size = out.parent.publish(out.name, data, replace=True)
    summary: ExportSummary = {
        "job": "export",
        "model_version": card.version,
        "preprocess_id": card.preprocess.id,
        "out": out.uri,
        "bytes": size,
        "outputs": [name for name in _output_names(served) if not name.endswith(OUTPUTS)],
    }
    if compared is not None:
        summary["int8"] = compared
    return summary


def _engine(
    config: ExportConfig, card: ModelCard, weights: Weights, dataset: PreparedDataset, engine: Narrow
) -> ExportSummary:
    from pix2score.serve.engines import make_engine_files

    size, moved = make_engine_files(config.model, card, weights, dataset, engine)
    summary: ExportSummary = {
        "job": "export",
        "model_version": card.version,
        "preprocess_id": card.preprocess.id,
        "out": Folder(config.model).uri,
        "bytes": size,
        "outputs": [],
    }
    return summary | {"int8": moved} if moved else summary  # type: ignore[return-value]


def _dataset(config: ExportConfig, card: ModelCard) -> PreparedDataset | None:
    """What the ranges of 8 bits come from, checked before the exporter's minute."""
    if config.calibrate is None:
        return None
    dataset = open_dataset(config.calibrate)
    for split in ("train", "val"):
        dataset.parts(split)
    check_heads(config.model, card.heads, dataset)
    return dataset


def facts(card: ModelCard) -> dict[str, Any]:
    """What a server needs to know besides the graph: version, and per head the range of each bin."""
    found: dict[str, Any] = {"model_version": card.version, "preprocess_id": card.preprocess.id}
    for head in card.heads:
        found |= head.served_facts(card.calibration(head.name))
    return found


def _example() -> dict[str, Any]:
    """Arguments of both exporters: one image, whose height and width are not fixed by it."""
    import torch

    side = torch.export.Dim("height", min=1, max=65_535), torch.export.Dim("width", min=1, max=65_535)
    return {
        "args": (torch.zeros((48, 60, 3), dtype=torch.uint8),),
        "dynamic_shapes": {"image_HWC": dict(enumerate(side))},
    }


def _output_names(served: ServedModel) -> list[str]:
    import torch

    with torch.inference_mode():
        return list(served(torch.zeros((8, 8, 3), dtype=torch.uint8)))


def _onnx(served: ServedModel, card: ModelCard) -> bytes:
    need("ONNX", "export", ["onnx", "onnxscript"], "export to .pt2")
    import torch

    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.WARNING)
    program = torch.onnx.export(
        served,
        **_example(),
        input_names=["image"],
        output_names=_output_names(served),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
    )
    proto = program.model_proto  # type: ignore[union-attr]
    entry = proto.metadata_props.add()
    entry.key, entry.value = FACTS, json.dumps(facts(card), ensure_ascii=False)
    return bytes(proto.SerializeToString())


def _torch_export(served: ServedModel, card: ModelCard) -> bytes:
    import torch

    data = io.BytesIO()
    torch.export.save(
        torch.export.export(served, **_example()),
        data,
        extra_files={f"{FACTS}.json": json.dumps(facts(card), ensure_ascii=False)},
    )
    return data.getvalue()


_WRITERS: dict[str, Callable[[ServedModel, ModelCard], bytes]] = {".onnx": _onnx, ".pt2": _torch_export}
