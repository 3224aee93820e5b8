"""Vacuum beside a run: what the run can still publish stays; a run that is over does not stand in the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import pix2score
from pix2score.errors import AccessError, DataError
from pix2score.nightly.publish import Publication
from pix2score.snapshots.config import VacuumConfig, VerifyConfig
from pix2score.snapshots.leases import EXPIRES_S, Holder, Lease, read_leases, this_process
from pix2score.snapshots.manifest import live, live_number, publish
from pix2score.snapshots.pieces import staged_receipts
from pix2score.snapshots.vacuum import vacuum
from pix2score.snapshots.verify import verify
from pix2score.storage.folder import Folder
from tests.support.flaky_proxy import Faults, start
from tests.support.nights import M1, Between, World, check, keys
from tests.support.paths import ROOT

TAKE_DOWN = {"keep": 1, "keep_staged": "0s"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def age(world: World, top: str, days: float) -> None:
    """Everything below ``top`` was last written so many days ago."""
    moment = time.time() - days * 86_400
    for entry in world.folder.entries(top):
        os.utime(world.folder.full(f"{top}/{entry.path.removeprefix(f'{top}/')}"), (moment, moment))


def begun(world: World, content: dict[Any, str]) -> Publication:
    """A run that has staged all its pieces."""
    plan, publication = world.plan(content)
    return replace(publication, receipts=world.stage(plan, publication))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> World:
    """After a night, and one that was killed with one of its two pieces."""
    world = World(str(tmp_path_factory.mktemp("world")))
    world.night(keys(100))
    world.night(keys(100, 1, 2, 3, 4, 5, 6), killed_after=1)
    return world


@pytest.mark.parametrize("options", [{}, TAKE_DOWN])
@pytest.mark.parametrize("moment", ["before", "between"])
def test_vacuum_beside_a_run_takes_nothing_that_the_run_publishes(
    staged: World, tmp_path: Path, options: dict[str, Any], moment: str
) -> None:
    world, content = staged.copied_to(str(tmp_path / "world")), keys(100, 1, 2, 3, 4, 5, 6)
    age(world, "staged", 8)
    age(world, "embeddings", 8)
    run = begun(world, content)
    assert run.plan.counts.resumed == 3
    sweep = lambda: vacuum(VacuumConfig(scores=world.scores, **options))  # noqa: E731
    if moment == "before":
        sweep()
    world.publish(run, Between(sweep if moment == "between" else lambda: None))
    check(world, content, M1)
    vacuum(VacuumConfig(scores=world.scores, **TAKE_DOWN))
    check(world, content, M1)


def test_a_run_that_is_over_holds_nothing(world: World) -> None:
    world.night(keys(1, 2, 3))
    world.night(keys(1, 2, 3, 4))
    assert world.folder.entries("leases") == []
    world.night(keys(1, 2, 3, 4, 5), killed_after=1)
    assert vacuum(VacuumConfig(scores=world.scores, **TAKE_DOWN))["files_removed"] > 0
    assert staged_receipts(world.folder) == []


def test_a_plan_that_has_nothing_to_do_or_is_refused_leaves_no_lease(world: World) -> None:
    world.night(keys(1, 2, 3))
    world.plan(keys(1, 2, 3))
    with pytest.raises(pix2score.errors.LimitError):
        world.plan(keys(1), max_removed=0.1)
    assert world.folder.entries("leases") == []


def test_a_lease_expires_by_the_clock_of_the_storage(world: World) -> None:
    world.night(keys(1, 2, 3))
    begun(world, keys(1, 2, 3, 4))
    lease = world.folder.full("leases/run-002.json")
    for age_s, is_held in ((EXPIRES_S - 60, True), (EXPIRES_S + 60, False)):
        os.utime(lease, (time.time() - age_s,) * 2)
        assert (read_leases(world.folder).runs == {"run-002"}) is is_held
    vacuum(VacuumConfig(scores=world.scores, **TAKE_DOWN))
    assert (staged_receipts(world.folder), world.folder.entries("leases")) == ([], [])


def test_a_run_whose_process_was_killed_on_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pix2score.snapshots.leases import Lease; from pix2score.storage.folder "
        "import Folder\n"
        "Lease(Folder(sys.argv[1]), 'run-9').take(); print('taken', flush=True); time.sleep(600)"
    )
    folder = Folder(str(tmp_path / "scores"))
    process = subprocess.Popen([sys.executable, "-c", code, folder.uri], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == b"taken\n"
    assert read_leases(folder).runs == {"run-9"}
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_leases(folder).over == ("leases/run-9.json",)


def test_of_a_process_elsewhere_nothing_is_known_but_its_lease(world: World) -> None:
    other = Holder("another machine", 1, "1")
    Lease(world.folder, "run-7", other).take()
    assert not other.is_gone and not this_process().is_gone
    assert json.loads(world.folder.read("leases/run-7.json"))["holder"] == asdict(other)
    assert read_leases(world.folder).runs == {"run-7"}


def test_taking_a_piece_up_makes_it_young_again(staged: World, tmp_path: Path) -> None:
    world, content = staged.copied_to(str(tmp_path / "world")), keys(1, 2, 3, 4, 5, 6)
    age(world, "staged", 8)
    age(world, "embeddings", 8)
    world.night({**content, **keys(100)}, killed_after=0)  # takes it up, and dies
    vacuum(VacuumConfig(scores=world.scores))
    assert [receipt.origin.run for receipt in staged_receipts(world.folder)] == ["run-002"]
    world.night({**content, **keys(100)})
    assert len(world.scored) == 3


def test_a_compaction_beside_a_run_does_not_make_it_begin_again(world: World) -> None:
    content = keys(*range(9))
    world.night(content)
    world.night({**content, **{(i, 0): "other" for i in range(8)}})  # most of the first run is dead
    content = {**content, **{(i, 0): "other" for i in range(8)}, (50, 0): "new"}
    run = begun(world, content)
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"] == 3
    world.publish(run, Between(lambda: None))
    assert live_number(world.folder) == 4
    check(world, content, M1)


def test_a_killed_full_run_is_resumed_after_a_compaction(world: World) -> None:
    world.night(keys(*range(9)))
    content = {**keys(8), **{(i, 0): "other" for i in range(8)}}
    world.night(content)
    world.night(content, full=True, killed_after=2)
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"] == 3
    world.night(content, full=True)
    assert len(world.scored) == 3
    check(world, content, M1)


def test_a_run_that_was_overtaken_twice_never_publishes_under_a_number_that_vacuum_removed(
    any_world: World,
) -> None:
    any_world.night(keys(1, 2, 3))
    run = begun(any_world, keys(1, 2, 3, 4))

    def meanwhile() -> None:
        any_world.night(keys(1, 2, 3, 5))
        any_world.night(keys(1, 2, 3, 5, 6))
        assert vacuum(VacuumConfig(scores=any_world.scores, keep=1))["snapshots_removed"] == 2

    with pytest.raises(pix2score.errors.ConflictError, match="snapshot 3 "):
        any_world.publish(run, Between(meanwhile))
    assert sorted(any_world.rows()) == sorted(keys(1, 2, 3, 5, 6))
    with pytest.raises(pix2score.errors.ConflictError):  # one that did not look in time
        publish(any_world.folder, 1, live(any_world.scores).manifest)
    with pytest.raises(DataError, match="there is no snapshot 2 .*those that there are: 3"):
        pix2score.read_changes(any_world.scores, since=2)


@pytest.fixture
def any_world(place: str) -> World:
    return World(place)


@pytest.mark.parametrize("read", ["scores", "embeddings", "changes"])
def test_a_reader_of_a_snapshot_that_vacuum_removes_is_told_so_in_one_line(
    any_world: World, read: str
) -> None:
    any_world.night(keys(1, 2, 3))
    reader: Any = {
        "scores": lambda: pix2score.read_scores(any_world.scores).scanner(),
        "embeddings": lambda: pix2score.read_embeddings(any_world.scores).scanner(),
        "changes": lambda: pix2score.read_changes(any_world.scores, since=0),
    }[read]()
    any_world.night({(1, 0): "a", (2, 0): "b", (3, 0): "c"})
    vacuum(VacuumConfig(scores=any_world.scores, **TAKE_DOWN))
    with pytest.raises(DataError, match=r"a file of snapshot 1 .* is missing.*jobs\.vacuum.*live is 2"):
        reader.read_all() if read == "changes" else reader.to_table()


def test_a_snapshot_can_be_read_by_its_number(any_world: World) -> None:
    any_world.night(keys(1, 2, 3))
    any_world.night(keys(1, 2))
    assert pix2score.read_scores(any_world.scores, snapshot=1).count_rows() == 3
    assert pix2score.read_embeddings(any_world.scores, snapshot=1).count_rows() == 3
    assert pix2score.read_embeddings(any_world.scores).count_rows() == 2


@pytest.mark.slow
def test_a_refused_deletion_is_told_and_the_next_night_is_well(
    moto_server: str, s3_place: str, tmp_path: Path, monkeypatch: Any
) -> None:
    process, store = start(moto_server, tmp_path / "control.json")
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        world = World(s3_place)
        _fresh_connections()
        for night in range(3):
            world.night({**keys(1, 2, 3, 4), (night, 0): f"night {night}"})
        store.behave(Faults(undeletable=True))
        with pytest.raises(
            AccessError, match=r"[1-9]\d* or more of \d+ objects were not removed: AccessDenied"
        ):
            vacuum(VacuumConfig(scores=world.scores, **TAKE_DOWN))
        store.behave()
        verify(VerifyConfig(scores=world.scores))
        content = {**keys(1, 2, 3, 4), (9, 0): "new"}
        world.night(content)
        check(world, content, M1)
    finally:
        process.terminate()
        process.wait(timeout=10)
        _fresh_connections()


def _fresh_connections() -> None:
    import s3fs

    from pix2score.storage import places

    places._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


def test_what_a_killed_writer_left_unfinished_is_removed_when_it_is_old(world: World) -> None:
    world.night(keys(1, 2, 3))
    for name, age_s in (("old", 7200), ("young", 60)):
        path = Path(world.folder.full(f"embeddings/run-9/.tmp-{name}"))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)
    assert vacuum(VacuumConfig(scores=world.scores, **TAKE_DOWN))["files_removed"] == 1
    assert [entry.path for entry in world.folder.entries("embeddings/run-9", temporary=True)] == [
        "embeddings/run-9/.tmp-young"
    ]
