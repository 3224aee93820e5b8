"""A fitted KPI on disk: whole, as it was, and refused when it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pix2score.errors import DataError
from pix2score.kpi.features import Features, Scale
from pix2score.kpi.forest import fit_forest
from pix2score.kpi.linear import Rows, fit_linear, logistic
from pix2score.kpi.models import LEAVES, LEAVES_AND_RAW, LINEAR, ONLY_TREES, Fitted, Model, load, save
from pix2score.storage.folder import Folder

X = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.float64)
ROWS = Rows([X], Y, np.ones(400))


def fitted(name: str) -> Fitted:
    """A small one of each form."""
    from pix2score.kpi.forest import leaf_columns

    forest = fit_forest("rate", ROWS, ROWS, 0) if name != LINEAR else None
    blocks = [leaf_columns(forest, X)] if name in (LEAVES, LEAVES_AND_RAW) else []
    blocks += [X] if name in (LINEAR, LEAVES_AND_RAW) else []
    rows = Rows(blocks, Y, ROWS.weight)
    linear = fit_linear(rows, rows, logistic, [0.1]) if blocks else None
    return Fitted(
        model=Model(name=name, target="rate", linear=linear, forest=forest),
        features=Features(5, (), ()),
        scale=Scale(np.full(5, 0.1), np.full(5, 1.5)),
        quantiles=np.linspace(0, 1, 101),
        model_version="0123456789ab",
    )


@pytest.mark.parametrize("name", [LINEAR, ONLY_TREES, LEAVES, LEAVES_AND_RAW])
def test_what_is_read_answers_as_what_was_saved(name: str, place: str) -> None:
    before = fitted(name)
    version = save(Folder(place), before)
    after, found = load(place)
    assert found == version
    for a, b in zip(before.answer(X.copy()), after.answer(X.copy()), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("file", ["kpi.json", "linear.safetensors", "trees.txt"])
def test_a_file_that_was_altered_is_refused(tmp_path: Path, file: str) -> None:
    save(Folder(str(tmp_path)), fitted(LEAVES))
    path = tmp_path / file
    data = bytearray(path.read_bytes())
    if file == "kpi.json":
        path.write_text(json.dumps({**json.loads(data), "target": "number"}))
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(DataError, match="was altered"):
        load(str(tmp_path))


def test_a_missing_file_and_another_json_are_named(tmp_path: Path) -> None:
    save(Folder(str(tmp_path)), fitted(LINEAR))
    (tmp_path / "linear.safetensors").unlink()
    with pytest.raises(DataError, match=r"linear\.safetensors is missing"):
        load(str(tmp_path))
    (tmp_path / "kpi.json").write_text("{}")
    with pytest.raises(DataError, match="is not the card of a fitted KPI"):
        load(str(tmp_path))
