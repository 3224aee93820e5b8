"""Nights after the first, with real Ray Data: only what is due is scored, and the account agrees with what
stands there."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score import read_changes, read_embeddings, read_scores
from pix2score.demo.second_night import Day, pass_a_day
from pix2score.errors import LimitError
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live
from pix2score.snapshots.verify import verify
from pix2score.storage.folder import Folder
from tests.support.chain import EMBEDDING_DIM, Chain

pytestmark = pytest.mark.usefixtures("ray_session")


@dataclass(frozen=True)
class Place:
    """A copy of the chain's catalog and scores that a test may change."""

    catalog: Path
    scores: str
    model: str

    def score(self, **options: Any) -> dict[str, Any]:
        return score(ScoreConfig(catalog=str(self.catalog), model=self.model, out=self.scores, **options))

    def files(self) -> list[str]:
        return sorted(entry.path for entry in Folder(self.scores).entries())


@pytest.fixture
def place(chain: Chain, tmp_path: Path) -> Place:
    shutil.copytree(chain.catalog, tmp_path / "catalog")
    shutil.copytree(chain.scores, tmp_path / "scores")
    return Place(tmp_path / "catalog", str(tmp_path / "scores"), chain.model)


@pytest.fixture
def next_day(place: Place) -> Day:
    return pass_a_day(place.catalog)


def rows(scores: str) -> dict[Any, dict[str, Any]]:
    return {(row["illust_id"], row["page"]): row for row in read_scores(scores).to_table().to_pylist()}


def test_only_new_changed_and_due_rows_are_scored_and_the_account_agrees(place: Place, next_day: Day) -> None:
    before = rows(place.scores)
    result = place.score()
    assert (result["new"], result["removed"], result["stale"], result["full"]) == (
        next_day.new,
        next_day.removed,
        0,
        0,
    )
    assert (
        result["changed"] + result["retry"] == next_day.changed + next_day.repaired + 1
    )  # one uri leads out of the catalog for ever
    assert result["planned"] == result["scored"] == result["new"] + result["changed"] + result["retry"]
    assert result["carried"] == len(before) - next_day.removed - result["changed"] - result["retry"]
    assert (result["failed"], result["failed_by_code"]) == (1, {"FORBIDDEN": 1})
    assert result["bytes"] > 1000
    manifest = live(place.scores).manifest
    assert manifest["plan"]["planned"] == result["planned"]
    assert manifest["counts"]["rows"] == result["scored"] + result["carried"] == len(rows(place.scores))
    assert json.loads(Path(place.scores, "runs", result["run"], "summary.json").read_text()) == json.loads(
        json.dumps(result)
    )
    assert any(
        stage in result["limiting_stage"] for stage in ("fetch", "decode", "model", "write", "start-up")
    )
    verify(VerifyConfig(scores=place.scores, catalog=str(place.catalog)))
    after = rows(place.scores)
    assert {key: row for key, row in after.items() if row["run"] != result["run"]} == {
        key: row for key, row in before.items() if key in after and after[key]["run"] != result["run"]
    }
    changes = {c["change"]: 0 for c in read_changes(place.scores, 1).read_all().to_pylist()}
    assert changes.keys() == {"scored", "removed", "failed"}
    assert read_embeddings(place.scores).count_rows() == sum(row["status"] == "ok" for row in after.values())


def test_s7_with_nothing_to_do_no_file_is_written(place: Place) -> None:
    catalog = pq.read_table(place.catalog / "catalog.parquet")
    sound = [".." not in uri and (place.catalog / uri).exists() for uri in catalog.column("uri").to_pylist()]
    pq.write_table(catalog.filter(pa.array(sound)), place.catalog / "catalog.parquet")
    assert place.score()["removed"] == 2
    before = place.files()
    result = place.score()
    assert (result["scored"], result["planned"], result["snapshot"], result["removed"]) == (0, 0, 2, 0)
    assert result["carried"] == len(rows(place.scores))
    assert place.files() == before


@pytest.mark.slow
def test_dry_run_tells_what_would_be_done_and_writes_nothing(place: Place, next_day: Day) -> None:
    before = place.files()
    told = place.score(dry_run=True)
    assert place.files() == before
    assert (told["dry_run"], told["snapshot"], told["new"]) == (True, None, next_day.new)
    assert told["bytes_to_fetch"] > 0
    assert told["bytes_to_write"] > told["to_score"] * 2 * EMBEDDING_DIM
    assert told["estimated_seconds"] > 0
    done = place.score()
    assert {name: told[name] for name in ("planned", "new", "changed", "retry", "carried", "removed")} == {
        name: done[name] for name in ("planned", "new", "changed", "retry", "carried", "removed")
    }


@pytest.mark.slow
def test_what_a_limited_run_scored_is_taken_up_by_the_night(place: Place, next_day: Day) -> None:
    limited = place.score(limit=4)
    assert (limited["scored"], limited["planned"], limited["snapshot"]) == (4, limited["limited"] + 4, None)
    result = place.score()
    assert 1 <= result["resumed"] <= 4
    assert result["scored"] == result["planned"] == limited["planned"]
    verify(VerifyConfig(scores=place.scores, catalog=str(place.catalog)))
    assert {row["run"] for row in rows(place.scores).values()} >= {limited["run"], result["run"]}


@pytest.mark.slow
def test_full_and_retry_failed(place: Place) -> None:
    retried = place.score(retry_failed=True)
    assert (retried["retry"], retried["scored"], retried["failed"]) == (6, 6, 6)
    assert {row["attempts"] for row in rows(place.scores).values()} == {1}
    full = place.score(full=True)
    assert (full["full"], full["carried"], full["snapshot"]) == (len(rows(place.scores)), 0, 3)
    assert {row["run"] for row in rows(place.scores).values()} == {full["run"]}


@pytest.mark.slow
def test_a_catalog_whose_first_images_are_all_missing_stops_early(chain: Chain, tmp_path: Path) -> None:
    number = 4_000
    pq.write_table(
        pa.table({"illust_id": range(number), "uri": [f"gone/{i}.png" for i in range(number)]}),
        tmp_path / "catalog.parquet",
    )
    with pytest.raises(LimitError, match=r"the first \d+ images are all missing, refused or out of reach"):
        score(
            ScoreConfig(
                catalog=str(tmp_path), model=chain.model, out=str(tmp_path / "scores"), max_failed=1.0
            )
        )
    (summary,) = (json.loads(path.read_text()) for path in (tmp_path / "scores").glob("runs/*/summary.json"))
    assert (summary["exit_code"], summary["snapshot"]) == (3, None)
    assert 200 <= summary["failed"] < number


@pytest.mark.slow
def test_dead_links_that_stay_dead_do_not_stop_a_night(chain: Chain, tmp_path: Path) -> None:
    dead = 130  # over the hundred that may fail, under the two hundred that end a first night at once
    uris = [f"gone/{i}.png" for i in range(dead)]
    pq.write_table(pa.table({"illust_id": range(dead), "uri": uris}), tmp_path / "catalog.parquet")
    config = ScoreConfig(catalog=str(tmp_path), model=chain.model, out=str(tmp_path / "scores"))
    with pytest.raises(LimitError, match="130 of 130 images failed"):
        score(config)
    score(replace(config, max_failed=1.0))
    again = score(config)
    assert (again["snapshot"], again["retry"], again["failed"]) == (2, dead, dead)
    assert {row["attempts"] for row in rows(str(tmp_path / "scores")).values()} == {2}
    assert score(replace(config, retry_failed=True))["snapshot"] == 3
