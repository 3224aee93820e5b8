"""Nights that score a part of the rows, end at a time or only stage: what is left stays or is pending, and
the next night comes to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pix2score import read_changes, read_scores
from pix2score.catalog.expressions import Expression
from pix2score.errors import ConfigError, DataError
from pix2score.nightly.publish import Publication
from pix2score.snapshots.config import VacuumConfig, VerifyConfig
from pix2score.snapshots.manifest import live
from pix2score.snapshots.tables import OK, PENDING
from pix2score.snapshots.vacuum import vacuum
from pix2score.snapshots.verify import verify
from tests.support.builders import Key, planned_rows
from tests.support.nights import M1, M2, Content, World, check, keys


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


@pytest.fixture
def any_world(place: str) -> World:
    """On disk and on S3."""
    return World(place)


def where(text: str) -> Expression:
    return Expression("--where", text)


def by_status(world: World) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for (illust_id, _), row in world.rows().items():
        found.setdefault(row["status"], []).append(illust_id)
    return found


def counts(world: World) -> tuple[int, int, int]:
    """Ok, failed and pending, as the manifest and verify have them."""
    found = live(world.scores).manifest["counts"]
    told = verify(VerifyConfig(scores=world.scores))
    assert (told["failed"], told["pending"]) == (found["failed"], found["pending"])
    return found["ok"], found["failed"], found["pending"]


def test_only_rows_that_where_names_are_scored_and_new_others_are_pending(any_world: World) -> None:
    world = any_world
    world.night(keys(1, 2, 3, 4))
    tonight = {**keys(1, 2, 3, 5, 6), (2, 0): "other", (3, 0): "other"}
    world.night(tonight, where=where("illust_id IN (2, 5)"))
    assert sorted(world.scored) == [(2, 0), (5, 0)]
    assert by_status(world) == {OK: [1, 2, 3, 5], PENDING: [6]}
    assert counts(world) == (4, 0, 1)
    plan = live(world.scores).manifest["plan"]
    names = ("keys", "new", "changed", "carried", "withheld", "removed", "pending")
    assert [plan[name] for name in names] == [5, 1, 1, 2, 1, 1, 1]
    check(world, tonight, M1, left=[(3, 0), (6, 0)])
    world.night(tonight)
    assert sorted(world.scored) == [(3, 0), (6, 0)]
    check(world, tonight, M1)
    assert counts(world) == (5, 0, 0)


def test_a_first_night_of_some_rows_and_then_of_others(world: World) -> None:
    content = keys(*range(10))
    world.night(content, where=where("illust_id < 3"))
    assert by_status(world) == {OK: [0, 1, 2], PENDING: [3, 4, 5, 6, 7, 8, 9]}
    world.night(content, where=where("illust_id BETWEEN 2 AND 5"))
    assert sorted(world.scored) == [(3, 0), (4, 0), (5, 0)]
    check(world, content, M1, left=[(i, 0) for i in range(6, 10)])
    assert world.night(content, where=where("illust_id < 3")) is None, "S7: pending rows stay as they are"


def test_a_where_that_names_no_row_still_takes_the_catalog_s_keys_over(world: World) -> None:
    world.night(keys(1, 2))
    world.night(keys(2, 3), where=where("false"))
    assert world.scored == []
    check(world, keys(2, 3), M1, left=[(2, 0), (3, 0)])


def test_rows_without_a_value_are_not_among_those_that_where_names(world: World) -> None:
    world.night(keys(1, 2), where=where("CASE WHEN illust_id = 1 THEN NULL ELSE true END"))
    assert world.scored == [(2, 0)]


def test_full_with_where_scores_those_again_and_carries_the_rest(world: World) -> None:
    world.night(keys(1, 2, 3))
    world.night(keys(1, 2, 3, 4), full=True, where=where("illust_id <= 2"))
    assert sorted(world.scored) == [(1, 0), (2, 0)]
    assert {key[0]: row["run"] for key, row in world.rows().items()} == {
        1: "run-002",
        2: "run-002",
        3: "run-001",
        4: "run-002",
    }
    check(world, keys(1, 2, 3, 4), M1, left=[(3, 0), (4, 0)])


def test_full_with_where_does_not_carry_what_is_damaged(world: World) -> None:
    snapshot = world.night(keys(1, 2, 3))
    assert snapshot
    world.folder.delete([file.path for file in snapshot.files_of("scores")])
    with pytest.raises(DataError, match="missing"):
        world.night(keys(1, 2, 3), full=True, where=where("illust_id = 1"))


def test_a_value_that_where_does_not_fit_is_one_line_and_nothing_is_written(world: World) -> None:
    world.catalog(keys(1, 2))
    before = world.folder.entries()
    with pytest.raises(ConfigError, match=r"--where 'CAST\(etag AS INT\) > 3': .*'v[12]'"):
        world.night(keys(1, 2), where=where("CAST(etag AS INT) > 3"))
    with pytest.raises(ConfigError, match=r"--first 'CAST\(etag AS INT\)': .*'v[12]'"):
        world.night(keys(1, 2), first=Expression("--first", "CAST(etag AS INT)", is_order=True))
    assert world.folder.entries() == before


def test_a_night_that_ends_early_publishes_what_is_done_and_the_next_one_does_the_rest(
    any_world: World,
) -> None:
    world = any_world
    content = keys(*range(10))
    world.night(content, ends_after=2)
    first = set(world.scored)
    assert counts(world) == (6, 0, 4)
    check(world, content, M1, left=content.keys() - first)
    manifest = live(world.scores).manifest
    assert (manifest["plan"]["new"], manifest["plan"]["left"], manifest["plan"]["pending"]) == (10, 4, 4)
    world.night(content)
    assert set(world.scored) == content.keys() - first
    check(world, content, M1)


def test_changed_rows_that_a_night_did_not_reach_keep_their_row_and_come_first_the_next(world: World) -> None:
    world.piece_rows = 1
    world.night(keys(*range(10)))
    content = {**keys(*range(10)), **{(i, 0): "other" for i in range(4)}, **keys(*range(20, 30))}
    world.night(content, ends_after=2, order="waiting first")
    done = set(world.scored)
    assert done < set(keys(*range(4)))
    left = content.keys() - done
    check(world, content, M1, left=[key for key in left if key[0] >= 20 or content[key] == "other"])
    assert counts(world) == (10, 0, 10)
    content |= keys(30, 31)
    plan, publication = world.plan(content, order="waiting first")
    order = [row["reason"] for row in planned_rows(world.folder, plan.parts)]
    assert order == ["changed"] * 2 + ["waiting"] * 10 + ["new"] * 2
    reasons = {reason: number for reason, number in plan.counts.by_reason().items() if number}
    assert reasons == {"new": 2, "changed": 2, "waiting": 10}
    release(publication)


def release(publication: Publication) -> None:
    from pix2score.snapshots.leases import Lease

    Lease(publication.out, publication.origin.run).release()


def test_a_night_that_did_nothing_in_its_time_still_takes_new_keys_over(world: World) -> None:
    world.night(keys(1, 2, 3))
    world.night({**keys(1, 2, 4), (1, 0): "other"}, ends_after=0)
    check(world, {**keys(1, 2, 4), (1, 0): "other"}, M1, left=[(1, 0), (2, 0), (4, 0)])


def test_pending_rows_keep_their_place_when_another_night_ends_early(world: World) -> None:
    content = keys(*range(9))
    world.night(content, ends_after=1)
    before = world.rows()
    world.night(content, ends_after=1, order="waiting first")
    assert counts(world) == (6, 0, 3)
    still = [key for key, row in world.rows().items() if row["status"] == PENDING]
    assert all(world.rows()[key] == before[key] for key in still), "and are not written down anew"
    check(world, content, M1, left=still)


def test_what_was_staged_by_a_killed_night_serves_pending_rows(world: World) -> None:
    content = keys(*range(6))
    world.night(content, killed_after=1)
    staged = set(world.scored)
    world.night(content, where=where("false"))
    assert by_status(world) == {PENDING: list(range(6))}
    world.night(content)
    assert set(world.scored) == content.keys() - staged
    check(world, content, M1)


def test_a_pending_key_may_leave_and_one_that_left_may_come_back_through_pending(world: World) -> None:
    world.night(keys(1, 2, 3))
    world.night(keys(1, 2))
    world.night(keys(1, 2, 3, 4), where=where("false"))
    check(world, keys(1, 2, 3, 4), M1, left=keys(1, 2, 3, 4))
    world.night(keys(1, 2, 3))
    assert world.scored == [], "its answer of before was kept"
    check(world, keys(1, 2, 3), M1)


def test_a_reader_learns_of_pending_rows_and_none_counts_as_failed(world: World) -> None:
    world.night({**keys(1), (2, 0): "CORRUPT"})
    world.night({**keys(1, 3), (2, 0): "CORRUPT"}, where=where("illust_id < 3"))
    changes = read_changes(world.scores, since=1).read_all().to_pylist()
    assert changes == [{"illust_id": 3, "page": 0, "change": "pending"}]
    assert counts(world) == (1, 1, 1)
    row = read_scores(world.scores).to_table().to_pylist()[2]
    assert (row["error_code"], row["attempts"], row["bookmark_probs"]) == (None, 0, None)


def test_another_model_answers_pending_rows_too(world: World) -> None:
    world.night(keys(1, 2, 3), where=where("illust_id = 1"))
    world.night(keys(1, 2, 3), M2)
    assert sorted(world.scored) == [(1, 0), (2, 0), (3, 0)]
    check(world, keys(1, 2, 3), M2)


def test_an_order_that_is_asked_for_goes_before_all(world: World) -> None:
    world.night(keys(*range(4)))
    content = {**keys(*range(4)), (1, 0): "other", **keys(10, 11, 12)}
    first = Expression("--first", "illust_id % 2, illust_id DESC", is_order=True)
    plan, publication = world.plan(content, M2, first=first, order="new first")
    ids = [row["illust_id"] for row in planned_rows(world.folder, plan.parts)]
    assert ids == [12, 10, 2, 0, 11, 3, 1]
    release(publication)
    world.night(content, where=where("illust_id = 1"))
    content |= keys(20)
    plan, publication = world.plan(content, M2, order="new first")
    rows = planned_rows(world.folder, plan.parts)
    assert sorted(row["illust_id"] for row in rows[:4]) == [10, 11, 12, 20]
    assert [row["reason"] for row in rows[4:]] == ["stale"] * 4
    assert rows[4]["illust_id"] == 1, "of those with an answer the one that was scored last"
    release(publication)


def stage(world: World, content: Content, model: str, pieces: int | None = None) -> list[Key]:
    """What ``--stage-only`` does: pieces, and no snapshot."""
    world.night(content, model, killed_after=1000 if pieces is None else pieces, order="new first")
    return world.scored


def test_s11_a_model_is_staged_over_nights_beside_the_nightly_one_and_goes_live_at_once(world: World) -> None:
    content = keys(*range(12))
    world.night(content)
    done = set(stage(world, content, M2, pieces=2))
    content = {**content, (0, 0): "other", **keys(20, 21)}
    world.night(content)
    assert len(world.scored) == 3
    vacuum(VacuumConfig(scores=world.scores, keep=1))
    more = stage(world, content, M2, pieces=2)
    assert set(more[:3]) == set(keys(0, 20, 21)), "what came last comes first"
    assert not (done - {(0, 0)}) & set(more), "S3: what is staged is not scored again"
    done = {key for key in done if key != (0, 0)} | set(more)
    world.night(content)
    check(world, content, M1)
    world.night(content, M2)
    assert set(world.scored) == content.keys() - done
    check(world, content, M2)


def test_what_failed_while_staging_is_tried_last_the_next_time(world: World) -> None:
    world.piece_rows = 1
    world.night(keys(50))
    content = {(i, 0): "NOT_FOUND" if i < 3 else f"v{i}" for i in range(6)}
    stage(world, content, M2)
    content |= keys(7, 8)
    more = stage(world, content, M2)
    assert set(more[:2]) == set(keys(7, 8))
    assert sorted(more[2:]) == [(0, 0), (1, 0), (2, 0)]


def test_heads_that_are_staged_from_stored_embeddings_go_live_with_those_of_the_nights_between(
    world: World,
) -> None:
    world.trunks = {M1: "t", M2: "t"}
    world.night(keys(*range(10)))
    stage(world, keys(*range(10)), M2, pieces=2)
    assert len(world.answered) == 6
    content = {**keys(*range(10)), (0, 0): "other", **keys(20)}
    world.night(content)
    stage(world, content, M2)
    assert {(0, 0), (20, 0)} <= {*world.answered, *world.scored}
    world.night(content, where=where("illust_id IN (1, 2)"), full=True)
    vacuum(VacuumConfig(scores=world.scores, keep=1))
    world.night(content, M2)
    check(world, content, M2)


def test_pending_rows_are_scored_from_their_pictures_when_heads_answer_the_rest(world: World) -> None:
    world.trunks = {M1: "t", M2: "t"}
    world.night(keys(1, 2, 3), where=where("illust_id = 1"))
    world.night(keys(1, 2, 3), M2)
    assert (world.answered, sorted(world.scored)) == ([(1, 0)], [(2, 0), (3, 0)])
    check(world, keys(1, 2, 3), M2)
