"""Connections to Postgres that are lost, wait or go through a pooler; databases in other encodings."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

import psycopg
import pyarrow as pa
import pytest

from pix2score.errors import ConflictError, TargetError
from pix2score.push import postgres_session
from pix2score.push.config import PushConfig
from pix2score.push.rows import Chunk, sent_schema
from pix2score.push.targets import open_target
from pix2score.snapshots.manifest import live
from tests.push.tables import Postgres, check, pushed
from tests.support.nights import World, keys
from tests.support.pooler import pooler
from tests.support.postgres import PASSWORD, Server

KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'pix2score' AND datname = %s"
)


def test_a_session_that_ends_between_batches_or_in_one_is_made_anew(
    world: World, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    world.night(keys(*range(30)))
    pushed(world, postgres)
    world.night({(i, 0): "other" for i in range(30)})
    with closing(open_target(PushConfig(scores=world.scores, to=postgres.to))) as target:
        position, schema = target.position(), sent_schema(world.folder, live(world.scores))
        assert position
        postgres.sql(KILL, postgres.database)
        target.prepare(schema, position, recreate=False)
        postgres.sql(KILL, postgres.database)
        nothing = schema.empty_table()
        target.write(Chunk(nothing, nothing.select(["illust_id", "page"]), (99, 0), None, True), position)
    assert caplog.text.count("terminating connection due to administrator command: once more") == 2
    postgres.sql(f"ALTER DATABASE {postgres.database} SET idle_session_timeout = 20")
    pushed(world, postgres)
    check(world, postgres)


def test_a_push_that_loses_its_session_again_and_again_loses_nothing(
    world: World, postgres: Postgres
) -> None:
    world.night(keys(*range(40)))
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(0.15):
            postgres.sql(KILL, postgres.database)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for _ in range(20):
            try:
                pushed(world, postgres, batch_rows=1)
                break
            except TargetError as exc:  # twice within one batch
                assert "terminating connection" in str(exc) or "closed" in str(exc)
    finally:
        is_over.set()
        killer.join()
    pushed(world, postgres)
    check(world, postgres)


@contextmanager
def forgetful(server: Server, commit: int) -> Iterator[int]:
    """The port of a way to the server that is cut off when that COMMIT is done, before anybody is told."""
    listener, seen = socket.create_server(("127.0.0.1", 0)), itertools.count(1)

    def forward(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", server.port)) as behind:
            while True:
                for one in select.select([client, behind], [], [])[0]:
                    data = one.recv(2**20)
                    if not data:
                        return
                    (behind if one is client else client).sendall(data)
                    if one is client and data.endswith(b"COMMIT\0") and next(seen) == commit:
                        behind.recv(2**20)  # done
                        return

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=forward, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("commit", [1, 2, 3, 5])
def test_what_was_committed_and_not_confirmed_is_not_taken_for_anothers(
    world: World, postgres: Postgres, commit: int, caplog: pytest.LogCaptureFixture
) -> None:
    world.night(keys(*range(8)))
    with forgetful(postgres.server, commit) as port:
        postgres.to = postgres.server.over_tcp(postgres.database, password=quote(PASSWORD, safe="")).replace(
            f":{postgres.server.port}/", f":{port}/"
        )
        assert pushed(world, postgres)["batches"] == 4
    assert caplog.text.count("once more") == 1
    check(world, postgres)


@contextmanager
def held(postgres: Postgres, statement: str, is_enough: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """A lock that somebody's psql holds, until it is enough, at most to the end of the body."""
    is_over = threading.Event()
    with psycopg.connect(postgres.to, application_name="psql") as other:
        other.execute(statement)

        def release() -> None:
            while not is_over.wait(0.05) and not is_enough():
                pass
            other.rollback()

        thread = threading.Thread(target=release)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


@pytest.mark.parametrize(
    ("statement", "options"), [("LOCK TABLE scores", {}), ("SELECT * FROM scores", {"recreate": True})]
)
def test_who_holds_a_lock_is_told_while_it_is_waited_for(
    world: World,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    statement: str,
    options: dict[str, bool],
) -> None:
    monkeypatch.setattr(postgres_session, "LOCK_TOLD_S", 0.2)
    world.night(keys(1, 2))
    pushed(world, postgres)
    world.night(keys(1, 3))
    said = "waits for locks that others hold: process "
    with held(postgres, statement, lambda: caplog.text.count(said) >= 2):
        pushed(world, postgres, **options)
    check(world, postgres)
    assert "(psql, idle in transaction)" in next(one for one in caplog.messages if said in one)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lock_timeout = 50", "lock timeout: another session holds a lock on the table"),
        ("statement_timeout = 50", "statement timeout: fewer --batch-rows, or a longer statement_timeout"),
    ],
)
def test_a_timeout_of_the_database_is_told_with_what_to_do(
    world: World, postgres: Postgres, setting: str, said: str
) -> None:
    world.night(keys(1, 2))
    pushed(world, postgres)
    world.night(keys(1, 3))
    postgres.sql(f"ALTER DATABASE {postgres.database} SET {setting}")
    with held(postgres, "LOCK TABLE scores"), pytest.raises(TargetError, match=said):
        pushed(world, postgres)


def test_what_is_left_undone_behind_the_last_row_is_no_failure(
    world: World, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    world.night(keys(1, 2))
    pushed(world, postgres)
    world.night(keys(1, 3))
    postgres.sql(f"ALTER DATABASE {postgres.database} SET lock_timeout = 50")
    with held(postgres, "LOCK TABLE scores IN SHARE UPDATE EXCLUSIVE MODE"):  # keeps out ANALYZE alone
        assert pushed(world, postgres)["snapshot"] == 2
    assert "all rows are written, but not all is tidied up behind them" in caplog.text
    check(world, postgres)


ENCODED = {
    "SQL_ASCII": ["a", "é", "日本", "z"],
    "LATIN1": ["a", "é", "ö", "z"],
    "EUC_JP": ["日本", "ё", "я", "а", "Я"],
    "KOI8R": ["z", "ё", "я", "а", "Я"],
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_ids_in_a_database_of_another_encoding(tmp_path: object, server: Server, encoding: str) -> None:
    """Whose order by bytes is another one than that of what is sent."""
    names, world = ENCODED[encoding], World(f"{tmp_path}/夜", id_type=pa.string())
    postgres = Postgres(server, encoding=encoding)
    world.night({(name, 0): "v1" for name in names})
    pushed(world, postgres, batch_rows=1)
    check(world, postgres)
    world.night({(name, 0): "v2" for name in names[1:]})
    pushed(world, postgres, batch_rows=1)
    pushed(world, postgres, batch_rows=1, full=True)
    check(world, postgres)


def test_text_that_an_encoding_does_not_have_is_named(tmp_path: object, server: Server) -> None:
    world, postgres = World(f"{tmp_path}/w", id_type=pa.string()), Postgres(server, encoding="LATIN1")
    world.night({("日本", 0): "v1"})
    with pytest.raises(TargetError, match='has no equivalent in encoding "LATIN1" .* column illust_id'):
        pushed(world, postgres)


def test_an_encoding_of_the_environment_changes_nothing(
    tmp_path: object, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(f"{tmp_path}/w", id_type=pa.string())
    world.night({("日本", 0): "v1"})
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    pushed(world, postgres)
    check(world, postgres)


def test_a_push_through_a_pooler_that_deals_out_transactions(world: World, postgres: Postgres) -> None:
    with pooler(postgres.server) as address:
        direct, through = postgres.to, f"postgresql://owner@{address}/{postgres.database}"
        for content in (keys(*range(20)), {**keys(*range(5, 25)), (7, 0): "other"}):
            world.night(content)
            postgres.to = through
            pushed(world, postgres)
            check(world, postgres)
        pushed(world, postgres, recreate=True)
        postgres.to = direct
    check(world, postgres)


def test_pushes_that_begin_at_once_make_their_tables_once(world: World, postgres: Postgres) -> None:
    """Of each table one push goes through, and the others are told that it was another one."""
    world.night(keys(*range(10)))
    found: list[str] = []

    def begin(table: str) -> None:
        try:
            pushed(world, postgres, table=table)
            found.append(table)
        except ConflictError:
            found.append("conflict")

    threads = [threading.Thread(target=begin, args=(name,)) for name in ("scores", "other") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert {"scores", "other"} <= set(found)
    for name in ("scores", "other"):
        postgres.name = name
        assert pushed(world, postgres, table=name)["batches"] == 0
        assert len(postgres.rows()) == 10
