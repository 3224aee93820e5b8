"""S10 through the whole job: a permuted model is held back with its page, and let through without scoring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pix2score import read_scores
from pix2score.errors import ConfigError, LimitError
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live
from pix2score.snapshots.verify import verify
from tests.report.self_contained import assert_self_contained
from tests.support.models import catalog_of_pictures, save_settled

NUM_PICTURES = 320
BACKBONE = "test_resnet"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures in one Parquet file."""
    return catalog_of_pictures(NUM_PICTURES, tmp_path_factory.mktemp("catalog") / "catalog.parquet")


@pytest.mark.usefixtures("ray_session")
def test_a_model_with_a_permuted_head_does_not_go_live_and_is_published_without_scoring_when_allowed(
    catalog: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    good, permuted = (
        save_settled(
            tmp_path / f"model {name}", backbone=BACKBONE, bias={"bookmark": (1, 0.5, 0, -1)}, permuted=name
        )
        for name in ("", "bookmark")
    )
    first = score(ScoreConfig(catalog=catalog, model=good, out=out))
    assert first["drift"] == live(out).manifest["account"]["drift"] == {}
    before = read_scores(out).to_table()

    with pytest.raises(LimitError, match=r"head bookmark moved .*over --max-drift 0\.25.*report\.html"):
        score(ScoreConfig(catalog=catalog, model=permuted, out=out))
    assert live(out).number == 1
    assert read_scores(out).to_table().equals(before)
    (run,) = {path.parent for path in Path(out).glob("runs/*/report.html")}
    refused = json.loads((run / "summary.json").read_text())
    assert (refused["exit_code"], refused["error"], refused["snapshot"]) == (3, "LimitError", None)
    assert refused["drift"]["bookmark"] > 0.25 > refused["drift"]["sanity"]
    page = (run / "report.html").read_text()
    assert_self_contained(page)
    assert "NOT PUBLISHED: head bookmark moved" in page
    assert "bookmark: drifted" in page
    assert page.count("data:image/jpeg;base64,") > 20

    let_through = score(ScoreConfig(catalog=catalog, model=permuted, out=out, max_drift=100))
    assert (let_through["snapshot"], let_through["resumed"]) == (2, NUM_PICTURES)
    assert (let_through["limiting_stage"], let_through["bytes"]) == ("nothing was scored", 0)
    assert let_through["drift"] == live(out).manifest["account"]["drift"] == refused["drift"]
    assert set(read_scores(out).to_table().column("run").to_pylist()) == {refused["run"]}
    assert verify(VerifyConfig(scores=out, catalog=catalog))["rows"] == NUM_PICTURES


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(ConfigError, match="max_drift .*: expected 0 or more; 100 lets any night go live"):
        ScoreConfig(catalog="c", model="m", out="o", max_drift=wrong)
