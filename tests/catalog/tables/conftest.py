"""Tables are the same on a disk and in every store: what takes ``place`` runs on all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import place_of

OTHERS = [pytest.param(store, marks=pytest.mark.slow) for store in ("gs", "az")]


@pytest.fixture(params=["local", "s3", *OTHERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty place of each kind."""
    return place_of(request, tmp_path)
