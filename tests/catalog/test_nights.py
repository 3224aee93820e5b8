"""A catalog made of pictures, night after night: score does what the catalog says has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pix2score import read_scores, verify
from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.job import catalog
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.config import VerifyConfig
from pix2score.storage.folder import Folder
from tests.catalog.pictures.test_archive import tar
from tests.support.chain import Chain
from tests.support.pictures import encode, noise

NUM = 6


def drawn(number: int) -> bytes:
    return encode(noise(40, 40, seed=number), "JPEG")


def statuses(scores: str) -> dict[Any, tuple[str, str]]:
    rows = read_scores(scores).to_table(["illust_id", "page", "status", "run"]).to_pylist()
    return {(row["illust_id"], row["page"]): (row["status"], row["run"]) for row in rows}


@pytest.mark.slow
def test_a_changed_picture_is_the_one_row_that_is_scored(chain: Chain, place: str, tmp_path: Path) -> None:
    """The catalog lies elsewhere than the pictures, on a disk; the pictures on a disk or S3."""
    art, made, scores = Folder(f"{place}/art"), str(tmp_path / "made/catalog.parquet"), f"{place}/scores"
    for number in range(NUM):
        art.publish(f"{number // 2}_p{number % 2}.jpg", drawn(number))
    art.publish("bad_p0.png", b"\x89PNG\r\n\x1a\nnonsense")

    def night() -> tuple[dict[str, int], Any]:
        listed = catalog(CatalogConfig(images=art.uri, out=made))
        root = listed["next"].split("--image-root ")[1].split()[0]
        config = ScoreConfig(catalog=made, model=chain.model, out=scores, image_root=(root,), max_removed=0.5)
        return listed["rows"], score(config)

    rows, first = night()
    assert (rows["new"], first["scored"], first["failed"]) == (NUM + 1, NUM + 1, 1)
    before = statuses(scores)
    art.publish("1_p1.jpg", drawn(99), replace=True)
    art.delete(["2_p0.jpg"])
    rows, second = night()
    assert (rows["changed"], rows["removed"], rows["unchanged"]) == (1, 1, NUM - 1)
    assert (second["scored"], second["removed"]) == (1, 1)
    after = statuses(scores)
    assert {key for key in after if after[key] != before[key]} == {("1", 1)}
    rows, third = night()
    assert (rows["unchanged"], third["scored"], third["snapshot"]) == (NUM, 0, second["snapshot"])
    verify(VerifyConfig(scores=scores, catalog=made))


@pytest.mark.slow
def test_pictures_of_shards_are_scored_once_whichever_shard_they_are_in(chain: Chain, tmp_path: Path) -> None:
    shards, out, scores = (
        Folder(str(tmp_path / "shards")),
        str(tmp_path / "catalog"),
        str(tmp_path / "scores"),
    )
    files = [(f"{number:04}.jpg", drawn(number)) for number in range(NUM)]
    shards.publish("0.tar", tar(*files[:4]))

    def night() -> Any:
        catalog(CatalogConfig(images=shards.uri, out=out, archives=True))
        return score(ScoreConfig(catalog=out, model=chain.model, out=scores))

    assert night()["scored"] == 4
    shards.delete(["0.tar"])
    shards.publish("a.tar", tar(*files[:2]))
    shards.publish("b.tar", tar(*files[2:]))
    assert night()["scored"] == NUM - 4
    assert {status for status, _ in statuses(scores).values()} == {"ok"}
