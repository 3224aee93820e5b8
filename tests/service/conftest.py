"""One Ray Serve for the quick tests of this folder, with the session's model and scores on it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from pix2score.serve.model import Model
from pix2score.service.config import AppConfig
from tests.support.chain import Chain
from tests.support.services import client, deploy, ray_serve


@pytest.fixture(scope="package")
def serving(ray_session: None) -> Iterator[str]:
    """Where Ray Serve is."""
    with ray_serve() as url:
        yield url


@pytest.fixture(scope="package")
def service(serving: str, chain: Chain) -> Iterator[httpx.Client]:
    """A client of the service of the chain's model and scores."""
    deploy(AppConfig(model=chain.model, scores=chain.scores, max_images=8, max_body_mb=8))
    with client(serving) as found:
        yield found


@pytest.fixture(scope="package")
def model(chain: Chain) -> Iterator[Model]:
    """The chain's model, called without a service."""
    loaded = Model.load(chain.model)
    yield loaded
    loaded.close()
