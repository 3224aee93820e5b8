"""Nights on which only the heads changed: stored embeddings answer, and all that S1 to S3 promise holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.errors import ConflictError
from pix2score.nightly.plan import plan_scoring
from pix2score.nightly.publish import publish_night
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.config import VacuumConfig, VerifyConfig
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.manifest import live
from pix2score.snapshots.pieces import Origin
from pix2score.snapshots.read import dead_ids
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import OK
from pix2score.snapshots.vacuum import vacuum
from pix2score.snapshots.verify import verify
from tests.support.builders import Here, planned_rows
from tests.support.nights import FACTS, M1, M2, Content, World, check, keys

M3 = "cccccccccccc"
TRUNKS = {M1: "t1", M3: "t1", M2: "t2"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path), trunks=TRUNKS)


def embedding_files(world: World) -> set[str]:
    return {file.path for file in live(world.scores).files_of("embeddings")}


def test_heads_of_the_same_trunk_answer_from_what_is_stored_and_write_no_embedding(world: World) -> None:
    content = {**keys(*range(8)), (3, 0): "CORRUPT", (5, 1): "NOT_FOUND"}
    world.night(content)
    files, before = embedding_files(world), world.rows()
    later = {**content, (4, 0): "changed", (9, 0): "new"}
    del later[7, 0]
    world.night(later, M3)
    assert sorted(world.answered) == [(0, 0), (1, 0), (2, 0), (5, 0), (6, 0)]
    assert sorted(world.scored) == [(4, 0), (5, 1), (9, 0)], "what failed for good is carried"
    check(world, later, M3)
    rows = world.rows()
    assert {rows[i, 0]["run"] for i in (0, 4)} == {"run-002"}
    assert [rows[i, 0]["embedding_run"] for i in (0, 3, 4)] == ["run-001", None, "run-002"]
    assert rows[3, 0]["run"] == before[3, 0]["run"]
    assert files <= embedding_files(world)
    plan = live(world.scores).manifest["plan"]
    assert (plan["heads"], plan["changed"], plan["new"], plan["retry"], plan["stale"]) == (5, 1, 1, 1, 0)
    world.night(later, M3)
    assert (world.scored, world.answered) == ([(5, 1)], []), "only the failure that is due"


def test_another_trunk_scores_everything_from_pictures(world: World) -> None:
    world.night(keys(1, 2, 3))
    world.night(keys(1, 2, 3), M2)
    assert (sorted(world.scored), world.answered) == ([*keys(1, 2, 3)], [])


@pytest.mark.parametrize("trunks", [{}, {M1: "t1"}, {M3: "t1"}], ids=["none", "live only", "new only"])
def test_a_model_that_names_no_trunk_scores_everything_from_pictures(
    world: World, trunks: dict[str, str]
) -> None:
    world.trunks = trunks
    world.night(keys(1, 2))
    world.night(keys(1, 2), M3)
    assert (sorted(world.scored), world.answered) == ([*keys(1, 2)], [])
    check(world, keys(1, 2), M3)


def test_full_scores_everything_from_pictures(world: World) -> None:
    world.night(keys(1, 2))
    world.night(keys(1, 2), M3, full=True)
    assert (sorted(world.scored), world.answered) == ([*keys(1, 2)], [])


def test_heads_may_change_night_after_night_and_embeddings_stay(world: World) -> None:
    world.night(keys(1, 2, 3))
    files = embedding_files(world)
    for model in (M3, M1, M3):
        world.night(keys(1, 2, 3), model)
        assert (sorted(world.answered), world.scored) == ([*keys(1, 2, 3)], [])
        check(world, keys(1, 2, 3), model)
        vacuum(VacuumConfig(scores=world.scores, keep=1, keep_staged="0s"))
        check(world, keys(1, 2, 3), model)
    assert embedding_files(world) == files
    assert live(world.scores).files_of("dead") == []


def test_what_a_killed_run_answered_is_resumed(world: World) -> None:
    world.night(keys(*range(7)))
    world.night(keys(*range(7)), M3, killed_after=1)
    staged = set(world.answered)
    world.night(keys(*range(7)), M3)
    assert len(staged) == 3
    assert {*world.answered} == {*keys(*range(7))} - staged
    check(world, keys(*range(7)), M3)


def test_an_answer_that_was_staged_and_is_not_wanted_any_more_leaves_no_trace(world: World) -> None:
    world.night(keys(*range(5)))
    world.night(keys(*range(5)), M3, killed_after=1)
    (changed, *resumed) = world.answered
    content = {**keys(*range(5)), changed: "another picture"}
    world.night(content, M3)
    assert not {*resumed} & {*world.answered}
    dead = dead_ids(world.folder, live(world.scores)).to_pylist()
    assert dead == [{"illust_id": changed[0], "page": 0, "run": "run-001"}]
    check(world, content, M3)


def test_an_answer_that_was_staged_is_not_used_once_its_embedding_was_made_anew(world: World) -> None:
    world.night(keys(*range(4)))
    world.night(keys(*range(4)), M3, killed_after=1)
    world.night(keys(*range(4)), M1, full=True)
    vacuum(VacuumConfig(scores=world.scores, keep=1))
    world.night(keys(*range(4)), M3)
    assert sorted(world.answered) == [*keys(*range(4))]
    check(world, keys(*range(4)), M3)
    assert {row["embedding_run"] for row in world.rows().values()} == {"run-003"}


def test_an_answer_of_earlier_content_is_answered_again_and_its_content_tried_the_night_after(
    world: World,
) -> None:
    world.night(keys(1, 2))
    moved = {**keys(1), (2, 0): "NOT_FOUND"}
    world.night(moved)
    kept = world.rows()[2, 0]
    world.night(moved, M3)
    row = world.rows()[2, 0]
    assert (sorted(world.answered), world.scored) == ([(1, 0), (2, 0)], [])
    for name in ("status", "error_code", "attempts", "fingerprint", "embedding_run"):
        assert row[name] == kept[name], name
    assert live(world.scores).manifest["counts"]["kept"] == 1
    world.night({**keys(1), (2, 0): "there again"}, M3)
    assert world.scored == [(2, 0)]
    check(world, {**keys(1), (2, 0): "there again"}, M3)


def test_a_row_whose_embedding_is_in_no_file_is_scored_from_its_picture(world: World) -> None:
    world.piece_rows = 2
    world.night(keys(1, 2, 3))
    snapshot = live(world.scores)
    first, second = snapshot.files_of("embeddings")
    files = [file for file in snapshot.manifest["files"] if file["path"] != first.path]
    lacking = Snapshot(snapshot.number, {**snapshot.manifest, "files": files})
    origin = Origin(run="run-002", model_version=M3, trunk_version="t1", parent=snapshot.number)
    request = ScoringRequest(origin=origin, layout=snapshot.layout, live=lacking)
    catalog = open_catalog(f"{world.place}/catalog", Columns())
    plan = plan_scoring(catalog, world.folder, "staged/run-002/plan", request)
    Lease(world.folder, "run-002").release()
    (stored,), scored = (planned_rows(world.folder, parts) for parts in (plan.stored, plan.parts))
    assert (stored["file"], stored["embedding_run"]) == (second.path, "run-001")
    assert sorted([stored["illust_id"], *(row["illust_id"] for row in scored)]) == [1, 2, 3]
    assert (plan.counts.heads, plan.counts.to_score) == (3, 3)


def test_the_night_that_publishes_first_wins_over_one_that_answers(world: World) -> None:
    world.night(keys(1, 2))
    plan, publication = world.plan(keys(1, 2), M3)
    receipts = world.stage(plan, publication)
    world.night({**keys(1, 2), (3, 0): "new"})
    with pytest.raises(ConflictError):
        publish_night(replace(publication, receipts=receipts), FACTS, Here())
    check(world, {**keys(1, 2), (3, 0): "new"}, M1)


CHANGES = st.dictionaries(
    st.tuples(st.integers(0, 9), st.integers(0, 1)),
    st.sampled_from(["a", "a", "b", "NOT_FOUND", "CORRUPT"]),
    min_size=1,
    max_size=14,
)
NIGHTS = st.lists(
    st.tuples(
        CHANGES,
        st.sampled_from([M1, M1, M3, M3, M2]),
        st.sampled_from([None, None, None, 0, 1, 2]),
        st.sampled_from([{}, {}, {}, {"full": True}, {"retry_failed": True}, {"vacuum": "0s"}]),
    ),
    min_size=2,
    max_size=7,
)


def s1_holds(nights: Iterable[tuple[Content, str, int | None, dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        world, published = World(place, piece_rows=2, trunks=TRUNKS), ""
        for content, model, killed_after, options in nights:
            before = world.rows() if published else {}
            if options.pop("vacuum", None) and published:
                vacuum(VacuumConfig(scores=world.scores, keep=1, keep_staged="0s"))
            world.night(content, model, killed_after=killed_after, **options)
            is_again = bool(published) and published != model and TRUNKS[published] == TRUNKS[model]
            of_embeddings = {key for key, row in before.items() if row["status"] == OK and key in content}
            assert {*world.answered} <= (of_embeddings if is_again and not options.get("full") else set())
            assert not {*world.answered} & {*world.scored}
            if killed_after is None:
                published = model
                verify(VerifyConfig(scores=world.scores, catalog=f"{world.place}/catalog"))
                assert world.rows().keys() == content.keys()
                assert live(world.scores).manifest["model_version"] == model
            elif published:
                assert world.rows() == before


UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow])
test_s1_holds_over_any_sequence_of_nights = settings(UNHURRIED, max_examples=2)(given(NIGHTS)(s1_holds))
test_s1_holds_over_many_sequences_of_nights = pytest.mark.slow(
    settings(UNHURRIED, max_examples=40)(given(NIGHTS)(s1_holds))
)
