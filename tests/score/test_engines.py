"""Nights by an engine of fewer bits: rows under a name of its own, never beside those of float32."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pix2score import read_embeddings, read_scores
from pix2score.errors import ConfigError, DataError
from pix2score.host import instructions
from pix2score.model.answers import EmbeddingPredictor
from pix2score.model.folder import load_card, load_model
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.manifest import live
from pix2score.storage.folder import Folder
from tests.support.engines import permute_scales, with_engine_files
from tests.support.models import catalog_of_pictures, save_settled

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(
        not instructions.has_any(instructions.EIGHT_BIT), reason="this CPU has neither VNNI nor AMX"
    ),
]
ROWS = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_engine_files(tmp_path_factory.mktemp("engines") / "model")


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    return catalog_of_pictures(ROWS, tmp_path / "catalog.parquet")


def test_rows_of_8_bits_are_another_models_and_resume_as_such(
    model: Path, catalog: str, tmp_path: Path
) -> None:
    out, card = str(tmp_path / "scores"), load_card(str(model))
    settings = {"catalog": catalog, "model": str(model), "out": out}
    exact = score(ScoreConfig(**settings, limit=10))
    assert exact["model_version"] == card.version
    first = score(ScoreConfig(**settings, engine="int8"))
    assert (first["planned"], first["resumed"]) == (ROWS, 0), "what float32 staged is not taken up"
    manifest = live(out).manifest
    identity = manifest["model_version"].removeprefix(f"{card.version}+")
    assert identity.startswith("int8-")
    assert first["model_version"] == manifest["model_version"]
    assert manifest["trunk_version"] == f"{card.trunk_version}+{identity}"
    assert manifest["engine"] == first["engine"]
    assert 0 < manifest["engine"]["changes"]["bookmark"]["mean_prob_change"] <= 0.01
    again = score(ScoreConfig(**settings, engine="int8"))
    assert (again["planned"], again["snapshot"]) == (0, first["snapshot"])
    _assert_m1(model, out)
    back = score(ScoreConfig(**settings))
    assert (back["planned"], back["resumed"]) == (ROWS, 10), "what float32 staged is its own"
    assert live(out).manifest["model_version"] == card.version
    with pytest.raises(ConfigError, match="a snapshot is of one model alone"):
        score(ScoreConfig(**settings, engine="int8", where="illust_id < 5"))


def _assert_m1(model: Path, out: str) -> None:
    scores = read_scores(out).to_table().sort_by("illust_id")
    stored = read_embeddings(out).to_table().sort_by("illust_id").column("embedding")
    embedding = np.array(stored.to_pylist(), np.float16)
    found = EmbeddingPredictor(*load_model(str(model))).predict(embedding)
    np.testing.assert_allclose(
        np.array(scores.column("bookmark_probs").to_pylist()), found.heads["bookmark"].probs, atol=1e-5
    )


def test_a_host_that_answers_otherwise_scores_the_whole_night_in_float32(
    model: Path, catalog: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = shutil.copytree(model, tmp_path / "broken")
    permute_scales(model)
    settings = {"catalog": catalog, "model": str(model), "out": str(tmp_path / "scores")}
    with caplog.at_level(logging.WARNING):
        found = score(ScoreConfig(**settings, engine="int8"))
    assert "engine int8 is not used, the network runs in float32" in caplog.text
    assert (
        found["model_version"]
        == load_card(str(model)).version
        == live(settings["out"]).manifest["model_version"]
    )
    assert found["engine"] == {"name": "float32", "asked": "int8"}
    assert score(ScoreConfig(**settings))["planned"] == 0, "the night is one of float32"


def test_a_model_without_the_files_ends_the_run_with_the_command_that_makes_them(
    catalog: str, tmp_path: Path
) -> None:
    model = save_settled(tmp_path / "model")
    out = tmp_path / "scores"
    with pytest.raises(DataError, match="python -m jobs.export --model .* --engine int8 --calibrate DATASET"):
        score(ScoreConfig(catalog=catalog, model=model, out=str(out), engine="int8"))
    assert not out.exists()
    assert pq.read_table(catalog).num_rows == ROWS
    assert not Folder(model).is_file("engines.json")


def test_engines_of_a_cpu_are_refused_on_a_gpu() -> None:
    with pytest.raises(ConfigError, match="engine int8 runs on the CPU only"):
        ScoreConfig(catalog="c", model="m", out="o", device="gpu", engine="int8")
