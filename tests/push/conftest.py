"""Real targets: a Postgres server with pgvector, LanceDB folders and Delta tables, on disk and in stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.push.tables import Delta, Lance, Postgres, Table, kinds
from tests.support.nights import World
from tests.support.postgres import Server, postgres_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A Postgres server for all tests."""
    with postgres_server(free_port()) as found:
        yield found


@pytest.fixture
def postgres(server: Server) -> Postgres:
    """A table that is not there yet, in a database of its own."""
    return Postgres(server)


@pytest.fixture(params=kinds("postgres", "lancedb", "delta"))
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    """A table of either kind that is not there yet."""
    kind, _, store = request.param.partition("-")
    if kind == "postgres":
        return Postgres(request.getfixturevalue("server"))
    place = str(request.getfixturevalue(f"{store}_place")) if store else str(tmp_path / "target")
    return Lance(place) if kind == "lancedb" else Delta(place)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A scores folder without a night."""
    return World(str(tmp_path / "world"))
