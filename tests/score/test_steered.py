"""score told to score a part, to end at a time, or to stage only: with real Ray Data, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pix2score import read_scores
from pix2score.errors import ConfigError
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.score.run import check_same_model
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.verify import verify
from tests.support.chain import Chain


def config(**settings: Any) -> ScoreConfig:
    return ScoreConfig(**{"catalog": "c", "model": "m", "out": "o", **settings})


def snapshot(version: str) -> Snapshot:
    manifest: Any = {"model_version": version}
    return Snapshot(41, manifest)


@pytest.mark.parametrize("flag", [{"until": "06:00"}, {"budget": "2h"}, {"where": "true"}])
def test_another_model_may_not_publish_a_part_but_may_stage_it(flag: dict[str, str]) -> None:
    (name,) = flag
    with pytest.raises(
        ConfigError, match=rf"^--{name} with model b: snapshot 41 is of model a, .*--stage-only"
    ):
        check_same_model(config(**flag), "b", snapshot("a"))
    check_same_model(config(**flag, stage_only=True), "b", snapshot("a"))
    check_same_model(config(**flag), "a", snapshot("a"))
    check_same_model(config(**flag), "b", None)
    check_same_model(config(), "b", snapshot("a"))


@pytest.mark.parametrize("flag", [{"until": "06:00"}, {"budget": "2h"}, {"stage_only": True}])
def test_full_goes_with_nothing_that_may_leave_rows(flag: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="and full: a later run could not know what"):
        config(full=True, **flag)
    config(full=True, where="true")


def test_a_time_that_has_passed_is_named_when_the_settings_are_read() -> None:
    with pytest.raises(ConfigError, match="until '2020-01-01T06:00': this has passed"):
        config(until="2020-01-01T06:00")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            {"where": "bookmark > 3"},
            r"--where 'bookmark > 3': the catalog has no column 'bookmark' \(did you m",
        ),
        ({"where": "bookmarks >"}, "--where 'bookmarks >': syntax error"),
        ({"first": "views DOWN"}, "--first 'views DOWN': syntax error"),
        ({"first": "viws"}, "did you mean views?"),
    ],
)
def test_a_wrong_expression_is_told_before_ray_starts_and_nothing_is_written(
    chain: Chain, tmp_path: Path, flag: dict[str, str], message: str
) -> None:
    out = tmp_path / "scores"
    with pytest.raises(ConfigError, match=message):
        score(ScoreConfig(catalog=chain.catalog, model=chain.model, out=str(out), **flag))
    assert not out.exists()


@pytest.mark.usefixtures("ray_session")
def test_staged_then_cut_short_then_a_part_then_the_rest_is_what_one_night_gives(
    chain: Chain, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")

    def run(**settings: Any) -> dict[str, Any]:
        return score(ScoreConfig(catalog=chain.catalog, model=chain.model, out=out, part_rows=40, **settings))

    num_keys = chain.scored["scored"]
    staged = run(stage_only=True, limit=20, first="bookmarks DESC")
    assert (staged["snapshot"], staged["staged"], staged["left"]) == (None, 20, num_keys - 20)
    assert (staged["left_runs"], (tmp_path / "scores" / "snapshots").exists()) == (
        -(-(num_keys - 20) // 20),
        False,
    )
    assert not [*(tmp_path / "scores").glob("staged/*/plan*")]

    short = run(budget="0.001s")
    assert (short["snapshot"], short["resumed"]) == (1, short["scored"])
    assert short["scored"] + short["left"] == num_keys
    assert (
        verify(VerifyConfig(scores=out, catalog=chain.catalog))["pending"]
        == short["pending"]
        == short["left"]
    )
    bookmarks = {row["illust_id"]: row["bookmarks"] for row in chain.catalog_rows().to_pylist()}
    done = [row["illust_id"] for row in read_scores(out).to_table().to_pylist() if row["status"] != "pending"]
    assert len(done) == short["scored"]

    again = run(budget="0.001s")
    assert (again["snapshot"], again["scored"], again["waiting"]) == (1, 0, short["left"]), "nothing was done"

    part = run(where="bookmarks > 100")
    rows = {row["illust_id"]: row for row in read_scores(out).to_table().to_pylist()}
    assert part["scored"] == part["waiting"] > 0
    assert not [i for i, row in rows.items() if row["status"] == "pending" and (bookmarks[i] or 0) > 100]
    assert live(out).manifest["counts"]["pending"] == part["pending"] == short["left"] - part["scored"]

    rest = run()
    assert (rest["waiting"], rest["pending"]) == (part["pending"], 0)
    assert_equal(read_scores(out).to_table().to_pylist(), read_scores(chain.scores).to_table().to_pylist())


def assert_equal(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("illust_id", "page", "status", "error_code", "fingerprint"):
            assert mine[name] == other[name]
        if mine["status"] == "ok":
            assert np.abs(np.subtract(mine["bookmark_probs"], other["bookmark_probs"])).max() < 1e-5
