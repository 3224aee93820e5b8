"""A model exported in 8 bits is smaller, answers nearly the same, and says itself how nearly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pix2score.dataset.card import open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.model.folder import load_model
from pix2score.serve.config import ExportConfig
from pix2score.serve.export import export
from pix2score.serve.quantise import _pictures, kernels
from tests.support.chain import Chain
from tests.support.models import save_settled
from tests.support.ranks import spearman_bounds

Files = tuple[dict[str, Any], Any, Any]


@pytest.fixture(scope="module")
def files(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What the export said, and sessions of the model as it is and in 8 bits."""
    import onnxruntime

    folder = tmp_path_factory.mktemp("quantised")
    whole, small = str(folder / "whole.onnx"), str(folder / "small.onnx")
    export(ExportConfig(model=chain.model, out=whole))
    said = export(ExportConfig(model=chain.model, out=small, int8=True, calibrate=chain.dataset))
    return said, onnxruntime.InferenceSession(whole), onnxruntime.InferenceSession(small)


def outputs_of(session: Any, image: Any) -> dict[str, Any]:
    return dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"image": image}), strict=True)
    )


def test_it_has_the_outputs_of_the_other_file_and_kernels_of_8_bits(files: Files, chain: Chain) -> None:
    said, whole, small = files
    assert [o.name for o in small.get_outputs()] == [o.name for o in whole.get_outputs()] == said["outputs"]
    proto = onnx.load(Path(said["out"]))
    weights = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert TensorProto.INT8 in weights.values()
    for head in load_model(chain.model)[0].heads:
        assert weights[f"network.outputs.{head.name}_logits.weight"] == TensorProto.FLOAT


def test_how_far_answers_move_is_what_both_files_say_of_validation_pictures(
    files: Files, chain: Chain
) -> None:
    said, whole, small = files
    found = [
        (outputs_of(whole, image), outputs_of(small, image), row)
        for image, row in _pictures(open_dataset(chain.dataset), "val")
    ]
    for head in load_model(chain.model)[0].heads:
        told, moved = said["int8"][head.name], []
        assert told["pictures"] == len(found)
        for before, after, _ in found:
            moved.append(np.abs(before[f"{head.name}_probs"] - after[f"{head.name}_probs"]).mean())
        assert 0 < told["mean_prob_change"] < 0.02
        assert told["mean_prob_change"] == pytest.approx(np.mean(moved), rel=0.02)
        label = [row.column(f"{head.name}_label")[0].as_py() for *_, row in found]
        labelled = [i for i, value in enumerate(label) if value is not None]
        for name, which in (("float32", 0), ("int8", 1)):
            scores = [float(pair[which][f"{head.name}_score"]) for pair in found]
            if head.kind == "bins":
                least, most = spearman_bounds(
                    [scores[i] for i in labelled], [label[i] for i in labelled], error=1e-5
                )
                assert least - 0.005 <= told[name]["spearman"] <= most + 0.005


def test_pixels_depthwise_kernels_and_outputs_stay_in_float32() -> None:
    nodes = [
        helper.make_node("MatMul", ["image", "image"], ["resized"], name="resize"),
        helper.make_node("Conv", ["resized", "stem"], ["a"], name="stem"),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], name="depthwise", group=8),
        helper.make_node("Conv", ["b", "pointwise"], ["c"], name="pointwise"),
        helper.make_node("MatMul", ["c", "folded"], ["d"], name="linear"),
        helper.make_node("Gemm", ["d", "network.outputs.x_logits.weight"], ["e"], name="output"),
    ]
    shapes = {
        "stem": (8, 3, 3, 3),
        "depthwise": (8, 1, 3, 3),
        "pointwise": (16, 8, 1, 1),
        "folded": (16, 4),
        "network.outputs.x_logits.weight": (2, 4),
    }
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape).ravel())
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(nodes, "g", [], [], initializer=weights)
    assert kernels(helper.make_model(graph)) == ["pointwise", "linear"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"int8": True}, "go together"),
        ({"calibrate": "d"}, "go together"),
        ({"int8": True, "calibrate": "d", "out": "model.pt2"}, "int8 is for .onnx files"),
    ],
)
def test_mistakes_are_told_in_a_line(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ExportConfig(**{"model": "m", "out": "model.onnx", **settings})


def test_a_dataset_of_other_heads_is_refused_before_anything_is_exported(
    chain: Chain, tmp_path: Path
) -> None:
    config = ExportConfig(
        model=save_settled(tmp_path / "model"),
        out=str(tmp_path / "m.onnx"),
        int8=True,
        calibrate=chain.dataset,
    )
    with pytest.raises(DataError):
        export(config)
    assert not (tmp_path / "m.onnx").exists()
