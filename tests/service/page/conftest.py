"""The service of a model that has a head of every kind, what it scored, and pictures to ask it about."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pix2score.images.preprocess import Preprocess
from pix2score.model.folder import save_model
from pix2score.model.graph import graph_or_none
from pix2score.model.network import weights_of
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.serve.model import Model
from pix2score.service.config import AppConfig
from tests.support.builders import Key
from tests.support.every_head import FITTED
from tests.support.services import client, deploy
from tests.support.torch_helpers import pixels, settled_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.service.page.browser import Seen

NUM_SCORED, NUM_OTHERS = 12, 3
BACKBONE = "test_resnet"  # timm's own, so that a replica knows it; a step of it costs milliseconds


@dataclass(frozen=True)
class World:
    """A model and what it scored: pictures by their keys, some that nobody scored, and one without its
    end."""

    place: str
    model: Model
    scores: str
    pictures: dict[Key, Path]
    others: list[Path]
    broken: Path


@pytest.fixture(scope="package")
def world(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("page")
    place, catalog, scores = str(root / "model"), root / "catalog", str(root / "scores")
    catalog.mkdir()
    paths = [catalog / f"{i}.png" for i in range(NUM_SCORED + NUM_OTHERS)]
    for path, image in zip(paths, pixels(len(paths), size=96), strict=True):
        Image.fromarray(image).save(path)
    pictures: dict[Key, Path] = {(100 + i, i % 2): path for i, path in enumerate(paths[:NUM_SCORED])}
    ids, pages = map(list, zip(*pictures, strict=True))
    uris = [path.name for path in pictures.values()]
    pq.write_table(
        pa.table({"illust_id": ids, "page": pages, "uri": uris, "etag": uris}), catalog / "c.parquet"
    )
    _save(place)
    score(ScoreConfig(catalog=str(catalog), model=place, out=scores))
    broken = root / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:200])
    model = Model.load(place)
    yield World(place, model, scores, pictures, paths[NUM_SCORED:], broken)
    model.close()


def _save(place: str) -> None:
    heads = tuple(FITTED.values())
    model = settled_model(heads, backbone=BACKBONE)  # type: ignore[arg-type]
    save_model(
        place,
        weights_of(model),
        backbone=BACKBONE,
        heads=heads,
        preprocess=Preprocess(size=64),
        embedding_dim=model.embedding_dim,
        temperatures={},
        about={},
        graph=graph_or_none,
    )


@pytest.fixture(scope="package")
def url(serving: str, world: World) -> str:
    """The address of the page: below a prefix, as one of several services has it."""
    deploy(AppConfig(model=world.place, scores=world.scores), "page", "/page")
    with client(f"{serving}/page") as service:
        deadline = time.monotonic() + 60
        while not service.get("/model").json()["similar"]["pictures"]:
            assert time.monotonic() < deadline, "the pictures of the catalog are not found"
            time.sleep(0.1)
    return f"{serving}/page/"


@pytest.fixture(scope="package")
def browser(url: str) -> Iterator[Browser]:
    """One Chromium for all tests, after the service: the loop that playwright runs would be in its way."""
    from playwright.sync_api import sync_playwright

    from tests.service.page.browser import launched

    with sync_playwright() as playwright:
        found = launched(playwright)
        yield found
        found.close()


@pytest.fixture
def seen(browser: Browser, url: str) -> Iterator[Seen]:
    """The page on a desk, in a window of its own."""
    from tests.service.page.browser import opened

    with opened(browser, url) as found:
        yield found
