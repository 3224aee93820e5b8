"""What jobs.export writes beside a model for engines of fewer bits, and what it says of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pix2score.dataset.card import open_dataset
from pix2score.errors import ConfigError
from pix2score.model.card import load_card
from pix2score.model.engine_files import CARD, INT8, load_engine_card, load_int8, load_parity
from pix2score.serve.config import ExportConfig
from pix2score.serve.export import export
from tests.support.chain import Chain


@pytest.mark.slow
def test_the_files_lie_beside_the_model_and_are_the_same_when_made_again(
    chain: Chain, tmp_path: Path
) -> None:
    model = str(shutil.copytree(chain.model, tmp_path / "model"))
    before = load_card(model)
    config = ExportConfig(model=model, engine="int8", calibrate=chain.dataset)
    said = export(config)
    found = load_engine_card(model, before, "int8")
    assert load_card(model) == before
    assert said["out"] == model
    assert said["int8"].keys() == {head.name for head in before.heads}
    pictures = open_dataset(chain.dataset).num_rows("val")
    assert len(load_parity(model, found).pixels) == pictures == said["int8"]["bookmark"]["pictures"]
    once = load_int8(model, found)
    (tmp_path / "model" / INT8).unlink()
    export(config)
    assert load_int8(model, load_engine_card(model, before, "int8")) == once
    assert (tmp_path / "model" / CARD).is_file()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "--out is missing"),
        ({"engine": "int8"}, "--engine int8 needs --calibrate DATASET"),
        ({"engine": "bf16", "calibrate": "d", "out": "m.onnx"}, "--engine bf16 writes beside the model"),
        ({"engine": "int8", "calibrate": "d", "int8": True}, "--engine int8 writes beside the model"),
    ],
)
def test_mistakes_are_told_in_a_line(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ExportConfig(model="m", **settings)
