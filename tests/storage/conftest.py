"""Storage is the same on a disk and in every store: what takes ``place`` runs on all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import place_of


@pytest.fixture(params=["local", "s3", "gs", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty place of each kind."""
    return place_of(request, tmp_path)
