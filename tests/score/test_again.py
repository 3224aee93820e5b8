"""Heads answer from stored embeddings with real Ray: the answers of the pictures, without a picture."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pix2score import read_embeddings, read_scores
from pix2score.errors import ConfigError
from pix2score.model.folder import load_model, save_model
from pix2score.model.graph import graph_or_none
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.verify import verify
from tests.support.chain import Chain

pytestmark = pytest.mark.usefixtures("ray_session")


def with_other_heads(model: str, out: Path, **changed: Any) -> str:
    """The model with another calibration and other weights behind its trunk."""
    card, weights = load_model(model)
    moved = {
        name: array if name.startswith("trunk.") else np.roll(array, 1, axis=0)
        for name, array in weights.items()
    }
    facts: dict[str, Any] = {
        "backbone": card.backbone,
        "heads": card.heads,
        "preprocess": card.preprocess,
        "embedding_dim": card.embedding_dim,
        "temperatures": dict.fromkeys(card.temperatures, 1.7),
        "about": card.about,
        "embedding_dtype": card.embedding_dtype,
        "graph": graph_or_none,
    }
    save_model(str(out), moved, **{**facts, **changed})
    return str(out)


def without_pictures(chain: Chain, out: Path) -> str:
    """The catalog alone."""
    out.mkdir()
    shutil.copy(f"{chain.catalog}/catalog.parquet", out / "catalog.parquet")
    return str(out)


def columns_of(place: str) -> dict[str, Any]:
    return read_scores(place).to_table().sort_by([("illust_id", "ascending"), ("page", "ascending")])


def test_m1_an_answer_from_the_stored_embedding_is_that_of_the_picture(chain: Chain, tmp_path: Path) -> None:
    scores, model = str(tmp_path / "scores"), with_other_heads(chain.model, tmp_path / "model")
    shutil.copytree(chain.scores, scores)
    done = score(ScoreConfig(catalog=without_pictures(chain, tmp_path / "bare"), model=model, out=scores))
    num_ok = done["heads"]
    assert done["answered"]["rows"] == num_ok > 100
    assert done["scored"] == num_ok + done["retry"]
    assert done["stages"] == {} or done["retry"]
    verify(VerifyConfig(scores=scores, catalog=chain.catalog))
    score(ScoreConfig(catalog=chain.catalog, model=model, out=str(tmp_path / "whole")))
    ours, theirs = columns_of(scores), columns_of(str(tmp_path / "whole"))
    assert ours["status"] == theirs["status"]
    numbers = [name for name in ours.column_names if name.endswith(("_probs", "_score"))]
    assert len(numbers) == 6
    for name in numbers:
        a, b = (np.array(t[name].drop_null().to_pylist()) for t in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
    before = columns_of(chain.scores)
    assert ours["embedding_run"] == before["embedding_run"]
    assert ours["bookmark_probs"] != before["bookmark_probs"]
    assert read_embeddings(scores).count_rows() == num_ok


def test_a_model_of_float32_is_not_stored_in_less_and_one_of_float16_may_be_stored_in_more(
    chain: Chain, tmp_path: Path
) -> None:
    model = with_other_heads(chain.model, tmp_path / "model", embedding_dtype="float32")
    assert load_model(model)[0].trunk_version != load_model(chain.model)[0].trunk_version
    config = ScoreConfig(catalog=chain.catalog, model=model, out=str(tmp_path / "scores"))
    with pytest.raises(ConfigError, match=r"embedding_dtype float16: .*leave it out"):
        score(replace(config, embedding_dtype="float16"))
    wide = str(tmp_path / "wide")
    score(replace(config, model=chain.model, out=wide, embedding_dtype="float32", limit=None))
    assert columns_of(wide)["bookmark_probs"] == columns_of(chain.scores)["bookmark_probs"]
    again = with_other_heads(chain.model, tmp_path / "again")
    done = score(replace(config, model=again, out=wide, embedding_dtype="float32"))
    assert done["answered"]["rows"] > 100
