"""Storage is the same on a disk and in every store: what takes ``place`` runs on all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pix2score.storage import azure, google, places
from tests.conftest import place_of


@pytest.fixture(params=["local", "s3", "gs", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty place of each kind."""
    return place_of(request, tmp_path)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Neither cloud is set up; the filesystems are made anew."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "GOOGLE_", "STORAGE_EMULATOR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    for store in (azure, google):  # no machine of a cloud
        monkeypatch.setattr(store, "METADATA_HOST", "127.0.0.1")
    places._filesystem.cache_clear()
    yield monkeypatch
    places._filesystem.cache_clear()
