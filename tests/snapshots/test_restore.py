"""An older snapshot made live again: the same files under a new number, and nights that go on from there."""

from __future__ import annotations

import getpass
import json
import logging
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pix2score
from pix2score.errors import ConfigError, ConflictError, DataError
from pix2score.snapshots.config import PublishConfig, VacuumConfig
from pix2score.snapshots.leases import Lease, read_leases
from pix2score.snapshots.manifest import live, live_number, numbers, publish, read_snapshot, remove_manifests
from pix2score.snapshots.pieces import staged_receipts
from pix2score.snapshots.restore import check_whole, publish_again, publish_snapshot
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.vacuum import still_surplus, vacuum
from pix2score.storage.folder import Entry
from tests.support.builders import LAYOUT, manifest
from tests.support.nights import M1, M2, Between, Content, World, check, keys

NO_AGE = {"keep_staged": "0s"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


@pytest.fixture
def any_world(place: str) -> World:
    return World(place)


def take_back(world: World, number: int, note: str | None = None) -> dict[str, Any]:
    return publish_snapshot(PublishConfig(scores=world.scores, snapshot=number, note=note))


def check_back(world: World, content: Content, model: str = M1) -> None:
    """What ``check`` says, against the catalog of then."""
    world.before = {}
    world.catalog(content)
    check(world, content, model)


def content_of(world: World, number: int) -> dict[str, Any]:
    """Rows and embeddings of a snapshot."""
    return {
        "scores": pix2score.read_scores(world.scores, snapshot=number).to_table().to_pylist(),
        "embeddings": pix2score.read_embeddings(world.scores, snapshot=number).to_table().to_pylist(),
    }


def standing(world: World) -> dict[str, bytes]:
    """What is staged: written again, it is as if the run had been killed before it tidied up."""
    return {entry.path: world.folder.read(entry.path) for entry in world.folder.entries("staged")}


def put_back(world: World, staged: dict[str, bytes]) -> None:
    for path, data in staged.items():
        world.folder.publish(path, data, replace=True)


def killed_tidying_up(world: World, content: Content) -> None:
    """A night that published, and whose pieces are all still there."""
    assert publishes(world, content, M1, "killed tidying up")


def test_an_older_snapshot_is_live_again_with_its_own_files_and_nothing_else_is_written(
    any_world: World,
) -> None:
    any_world.night({**keys(1, 2), (3, 0): "CORRUPT"})
    first = content_of(any_world, 1)
    any_world.night({**keys(2, 3), (2, 0): "other"})
    before = {entry.path: entry.etag for entry in any_world.folder.entries()}
    done = take_back(any_world, 1, "night 2 was of another catalog")
    assert (done["snapshot"], done["restored_from"], done["rows"], done["failed"]) == (3, 1, 3, 1)
    assert content_of(any_world, 3) == first == content_of(any_world, 1)
    after = {entry.path: entry.etag for entry in any_world.folder.entries()}
    new = {path for path in after if path not in before}
    assert {path.split("/")[0] for path in new} == {"snapshots", "runs"}
    assert all(after[path] == tag for path, tag in before.items())
    manifest = live(any_world.scores).manifest
    assert (manifest["parent"], manifest["note"]) == (2, "night 2 was of another catalog")
    assert manifest["published_by"] == f"{getpass.getuser()}@{socket.gethostname()}"
    assert live(any_world.scores).files == read_snapshot(any_world.folder, 1).files
    assert read_leases(any_world.folder).runs == set()


def test_the_night_after_scores_what_differs_from_the_snapshot_taken_back(world: World) -> None:
    world.night(keys(*range(6)))
    world.night({**keys(*range(8)), (0, 0): "other"})
    take_back(world, 1)
    tonight = {**keys(*range(7)), (0, 0): "other"}
    world.night(tonight)
    assert sorted(world.scored) == [(0, 0), (6, 0)]
    check(world, tonight, M1)


def test_the_night_after_scores_all_if_the_snapshot_taken_back_is_of_another_model(world: World) -> None:
    world.night(keys(*range(6)))
    world.night(keys(*range(6)), M2)
    take_back(world, 1)
    check_back(world, keys(*range(6)))
    assert world.night(keys(*range(6)), M1) is None
    world.night(keys(*range(6)), M2)
    assert len(world.scored) == 6
    check(world, keys(*range(6)), M2)


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(str(tmp_path_factory.mktemp("world")))
    world.night(keys(*range(6)))
    world.night(keys(*range(3)), M2)
    return world


@pytest.mark.parametrize(
    ("table", "damage"),
    [("scores", "altered"), ("embeddings", "altered"), ("embeddings", "cut"), ("scores", "gone")],
)
def test_a_snapshot_with_a_damaged_file_is_refused_in_one_line_that_names_it(
    two_nights: World, tmp_path: Path, table: Any, damage: str
) -> None:
    world = two_nights.copied_to(str(tmp_path / "world"))
    file = read_snapshot(world.folder, 1).files_of(table)[0]
    data = bytearray(world.folder.read(file.path))
    data[len(data) // 2] ^= 0xFF
    if damage == "gone":
        world.folder.delete([file.path])
    else:
        world.folder.publish(file.path, bytes(data[:-5] if damage == "cut" else data), replace=True)
    before = world.folder.entries()
    with pytest.raises(DataError, match=rf"snapshot 1 of .*{file.path} (is missing|has|was altered)") as told:
        take_back(world, 1)
    assert "\n" not in str(told.value)
    assert (live_number(world.folder), told.value.exit_code) == (2, 2)
    assert [entry for entry in world.folder.entries() if not entry.path.startswith("runs/")] == before


def test_of_many_damaged_files_some_are_named_and_the_rest_counted(world: World) -> None:
    world.night(keys(*range(30)))
    world.folder.delete([file.path for file in read_snapshot(world.folder, 1).files])
    with pytest.raises(DataError, match=r"is missing and 6 more; nothing was published") as told:
        check_whole(world.folder, read_snapshot(world.folder, 1))
    assert str(told.value).count("is missing") == 5


def test_a_number_that_is_not_there_is_told_with_those_that_are(world: World) -> None:
    for number in range(6):
        publish(world.folder, number, {"run": f"run {number}"})
    remove_manifests(world.folder, [2, 4])
    for number in (2, 7, 44):
        with pytest.raises(DataError, match=f"there is no snapshot {number} in .*: 1, 3, 5-6$"):
            take_back(world, number)
        with pytest.raises(DataError, match=f"there is no snapshot {number} in .*: 1, 3, 5-6$"):
            pix2score.read_embeddings(world.scores, snapshot=number)
    with pytest.raises(ConfigError, match="snapshot 0: at least 1"):
        take_back(world, 0)


def test_what_is_live_already_is_not_published_again(world: World, caplog: Any) -> None:
    world.night(keys(1, 2))
    world.night(keys(1, 2, 3))
    take_back(world, 1)
    before = world.folder.entries()
    with caplog.at_level(logging.INFO):
        assert [take_back(world, number)["snapshot"] for number in (1, 3)] == [3, 3]
    assert "nothing to do: snapshot 3 is live" in caplog.text
    assert world.folder.entries() == before


def test_a_run_at_work_is_overtaken_and_the_next_takes_up_what_it_staged(any_world: World) -> None:
    any_world.night(keys(1, 2, 3))
    any_world.night(keys(1, 2, 3, 4))
    content = keys(*range(1, 9))
    plan, publication = any_world.plan(content)
    run = replace(publication, receipts=any_world.stage(plan, publication))
    with pytest.raises(ConflictError, match="snapshot 3 .*run again") as lost:
        any_world.publish(run, Between(lambda: take_back(any_world, 1)))
    assert lost.value.exit_code == 4
    assert sorted(any_world.rows()) == sorted(keys(1, 2, 3))
    any_world.night(content)
    assert any_world.scored == [(4, 0)]
    check(any_world, content, M1)


def test_a_publication_that_a_night_overtakes_conflicts(world: World) -> None:
    world.night(keys(1))
    before = world.night(keys(1, 2))
    assert isinstance(before, Snapshot)
    world.night(keys(1, 2, 3))
    with pytest.raises(ConflictError, match="snapshot 3 .*run again"):
        publish_again(world.folder, before, read_snapshot(world.folder, 1))
    assert sorted(world.rows()) == sorted(keys(1, 2, 3))


def test_a_publication_goes_on_upon_a_compaction_of_what_was_live(world: World) -> None:
    world.night(keys(*range(9)))
    before = world.night({**keys(*range(9)), **{(i, 0): "other" for i in range(8)}})
    assert isinstance(before, Snapshot)
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"]
    assert publish_again(world.folder, before, read_snapshot(world.folder, 1)).number == 4
    check_back(world, keys(*range(9)))


def test_a_run_planned_before_the_snapshot_was_compacted_is_overtaken_by_those_between(world: World) -> None:
    """It was planned upon the same scores, but what it staged may have been published and taken back."""
    world.night(keys(*range(9)))
    content = {**keys(*range(9)), **{(i, 0): "other" for i in range(8)}}
    world.night(content)
    plan, publication = world.plan({**content, (50, 0): "new"})
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"]
    assert live(world.scores).same_scores == (2,)
    run = replace(publication, receipts=world.stage(plan, publication))
    world.night({**content, (60, 0): "between"})
    take_back(world, 3)
    with pytest.raises(ConflictError, match="snapshot 5 "):
        world.publish(run)
    check_back(world, content)


def test_files_of_an_earlier_schema_stay_of_that_schema(world: World) -> None:
    plain = manifest("run-1", [], LAYOUT, 0, 0)
    publish(world.folder, 0, {**plain, "schema_version": 1, "files": []})
    world.night(keys(1))
    take_back(world, 1)
    assert live(world.scores).manifest["schema_version"] == 1
    world.night(keys(1, 2))
    assert live(world.scores).manifest["schema_version"] > 1
    check(world, keys(1, 2), M1)


# What is staged


def test_a_piece_that_a_snapshot_taken_back_had_consumed_is_taken_up_again_and_counted_once(
    world: World,
) -> None:
    world.night(keys(1, 2, 3))
    content = keys(*range(1, 13))
    world.night(content, killed_after=2)
    staged = standing(world)
    world.night(content)  # takes those two up, scores the rest, and is killed before it tidies up
    put_back(world, staged)
    take_back(world, 1)
    world.night(content)
    assert len(world.scored) == 3
    check(world, content, M1)
    assert staged_receipts(world.folder) == []


def test_a_piece_that_the_snapshot_holds_already_is_not_taken_up_again(world: World) -> None:
    killed_tidying_up(world, keys(*range(1, 7)))
    world.night(keys(*range(1, 3)), M2)
    take_back(world, 1)
    tonight = {**keys(*range(1, 7)), (1, 0): "other"}
    world.night(tonight)
    assert world.scored == [(1, 0)]
    check(world, tonight, M1)
    assert staged_receipts(world.folder) == []
    world.night(keys(*range(1, 7)))  # the content of the old piece, whose embedding is dead by now
    check(world, keys(*range(1, 7)), M1)


CONTENTS = st.dictionaries(
    st.tuples(st.integers(0, 7), st.just(0)), st.sampled_from(["a", "b", "CORRUPT"]), min_size=1, max_size=8
)
NIGHT = st.tuples(
    st.just("night"),
    CONTENTS,
    st.sampled_from([M1, M1, M2]),
    st.sampled_from(["", "killed", "killed tidying up"]),
)
TAKE_BACK = st.tuples(st.just("take back"), st.integers(0, 20))
VACUUM = st.tuples(st.just("vacuum"), st.sampled_from([{}, {"keep": 2, **NO_AGE}, {"keep": 3, **NO_AGE}]))
STEPS = st.lists(st.one_of(NIGHT, NIGHT, TAKE_BACK, VACUUM), min_size=8, max_size=14)


def every_snapshot_taken_back_is_as_it_was(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        world, states = World(place, piece_rows=2), dict[tuple[str, ...], tuple[Content, str]]()
        for what, *how in steps:
            known = numbers(world.folder)
            if what == "night":
                content, model, end = how
                if publishes(world, content, model, end):
                    check(world, content, model)
                    states[tables(world, live_number(world.folder))] = content, model
            elif what == "vacuum" and known:
                vacuum(VacuumConfig(scores=world.scores, **how[0]))
            elif what == "take back" and known[:-1]:
                number = known[how[0] % (len(known) - 1)]
                take_back(world, number)
                check_back(world, *states[tables(world, number)])


def publishes(world: World, content: Content, model: str, end: str) -> bool:
    """Whether a night does, that ends so."""
    plan, publication = world.plan(content, model)
    if not plan.counts.planned and not plan.counts.removed:
        return False
    receipts = world.stage(plan, publication, 1 if end == "killed" else None)
    if end == "killed":
        Lease(world.folder, publication.origin.run).release()
        return False
    staged = standing(world) if end else {}
    world.publish(replace(publication, receipts=receipts))
    put_back(world, staged)
    return True


def tables(world: World, number: int) -> tuple[str, ...]:
    """What tells the scores of a snapshot, of its compactions and of its returns from all others."""
    return tuple(file.path for file in read_snapshot(world.folder, number).files_of("scores"))


UNHURRIED = settings(suppress_health_check=list(HealthCheck))
test_every_snapshot_taken_back_is_as_it_was = settings(UNHURRIED, max_examples=2)(
    given(STEPS)(every_snapshot_taken_back_is_as_it_was)
)
test_snapshots_taken_back_in_many_histories_are_as_they_were = pytest.mark.slow(
    settings(UNHURRIED, max_examples=15)(given(STEPS)(every_snapshot_taken_back_is_as_it_was))
)


def test_keys_removed_before_come_back_as_they_were_after_their_snapshot_is_taken_back(world: World) -> None:
    world.night(keys(*range(6)))
    world.night(keys(*range(4)))  # 4 and 5 are gone, their rows are kept
    world.night(keys(*range(2)))
    take_back(world, 2)
    world.night(keys(*range(6)))
    assert world.scored == []
    check(world, keys(*range(6)), M1)


def test_readers_that_follow_changes_are_told_what_a_take_back_changes(world: World) -> None:
    world.night(keys(1, 2, 3))
    world.night({(1, 0): "other", **keys(2, 4)})
    take_back(world, 1)
    changes = pix2score.read_changes(world.scores, since=2).read_all().to_pylist()
    assert [(row["illust_id"], row["change"]) for row in changes] == [
        (1, "scored"),
        (3, "scored"),
        (4, "removed"),
    ]
    assert pix2score.read_changes(world.scores, since=1).read_all().num_rows == 0


# Vacuum


def test_files_of_a_snapshot_taken_back_stay_though_its_first_number_goes(any_world: World) -> None:
    for night in range(4):
        any_world.night({**keys(1, 2), (3, 0): f"night {night}"})
    content = {**keys(1, 2), (3, 0): "night 0"}
    take_back(any_world, 1)
    assert vacuum(VacuumConfig(scores=any_world.scores, keep=1, **NO_AGE))["snapshots_removed"] == 4
    check_back(any_world, content)
    any_world.night({**content, (4, 0): "new"})
    assert any_world.scored == [(4, 0)]
    check(any_world, {**content, (4, 0): "new"}, M1)


def test_vacuum_keeps_a_snapshot_that_is_being_published_again(world: World) -> None:
    for night in range(3):
        world.night({**keys(1, 2), (3, 0): f"night {night}"})
    lease = Lease(world.folder, "publication", snapshot=1)
    lease.take()
    assert vacuum(VacuumConfig(scores=world.scores, keep=1, **NO_AGE))["snapshots_removed"] == 1
    publish_again(world.folder, live(world.scores), read_snapshot(world.folder, 1))
    lease.release()
    check_back(world, {**keys(1, 2), (3, 0): "night 0"})


@pytest.mark.parametrize("is_done", [False, True])
def test_vacuum_that_began_before_a_publication_removes_none_of_its_files(
    world: World, is_done: bool
) -> None:
    """The publication saw the old manifest just before vacuum removed it: at work still, or done by now."""
    for night in range(3):
        world.night({**keys(1, 2), (3, 0): f"night {night}"})
    old, newest = read_snapshot(world.folder, 1), live(world.scores)
    surplus = [Entry(file.path, file.bytes, "") for file in old.files]
    surplus += [Entry("scores/run-000/part-nobodys.parquet", 1, "")]
    lease = Lease(world.folder, "publication", snapshot=1)
    lease.take()
    if is_done:
        publish_again(world.folder, newest, old)
        lease.release()
    remove_manifests(world.folder, [1, 2])
    left = still_surplus(world.folder, surplus, [1, 2, 3], [1, 2])
    assert [entry.path for entry in left] == (["scores/run-000/part-nobodys.parquet"] if is_done else [])


def test_a_snapshot_that_vacuum_removed_during_the_check_is_not_published(world: World) -> None:
    for night in range(3):
        world.night({(1, 0): f"night {night}"})
    old, newest = read_snapshot(world.folder, 1), live(world.scores)
    remove_manifests(world.folder, [1])
    with pytest.raises(DataError, match="there is no snapshot 1 .*: 2-3"):
        publish_again(world.folder, newest, old)
    assert live_number(world.folder) == 3


def test_a_compaction_of_a_snapshot_taken_back_does_not_say_that_it_was(world: World) -> None:
    world.night(keys(*range(9)))
    content = {**keys(*range(9)), **{(i, 0): "other" for i in range(8)}}
    world.night(content)
    world.night(keys(1), M2)
    take_back(world, 2, "back")
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"]
    manifest = live(world.scores).manifest
    assert not {"note", "restored_from", "published_by"} & manifest.keys()
    assert manifest["compaction_of"] == [4]
    check_back(world, content)


def test_an_account_of_the_publication_is_written_beside_those_of_runs(world: World) -> None:
    world.night(keys(1))
    world.night(keys(1, 2))
    take_back(world, 1)
    (entry,) = world.folder.entries("runs")
    summary = json.loads(world.folder.read(entry.path))
    assert (summary["job"], summary["snapshot"], summary["restored_from"]) == ("publish", 3, 1)
