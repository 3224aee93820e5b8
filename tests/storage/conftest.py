"""Storage is the same on a disk and in every store: what takes ``place`` runs on all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import stores
from tests.support.stores import AzureServer, GoogleServer


@pytest.fixture(scope="session")
def google_server() -> Iterator[GoogleServer]:
    """A Google Cloud Storage; the variable of its emulators points to it."""
    with stores.google() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """An Azure Blob; the standard connection string points to it."""
    with stores.azure(tmp_path_factory.mktemp("azurite")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", server.connection_string)
        yield server


@pytest.fixture
def gs_place(google_server: GoogleServer) -> str:
    """A fresh, empty gs://bucket/prefix."""
    return stores.new_place("gs")


@pytest.fixture
def az_place(azure_server: AzureServer) -> str:
    """A fresh, empty az://container/prefix."""
    return stores.new_place("az")


@pytest.fixture(params=["local", "s3", "gs", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty place of each kind."""
    if request.param == "local":
        return str(tmp_path / "place")
    return str(request.getfixturevalue(f"{request.param}_place"))
