"""Tables that a push writes to, read by the libraries of those who keep them; what must be in them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from pix2score.push.config import PushConfig
from pix2score.push.job import push
from pix2score.snapshots.manifest import live_number
from pix2score.snapshots.read import read_embeddings, read_scores
from pix2score.storage.rust_options import storage_options
from pix2score.summaries import PushSummary
from tests.support.builders import Key
from tests.support.nights import World
from tests.support.paths import ROOT
from tests.support.postgres import Server

Row = dict[str, Any]
KINDS = ("postgres", "lancedb", "delta", "lancedb-s3", "delta-s3")
_NOT_SENT = ("status", "error_code", "error_detail", "attempts", "fingerprint", "embedding_run")


def kinds(*usual: str) -> list[Any]:
    """Parameters of the fixture ``table``: every kind, slow if it is none of the usual ones."""
    return [pytest.param(kind, marks=[] if kind in usual else pytest.mark.slow) for kind in KINDS]


def on(kind: str) -> pytest.MarkDecorator:
    """Of a claim about the job, which is that of any table: by default it is shown on one kind."""
    return pytest.mark.parametrize("table", kinds(kind), indirect=True)


class Table(Protocol):
    """One table, and where it is."""

    to: str
    name: str

    def rows(self) -> list[Row]:
        """All of it."""

    def position(self) -> Row:
        """Where the last push is."""

    def drop(self) -> None:
        """As somebody else might."""


@dataclass
class Postgres:
    """A database of a server."""

    server: Server
    name: str = "scores"
    database: str = field(default_factory=lambda: f"db{uuid.uuid4().hex[:8]}")
    encoding: str = "UTF8"

    def __post_init__(self) -> None:
        words = f"ENCODING {self.encoding} TEMPLATE template0 LOCALE 'C'" if self.encoding != "UTF8" else ""
        self.server.sql(f"CREATE DATABASE {self.database} {words}")
        self.to = self.server.url.replace("/postgres?", f"/{self.database}?")

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        url = f"{self.server.url.replace('/postgres?', f'/{self.database}?')}&client_encoding=utf8"
        return self.server.sql(statement, *values, url=url)

    def as_role(self, *grants: str, options: str = "") -> Postgres:
        """The same table for a new role, that has what ``grants`` give to ROLE."""
        role, other = f"role_{uuid.uuid4().hex[:8]}", copy.copy(self)
        self.server.sql(f"CREATE ROLE {role} LOGIN {options}")
        for grant in grants:
            self.sql(grant.replace("ROLE", role))
        other.to = self.to.replace("owner@", f"{role}@")
        return other

    def rows(self) -> list[Row]:
        found = self.sql(f"SELECT to_jsonb(t) - 'scored_at', scored_at, embedding::real[] FROM {self.name} t")
        return [{**row, "scored_at": at, "embedding": vector} for row, at, vector in found]

    def position(self) -> Row:
        found: Row = json.loads(self.sql("SELECT position FROM pix2score_push")[0][0])
        return found

    def drop(self) -> None:
        self.sql(f"DROP TABLE {self.name}")


@dataclass
class Lance:
    """A LanceDB folder."""

    place: str
    name: str = "scores"

    def __post_init__(self) -> None:
        self.to = f"lancedb:{self.place}"

    def opened(self, name: str) -> Any:
        import lancedb

        options = storage_options(self.place) or None
        return lancedb.connect(self.place, storage_options=options).open_table(name)

    def rows(self) -> list[Row]:
        return list(self.opened(self.name).to_arrow().to_pylist())

    def position(self) -> Row:
        found: Row = json.loads(self.opened("pix2score_push").to_arrow().column("position")[0].as_py())
        return found

    def drop(self) -> None:
        import lancedb

        options = storage_options(self.place) or None
        lancedb.connect(self.place, storage_options=options).drop_table(self.name)


@dataclass
class Delta:
    """A Delta table."""

    place: str
    name: str = "scores"

    def __post_init__(self) -> None:
        self.to = f"delta:{self.place}"

    def opened(self) -> Any:
        from deltalake import DeltaTable

        return DeltaTable(self.place, storage_options=storage_options(self.place) or None)

    def rows(self) -> list[Row]:
        return list(self.opened().to_pyarrow_table().to_pylist())

    def position(self) -> Row:
        found: Row = json.loads(next(c["pix2score"] for c in self.opened().history() if "pix2score" in c))
        return found

    def drop(self) -> None:
        import shutil

        shutil.rmtree(self.place)


def pushed(world: World, table: Table, /, **options: Any) -> PushSummary:
    """What a push to the table says; two rows at a time, unless told otherwise."""
    return push(PushConfig(scores=world.scores, to=table.to, **{"batch_rows": 2, **options}))


def live_rows(scores: str) -> dict[Key, Row]:
    """What a table has to hold: rows with an answer and their embeddings, by the readers that all have."""
    vectors = {
        (row["illust_id"], row["page"], row["run"]): row["embedding"]
        for row in read_embeddings(scores).to_table().to_pylist()
    }
    found = {}
    for row in read_scores(scores).to_table().to_pylist():
        if row["status"] == "ok":
            key = (row["illust_id"], row["page"])
            kept = {name: value for name, value in row.items() if name not in _NOT_SENT}
            found[key] = kept | {"embedding": [float(x) for x in vectors[(*key, row["embedding_run"])]]}
    return found


def check(world: World, table: Table, model: str | None = None) -> None:
    """Every live row is in the table as it is, once, and nothing else is."""
    rows, expected = table.rows(), live_rows(world.scores)
    keys = [(row["illust_id"], row["page"]) for row in rows]
    assert sorted(keys) == sorted(expected)
    for key, row in zip(keys, rows, strict=True):
        came, version = row.pop("snapshot"), row.pop("model_version")
        assert 1 <= came <= table.position()["snapshot"]
        assert model is None or version == model
        assert row == expected[key], key
    position = table.position()
    assert (position["done"], position["snapshot"]) == (True, live_number(world.folder))


def command(world: World, table: Table, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "jobs.push", "--scores", world.scores, "--to", table.to, *words),
    ]


def started(world: World, table: Table, *words: str) -> subprocess.Popen[str]:
    """A push in a process of its own, as an operator starts it."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.Popen(
        command(world, table, *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def begins(process: subprocess.Popen[str]) -> bool:
    """Wait until it has made its table and begins to send rows; False if it ends with nothing to do."""
    assert process.stderr
    return any("rows to send" in line for line in process.stderr)


def begun(process: subprocess.Popen[str]) -> None:
    """As ``begins``, of a push that has something to do."""
    assert begins(process), f"it ended before: {process.wait()}"
