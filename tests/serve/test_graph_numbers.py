"""In torch, and in other runtimes, heads with one answer say what they say in numpy."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pix2score.heads.binary import BinaryHead
from pix2score.heads.preference import PreferenceHead
from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.serve.graph import ANSWERS

LINE = {"slope": 1.7, "offset": 0.4, "residual_std": 0.3, "threshold": 0.4}
LINE |= {"mean": 0.2, "std": 1.3, "quantiles": [-2.0, -1.0, -1.0, 0.5, 1.5]}
LARGE = tuple(
    np.round(1e9 + np.linspace(-3, 9, 101) ** 3).tolist()
)  # with ties, which float32 cannot tell apart
HEADS = [
    BinaryHead(name="h", column="c", counts=(70, 30)),
    ValueHead(name="h", column="c", range=(-1, 2), mean=0.3, std=0.6, quantiles=(-1.0, 0.0, 0.0, 0.5, 2.0)),
    ValueHead(name="h", column="c", loss="expected", mean=0.3, std=0.6),
    ValueHead(name="h", column="c", mean=1e9 + 100, std=200.0, quantiles=LARGE),
    PreferenceHead(name="h"),
]
NAMES = ["binary", "value", "expected", "large values", "preference"]


class OfOneHead(nn.Module):
    def __init__(self, head: HeadSpec, calibration: dict[str, Any]) -> None:
        super().__init__()
        self.head, self.calibration = head, calibration

    def forward(self, outputs_A: Tensor) -> dict[str, Tensor]:
        return ANSWERS[self.head.kind](self.head, outputs_A, self.calibration)


def assert_same(
    head: HeadSpec, outputs: np.ndarray, calibration: dict[str, Any], found: dict[str, Any]
) -> None:
    columns = head.columns(head.answer(outputs[None], calibration))
    assert {f"h_{name}" for name in found} == columns.keys()
    for name, value in found.items():
        assert float(value) == pytest.approx(columns[f"h_{name}"][0].as_py(), rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
@pytest.mark.parametrize("calibration", [{}, LINE], ids=["as it is", "calibrated"])
def test_torch_answers_as_numpy(head: HeadSpec, calibration: dict[str, Any]) -> None:
    served = OfOneHead(head, calibration)
    for outputs in np.random.default_rng(0).normal(0, 2, (50, head.num_outputs)).astype(np.float32):
        assert_same(head, outputs, calibration, served(torch.from_numpy(outputs)))


class OfAllHeads(nn.Module):
    """Each head's answers to its own outputs: one graph, as an export costs a second."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList(OfOneHead(head, LINE) for head in HEADS)

    def forward(self, *outputs: Tensor) -> tuple[dict[str, Tensor], ...]:
        return tuple(one(given) for one, given in zip(self.each, outputs, strict=True))


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    example = tuple(torch.zeros(head.num_outputs) for head in HEADS)
    program = torch.onnx.export(OfAllHeads().eval(), example, dynamo=True, opset_version=18, verbose=False)
    data = io.BytesIO()
    program.save(data)
    return onnxruntime.InferenceSession(data.getvalue())


def test_onnxruntime_answers_as_numpy(session: onnxruntime.InferenceSession) -> None:
    drawn = [np.random.default_rng(1).normal(0, 2, (20, h.num_outputs)).astype(np.float32) for h in HEADS]
    names = [list(one) for one in OfAllHeads()(*(torch.zeros(h.num_outputs) for h in HEADS))]
    inputs = [given.name for given in session.get_inputs()]
    for outputs in zip(*drawn, strict=True):
        found = iter(session.run(None, dict(zip(inputs, outputs, strict=True))))
        for head, given, of_head in zip(HEADS, outputs, names, strict=True):
            assert_same(head, given, LINE, {name: next(found) for name in of_head})
        assert not list(found)
