"""A service of a model that has a head of every kind, and pictures to ask it about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2score.model.folder import save_model
from pix2score.model.graph import graph_or_none
from pix2score.model.network import weights_of
from pix2score.neighbours.similar import Neighbours
from pix2score.serve.model import Answer, Model
from tests.neighbours.made import night
from tests.support.builders import Key
from tests.support.every_head import FITTED
from tests.support.page_server import PageServer
from tests.support.torch_helpers import NARROW, PREPROCESS, pixels, settled_model

NUM = 15


@dataclass(frozen=True)
class World:
    """A model and what it scored: pictures in the order of their keys, and some that nobody scored."""

    model: Model
    scores: str
    pictures: dict[Key, Path]
    others: list[Path]
    broken: Path

    def serve(self, port: int = 0) -> PageServer:
        """The service on a port, by default a free one."""
        pictures = {key: str(path) for key, path in self.pictures.items()}
        return PageServer(self.model, Neighbours(self.scores), pictures, port)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("service")
    model = Model.load(_saved(root / "model"))
    paths = [root / f"{i}.png" for i in range(NUM)]
    for path, image in zip(paths, pixels(NUM, size=96), strict=True):
        Image.fromarray(image).save(path)
    pictures = {(100 + i, i % 2): path for i, path in enumerate(paths[:-3])}
    answers = [answer for answer in model.predict([*pictures.values()]) if isinstance(answer, Answer)]
    vectors = dict(zip(pictures, (a.embedding.astype(np.float16) for a in answers), strict=True))
    night(str(root / "scores"), {"run-1": vectors}, trunk=model.card.trunk_version)
    broken = root / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:200])
    yield World(model, str(root / "scores"), pictures, paths[-3:], broken)
    model.close()


def _saved(place: Path) -> str:
    heads = tuple(FITTED.values())
    model = settled_model(heads)
    save_model(
        str(place),
        weights_of(model),
        backbone=NARROW,
        heads=heads,
        preprocess=PREPROCESS,
        embedding_dim=model.embedding_dim,
        temperatures={},
        about={},
        graph=graph_or_none,
    )
    return str(place)


@pytest.fixture(scope="session")
def url(world: World) -> Iterator[str]:
    """The address of the service."""
    server = world.serve()
    yield server.url
    server.stop()
