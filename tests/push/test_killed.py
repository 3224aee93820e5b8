"""A push that is killed, stopped or overtaken: nothing is lost, invented or left over."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from pix2score.errors import ConflictError, TargetError
from pix2score.push.config import PushConfig
from pix2score.push.lancedb_table import LanceTable
from pix2score.push.rows import Chunk, sent_schema
from pix2score.push.targets import open_target
from pix2score.snapshots.config import VacuumConfig
from pix2score.snapshots.manifest import live, live_number, numbers
from pix2score.snapshots.vacuum import vacuum
from pix2score.summaries import PushSummary
from tests.push.tables import Postgres, Table, begins, begun, check, on, pushed, started
from tests.support.nights import M2, World, keys
from tests.support.postgres import PASSWORD, Server

MANY = keys(*range(60))
ONE_BY_ONE = ("--batch-rows", "1")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A scores folder without a night; nights of few files."""
    return World(str(tmp_path / "world"), piece_rows=30)


def rest(world: World, table: Table) -> PushSummary:
    """What a push says of which it does not matter in how many batches it goes."""
    return pushed(world, table, batch_rows=30)


def killed(world: World, table: Table, after_s: float, *words: str) -> bool:
    """A push killed so long after it begins to send; False if it had ended by itself."""
    process = started(world, table, *ONE_BY_ONE, *words)
    if not begins(process):
        assert process.wait() == 0
        return False
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert process.returncode == 0
    process.communicate()
    return False


def stop_behind(number: int, process: subprocess.Popen[str], table: Table) -> None:
    """Stop a push of ``MANY`` when it has written that key, and holds no lock of Postgres."""
    begun(process)
    busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pix2score' AND state <> 'idle'"
    while True:
        process.send_signal(signal.SIGSTOP)
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.03)  # the server goes on with what it was asked
        position = table.position()
        is_idle = (
            not isinstance(table, Postgres) or not table.sql(f"{busy} AND datname = '{table.database}'")[0][0]
        )
        if not position["done"] and (position["after"] or (0, 0))[0] >= number and is_idle:
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def seconds_of(world: World, table: Table) -> float:
    """Of a push of all rows, one by one, from when it begins to send."""
    process = started(world, table, *ONE_BY_ONE, "--full")
    begun(process)
    start = time.monotonic()
    assert process.wait(timeout=120) == 0
    process.communicate()
    return time.monotonic() - start


def changed(world: World, night: int) -> None:
    """Another night: some keys come, go, fail and change."""
    ids = [i for i in range(70) if (i + night) % 5]
    content = {(i, 0): f"v{i}" if (i + night) % 3 else f"w{night}" for i in ids}
    world.night(content | {(ids[3], 0): f"CORRUPT {night}"})


def test_a_push_that_is_killed_goes_on_behind_the_last_batch(world: World, table: Table) -> None:
    world.night(MANY)
    process = started(world, table, *ONE_BY_ONE)
    stop_behind(10, process, table)
    process.kill()
    process.communicate()
    position, rows = table.position(), table.rows()
    assert position["after"][0] + 1 <= len(rows) <= position["after"][0] + 2, "at most a batch ahead of it"
    told = rest(world, table)
    assert told["resumed"] is True
    assert told["upserted"] == 59 - position["after"][0]
    check(world, table)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_many_moments_the_table_becomes_the_live_snapshot(world: World, table: Table) -> None:
    world.night(MANY)
    whole_s, draw = seconds_of(world, table), random.Random(7)
    num_killed = 0
    for night in range(1, 5):
        changed(world, night)
        for _ in range(3):
            num_killed += killed(world, table, draw.uniform(0, 0.3 * whole_s))
        if night % 2:
            rest(world, table)
            check(world, table)
        else:  # a first, whole push of another table, killed, and then overtaken by the next night
            num_killed += killed(world, table, draw.uniform(0, whole_s / 2), "--full")
    rest(world, table)
    check(world, table)
    assert num_killed >= 5


@on("lancedb")
def test_a_push_that_was_killed_before_another_night(world: World, table: Table) -> None:
    world.night(MANY)
    rest(world, table)
    world.night({key: "other" for key in MANY if key[0] > 5})
    _killed_in_the_middle(world, table)
    world.night({key: "third" if key[0] % 2 else "other" for key in MANY if key[0] > 8}, M2)
    told = rest(world, table)
    assert (told["resumed"], told["whole"], told["snapshot"]) == (True, False, 3)
    check(world, table, M2)


@on("postgres")
def test_a_push_that_was_killed_and_whose_snapshots_are_gone(world: World, table: Table) -> None:
    world.night(MANY)
    rest(world, table)
    world.night({key: "other" for key in MANY if key[0] > 5})
    _killed_in_the_middle(world, table)
    for entry in world.folder.entries("leases"):
        world.folder.delete([entry.path])  # as if they had expired
    world.night({key: "third" for key in MANY if key[0] > 8})
    vacuum(VacuumConfig(scores=world.scores, keep=1, keep_staged="0s"))
    assert numbers(world.folder)[0] > 2
    assert rest(world, table)["whole"] is True
    check(world, table)


def _killed_in_the_middle(world: World, table: Table) -> None:
    process = started(world, table, *ONE_BY_ONE)
    stop_behind(15, process, table)
    process.kill()
    process.communicate()


@on("postgres")
def test_vacuum_leaves_the_snapshot_that_is_being_pushed(world: World, table: Table) -> None:
    world.night(MANY)
    process = started(world, table, *ONE_BY_ONE)
    begun(process)
    process.send_signal(signal.SIGSTOP)
    for version in ("other", "third"):
        world.night({key: version for key in MANY if key[0] > 5})
    vacuum(VacuumConfig(scores=world.scores, keep=1, keep_staged="0s"))
    assert 1 in numbers(world.folder)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=120) == 0, process.communicate()
    told = json.loads(process.communicate()[0].splitlines()[-1])
    assert told["snapshot"] == live_number(world.folder) > 1
    check(world, table)
    assert not world.folder.entries("leases")
    vacuum(VacuumConfig(scores=world.scores, keep=1, keep_staged="0s"))
    assert 1 not in numbers(world.folder)


@on("postgres")
def test_of_two_pushes_to_one_table_one_ends_with_exit_4(world: World, table: Table) -> None:
    world.night(MANY)
    process = started(world, table, *ONE_BY_ONE)
    stop_behind(10, process, table)
    try:
        rest(world, table)
    finally:
        process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert "meanwhile: run again" in err
    check(world, table)


def test_a_server_that_dies_is_named_and_its_position_is_kept(world: World, postgres: Postgres) -> None:
    world.night(MANY)
    process = started(world, postgres, *ONE_BY_ONE)
    stop_behind(10, process, postgres)
    postgres.server.stop(signal.SIGQUIT)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    try:
        assert process.returncode == 1
        (line,) = [line for line in err.splitlines() if line.startswith("jobs.push: ")]
        assert f"/{postgres.database} table scores: " in line
        told = json.loads(out.splitlines()[-1])
        assert (told["error"], told["exit_code"]) == ("TargetError", 1)
        with pytest.raises(TargetError, match="table scores: .*connection to server on socket"):
            rest(world, postgres)
    finally:
        postgres.server.start()
    assert rest(world, postgres)["resumed"] is True
    check(world, postgres)


def test_a_password_is_nowhere(world: World, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    world.night(keys(1, 2))
    table = Postgres(server)
    table.to = server.over_tcp(table.database, password="wrong%2Fsecret")
    process = started(world, table)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "password authentication failed" in err
    assert f"postgresql://owner:***@127.0.0.1:{server.port}/{table.database} table scores" in err
    assert "secret" not in out + err
    table.to = server.over_tcp(table.database, password=PASSWORD.replace("/", "%2F").replace("@", "%40"))
    process = started(world, table)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    table.to = server.over_tcp(table.database)
    again = started(world, table, "--full")
    more = again.communicate(timeout=120)
    assert again.returncode == 0, more
    table.to = table.to.replace("owner", "nobody")
    refused = started(world, table).communicate(timeout=120)
    said = out + err + "".join(more) + "".join(refused)
    said += "".join(world.folder.read(e.path).decode() for e in world.folder.entries("runs"))
    table.to = server.url.replace("/postgres?", f"/{table.database}?")
    said += json.dumps(table.position())
    for secret in ("se/cret", "cret@1", "se%2Fcret"):
        assert secret not in said


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://owner:topsecret@[::1/db",
        "postgresql://owner:topsecret@host:port/db",
        "postgresql://owner@127.0.0.1:1/db?password=topsecret",
        "postgresql://owner:topsecret@127.0.0.1:1/db?nonsense=1",
        "postgresql://owner:tops%zzecret@127.0.0.1:1/db",
        "postgresql://owner:top@secret@nowhere.invalid/db",
        "postgresql://owner:top/secret@127.0.0.1:1/db",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(world: World, server: Server, url: str) -> None:
    world.night(keys(1))
    table = Postgres(server)
    table.to = url
    with pytest.raises(TargetError) as caught:
        rest(world, table)
    assert "ecret" not in str(caught.value)


def test_another_push_in_between_is_a_conflict(world: World, table: Table) -> None:
    world.night(MANY)
    rest(world, table)
    with closing(open_target(PushConfig(scores=world.scores, to=table.to))) as first:
        position, schema = first.position(), sent_schema(world.folder, live(world.scores))
        assert position
        first.prepare(schema, position, recreate=False)
        world.night(keys(1, 2))
        rest(world, table)
        nothing = schema.empty_table()
        chunk = Chunk(nothing, nothing.select(["illust_id", "page"]), None, None, is_whole=True)
        with pytest.raises(ConflictError, match="another push wrote to .* meanwhile: run again"):
            first.write(chunk, position)
        if isinstance(first, LanceTable):  # which has no transaction: the other one came later still
            with pytest.raises(ConflictError, match="another push wrote to .* meanwhile: run again"):
                first._keep(position)
    check(world, table)
