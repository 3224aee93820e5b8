"""A model is rolled out over nights beside the nightly one, and drivers are killed on the way: what is live
is whole at any moment, and nothing that was staged is scored again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pix2score import read_scores
from pix2score.images.decoder import Decoder
from pix2score.model.folder import load_model
from pix2score.model.predictor import Predictor
from pix2score.snapshots.config import VacuumConfig, VerifyConfig
from pix2score.snapshots.manifest import live, live_number
from pix2score.snapshots.pieces import staged_receipts
from pix2score.snapshots.vacuum import vacuum
from pix2score.snapshots.verify import verify
from pix2score.storage.folder import Folder
from tests.support.builders import write_catalog
from tests.support.drivers import PART_ROWS, Job, Ray, ray_cluster
from tests.support.models import cheap_model
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SIDE = 2000
"""Pixels of a picture: enough that it takes a tenth of a second, and a run can be killed in its middle."""


@pytest.fixture(scope="module")
def ray() -> Iterator[Ray]:
    with ray_cluster({"PYTHONPATH": str(ROOT)}) as cluster:
        yield cluster


@dataclass
class Team:
    """One scores folder, two models, and a catalog that grows."""

    ray: Ray
    root: Path

    def __post_init__(self) -> None:
        self.models = {name: cheap_model(self.root / name, seed) for name, seed in (("old", 0), ("new", 1))}
        self.out = str(self.root / "scores")

    def catalog(self, content: Mapping[int, str]) -> None:
        """Pictures by id and etag; popular is every third."""
        for etag in set(content.values()):
            path = self.root / "catalog" / f"{etag}.png"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                shade = sum(etag.encode()) % 256
                Image.new("RGB", (SIDE, SIDE), (shade, 255 - shade, 40)).save(path, "PNG")
        columns = {
            "illust_id": list(content),
            "uri": [f"{etag}.png" for etag in content.values()],
            "etag": list(content.values()),
            "bookmarks": [100 if i % 3 == 0 else 1 for i in content],
        }
        write_catalog(str(self.root / "catalog"), pa.table(columns))

    def answer(self, model: str, etag: str) -> Any:
        """What a model says of a picture alone."""
        card, weights = load_model(self.models[model])
        size = card.preprocess.size
        pixels = Decoder(card.preprocess)((self.root / "catalog" / f"{etag}.png").read_bytes())
        image = np.frombuffer(pixels, np.uint8).reshape(1, size, size, 3)
        return Predictor(card, weights, batch_size=1).predict(image).heads["bookmark"].probs[0]

    def start(self, model: str, *words: str) -> Job:
        places = ("--catalog", str(self.root / "catalog"), "--model", self.models[model])
        sizes = ("--part-rows", str(PART_ROWS), "--batch-size", "8")
        return self.ray.start("score", *places, "--out", self.out, *sizes, *words)

    def killed(self, model: str, *words: str, at_rows: int) -> None:
        """A run that is killed once it has staged so many rows."""
        before, number = self.staged(model), live_number(Folder(self.out))
        job = self.start(model, *words)
        job.until(lambda: self.staged(model) >= before + at_rows)
        job.kill()
        assert live_number(Folder(self.out)) == number

    def version(self, model: str) -> str:
        return str(json.loads((Path(self.models[model]) / "model.json").read_text())["model_version"])

    def staged(self, model: str) -> int:
        version = self.version(model)
        receipts = [r for r in staged_receipts(Folder(self.out)) if r.origin.model_version == version]
        return sum(receipt.rows for receipt in receipts)

    def statuses(self) -> dict[str, int]:
        verify(VerifyConfig(scores=self.out, catalog=str(self.root / "catalog")))
        counts = read_scores(self.out).to_table(columns=["status"])["status"].value_counts()
        return {entry["values"]: entry["counts"] for entry in counts.to_pylist()}


def test_three_nights_two_models_and_kills_in_between(ray: Ray, tmp_path: Path) -> None:
    team = Team(ray, tmp_path)
    first = {i: f"a{i}" for i in range(60)}
    team.catalog(first)
    team.start("old").done()
    assert team.statuses() == {"ok": 60}

    team.killed("new", "--stage-only", "--first", "bookmarks DESC", at_rows=PART_ROWS)
    before = team.staged("new")
    second = {**first, **{i: f"b{i}" for i in range(5)}, **{i: f"a{i}" for i in range(60, 70)}}
    team.catalog(second)
    nightly = team.start("old", "--where", "bookmarks > 50")
    beside = team.start("new", "--stage-only", "--budget", "30s")
    done, staged = nightly.done(), beside.done()
    assert (done["scored"], done["pending"], done["model_version"]) == (6, 6, team.version("old"))
    assert team.statuses() == {"ok": 64, "pending": 6}
    assert (staged["snapshot"], staged["staged"] + staged["left"]) == (None, 70)
    assert staged["resumed"] >= before - 5, "S3"
    vacuum(VacuumConfig(scores=team.out, keep=1))
    refused = team.start("new", "--until", "06:00")
    assert refused.wait() == 2
    assert "--stage-only" in refused.log

    third = {**second, **{i: f"c{i}" for i in range(70, 100)}}
    team.catalog(third)
    team.killed("new", at_rows=PART_ROWS // 2)
    assert live(team.out).manifest["model_version"] == team.version("old")
    switch = team.start("new").done()
    assert switch["resumed"] >= staged["staged"]
    assert (team.statuses(), live(team.out).manifest["model_version"]) == ({"ok": 100}, team.version("new"))
    rows = read_scores(team.out).to_table(columns=["illust_id", "fingerprint", "bookmark_probs"])
    assert {row["illust_id"]: row["fingerprint"] for row in rows.to_pylist()} == {
        key: f"etag:{etag}" for key, etag in third.items()
    }
    for row in rows.to_pylist()[::9]:
        answer = team.answer("new", third[row["illust_id"]])
        np.testing.assert_allclose(row["bookmark_probs"], answer, atol=1e-5)
