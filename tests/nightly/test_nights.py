"""Sequences of nights without Ray: whatever changes, fails or is killed, S1 and S2 hold, and nothing is done
twice that was staged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pix2score
from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.errors import ConflictError, DataError, LimitError, StorageError
from pix2score.nightly import cuts
from pix2score.nightly.plan import plan_scoring
from pix2score.nightly.publish import publish_night
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.config import VacuumConfig
from pix2score.snapshots.manifest import live, live_number
from pix2score.snapshots.pieces import Origin, staged_receipts
from pix2score.snapshots.read import read_embeddings
from pix2score.snapshots.tables import FAILED, OK
from pix2score.snapshots.vacuum import vacuum
from tests.support.builders import (
    Here,
    Key,
    write_catalog,
)
from tests.support.nights import FACTS, M1, M2, Content, World, check, keys


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


@pytest.fixture
def any_world(place: str) -> World:
    """On disk and on S3."""
    return World(place)


def test_s2_only_what_changed_is_scored_again(world: World) -> None:
    world.night(keys(*range(20)))
    assert len(world.scored) == 20
    tonight = {**keys(*range(2, 22)), (5, 0): "other"}
    plan, _ = world.plan(tonight)
    counts = plan.counts
    assert (counts.new, counts.changed, counts.stale, counts.retry, counts.carried, counts.removed) == (
        2,
        1,
        0,
        0,
        17,
        2,
    )
    world.night(tonight)
    assert sorted(world.scored) == [(5, 0), (20, 0), (21, 0)]
    check(world, tonight, M1)


def test_s2_another_model_scores_everything_and_drops_old_embeddings(world: World) -> None:
    world.night(keys(*range(5)))
    world.night(keys(*range(6)), M2)
    assert len(world.scored) == 6
    check(world, keys(*range(6)), M2)
    assert {file.run for file in live(world.scores).files} == {"run-002"}


def test_s7_with_nothing_to_do_nothing_is_written(world: World) -> None:
    world.night(keys(1, 2))
    before = world.folder.entries()
    assert world.night(keys(1, 2)) is None
    assert world.folder.entries() == before


def test_fetch_failures_are_tried_again_until_the_fifth_attempt_and_bad_bytes_only_when_they_change(
    world: World,
) -> None:
    content = {(1, 0): "NOT_FOUND", (2, 0): "CORRUPT", (3, 0): "fine"}
    world.night(content)
    for attempts in (2, 3, 4, 5):
        world.night(content)
        assert world.scored == [(1, 0)]
        assert (world.rows()[1, 0]["attempts"], world.rows()[2, 0]["attempts"]) == (attempts, 1)
    assert world.night(content) is None
    world.night({**content, (2, 0): "mended"})
    assert world.scored == [(2, 0)]
    world.night({**content, (2, 0): "mended"}, retry_failed=True)
    assert (world.scored, world.rows()[1, 0]["attempts"]) == ([(1, 0)], 1)


def test_full_scores_everything_again(world: World) -> None:
    world.night(keys(1, 2, 3))
    world.night(keys(1, 2, 3), full=True)
    assert sorted(world.scored) == sorted(keys(1, 2, 3))
    check(world, keys(1, 2, 3), M1)


def test_s3_what_a_killed_run_staged_is_resumed(any_world: World) -> None:
    content = keys(*range(20))
    any_world.night(content, killed_after=4)
    assert live_number(any_world.folder) == 0
    any_world.night(content)
    assert len(any_world.scored) == 8
    check(any_world, content, M1)
    assert {row["run"] for row in any_world.rows().values()} == {"run-001", "run-002"}
    assert staged_receipts(any_world.folder) == []


def test_s3_after_midnight_only_unchanged_rows_are_resumed(world: World) -> None:
    world.night(keys(*range(12)), killed_after=2)
    staged = set(world.scored)
    changed = sorted(staged)[0]
    tonight = {**keys(*range(3, 15)), **{k: f"v{k[0]}" for k in staged}, changed: "new picture"}
    world.night(tonight)
    assert set(world.scored) == set(tonight) - staged | {changed}
    check(world, tonight, M1)


def test_pieces_of_another_model_or_embedding_type_are_not_resumed(world: World) -> None:
    world.night(keys(1, 2, 3), killed_after=1)
    plan, _ = world.plan(keys(1, 2, 3), M2)
    assert (plan.counts.resumed, plan.counts.to_score) == (0, 3)
    plan, _ = world.plan(keys(1, 2, 3), embedding_dtype="float32")
    assert plan.counts.resumed == 0
    plan, _ = world.plan(keys(1, 2, 3))
    assert plan.counts.resumed == 3


def test_a_staged_failure_to_fetch_is_tried_again_and_staged_bad_bytes_are_not(world: World) -> None:
    content = {(1, 0): "NOT_FOUND", (2, 0): "CORRUPT", (3, 0): "fine"}
    world.night(content, killed_after=1)
    world.night(content)
    assert world.scored == [(1, 0)]
    check(world, content, M1)


def test_full_takes_up_only_pieces_of_the_same_full_run(world: World) -> None:
    content = keys(1, 2, 3, 4, 5, 6)
    world.night(content, killed_after=1)
    plan, _ = world.plan(content, full=True)
    assert plan.counts.resumed == 0
    world.night(content, full=True, killed_after=1)
    world.night(content, full=True)
    assert len(world.scored) == 3
    check(world, content, M1)


def test_a_damaged_staged_piece_is_scored_again(world: World) -> None:
    world.night(keys(*range(6)), killed_after=2)
    world.folder.publish(staged_receipts(world.folder)[0].scores.path, b"damaged", replace=True)
    world.night(keys(*range(6)))
    assert len(world.scored) == 3
    check(world, keys(*range(6)), M1)


def test_s4_the_overtaken_run_conflicts_and_leaves_the_winner_whole(any_world: World) -> None:
    any_world.night(keys(1, 2, 3), killed_after=0)
    slow_plan, slow = any_world.plan(keys(1, 2, 3, 4))
    receipts = any_world.stage(slow_plan, slow)
    any_world.night(keys(1, 2, 3, 4))  # takes up what the slow one staged, publishes and tidies up
    assert any_world.scored == []
    with pytest.raises(ConflictError, match="snapshot 1 .*run again"):
        publish_night(replace(slow, receipts=receipts), FACTS, Here())
    check(any_world, keys(1, 2, 3, 4), M1)


def test_s9_more_keys_removed_than_allowed_is_refused_before_anything_is_written(world: World) -> None:
    world.piece_rows = 50
    world.night(keys(*range(100)))
    before = world.folder.entries()
    with pytest.raises(LimitError, match=r"6 of 100 .*--max-removed 0\.05"):
        world.plan(keys(*range(94)), max_removed=0.05)
    assert world.folder.entries() == before
    world.night(keys(*range(95)), max_removed=0.05)
    check(world, keys(*range(95)), M1)


def test_another_kind_of_fingerprint_is_refused_with_the_row_count_unless_full(world: World) -> None:
    world.night(keys(1, 2, 3))
    table = {"illust_id": [1, 2, 3], "uri": ["1-0.png", "2-0.png", "3-0.png"]}
    catalog = open_catalog(write_catalog(f"{world.place}/other", table), Columns())
    snapshot = live(world.scores)
    for full in (False, True):
        origin = Origin(run="x", model_version=M1, parent=1, full=full)
        request = ScoringRequest(origin=origin, layout=snapshot.layout, live=snapshot)
        if full:
            assert plan_scoring(catalog, world.folder, "staged/x/plan", request).counts.to_score == 3
            return
        with pytest.raises(
            DataError, match="'etag' in snapshot 1, the catalog now offers 'uri': all 3 rows .*--full"
        ):
            plan_scoring(catalog, world.folder, "staged/x/plan", request)


def test_another_embedding_type_is_refused_unless_full(world: World) -> None:
    world.night(keys(1))
    with pytest.raises(DataError, match="float16.*--embedding-dtype is float32.*--full"):
        world.plan(keys(1, 2), embedding_dtype="float32")


def test_ids_of_another_type_are_refused(world: World) -> None:
    world.night(keys(1))
    catalog = open_catalog(
        write_catalog(f"{world.place}/text", {"illust_id": ["1"], "uri": ["a"]}), Columns()
    )
    snapshot = live(world.scores)
    request = ScoringRequest(
        origin=Origin(run="x", model_version=M1, parent=1), layout=snapshot.layout, live=snapshot
    )
    with pytest.raises(DataError, match="ids are string.*int64"):
        plan_scoring(catalog, world.folder, "staged/x/plan", request)


@pytest.mark.parametrize("damage", ["gone", "cut", "altered"])
def test_a_damaged_live_file_is_named_and_not_carried_and_full_mends_it(world: World, damage: str) -> None:
    world.night(keys(*range(6)))
    (file,) = live(world.scores).files_of("scores")
    data = bytearray(world.folder.read(file.path))
    if damage == "gone":
        world.folder.delete([file.path])
    else:
        data[200] ^= 0xFF
        world.folder.publish(
            file.path, bytes(data) if damage == "altered" else bytes(data[:-9]), replace=True
        )
    with pytest.raises(DataError, match=rf"{file.path} .*(missing|bytes|altered|damaged)"):
        world.night(keys(*range(7)))
    assert live_number(world.folder) == 1
    world.night(keys(*range(7)), full=True)
    check(world, keys(*range(7)), M1)


def test_an_embedding_file_that_is_missing_is_named(any_world: World) -> None:
    any_world.night(keys(*range(6)))
    file = live(any_world.scores).files_of("embeddings")[0]
    any_world.folder.delete([file.path])
    with pytest.raises(DataError, match=rf"{file.path} is missing"):
        any_world.night(keys(*range(7)))


def test_rows_that_are_not_the_plan_are_never_published(world: World) -> None:
    plan, publication = world.plan(keys(*range(6)))
    receipts = world.stage(plan, publication)
    with pytest.raises(StorageError, match="3 staged rows .*planned 6|run run-001"):
        publish_night(replace(publication, receipts=receipts[:1]), FACTS, Here())
    assert live_number(world.folder) == 0


def test_the_table_is_cut_into_ranges_of_bounded_size_in_key_order(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "PART_ROWS", 10)
    world = World(str(tmp_path), piece_rows=7)
    world.night(keys(*range(0, 100, 2)))
    world.night({**keys(*range(0, 100, 2)), **keys(*range(31, 95, 1)), **keys(-3, 1000)})
    check(world, {**keys(*range(0, 100, 2)), **keys(*range(31, 95, 1)), **keys(-3, 1000)}, M1)
    files = live(world.scores).files_of("scores")
    assert [file.first_key for file in files] == sorted(file.first_key for file in files if file.first_key)
    assert all(file.rows <= 20 for file in files)
    assert len(files) >= 5
    world.night(keys(31))
    check(world, keys(31), M1)
    assert len(live(world.scores).files_of("scores")) == 1


def test_read_changes_gives_what_was_scored_failed_or_removed_since(any_world: World) -> None:
    any_world.night(keys(*range(6)))
    any_world.night({**keys(*range(1, 7)), (2, 0): "other", (3, 0): "CORRUPT"})
    changes = pix2score.read_changes(any_world.scores, since=1).read_all().to_pylist()
    assert [(c["illust_id"], c["change"]) for c in changes] == [
        (0, "removed"),
        (2, "scored"),
        (3, "failed"),
        (6, "scored"),
    ]
    assert pix2score.read_changes(any_world.scores, since=2).read_all().num_rows == 0
    assert pix2score.read_changes(any_world.scores, since=0).read_all().num_rows == 6
    with pytest.raises(pix2score.errors.ConfigError, match="since 3"):
        pix2score.read_changes(any_world.scores, since=3)


def test_vacuum_removes_what_no_kept_snapshot_or_young_run_needs(any_world: World) -> None:
    content = keys(*range(9))
    for i in range(4):
        content = {**content, (i, 0): f"night {i}"}
        any_world.night(content)
    any_world.night({**content, (50, 0): "killed"}, killed_after=1)
    everything = any_world.folder.entries()
    told = vacuum(VacuumConfig(scores=any_world.scores, keep=2, keep_staged="0s", dry_run=True))
    assert any_world.folder.entries() == everything
    done = vacuum(VacuumConfig(scores=any_world.scores, keep=2))
    assert (done["snapshots_removed"], done["files_removed"]) == (2, 0)  # all files are young
    assert told["snapshots_removed"] == 2
    assert len(staged_receipts(any_world.folder)) == 1
    done = vacuum(VacuumConfig(scores=any_world.scores, keep=2, keep_staged="0s"))
    assert done["files_removed"] == told["files_removed"] > 0
    assert staged_receipts(any_world.folder) == []
    any_world.catalog(content)
    check(any_world, content, M1)
    assert {e.path.split("/")[0] for e in any_world.folder.entries()} == {
        "scores",
        "embeddings",
        "dead",
        "snapshots",
    }
    with pytest.raises(DataError, match="no snapshot 1 .*3-4"):
        pix2score.read_changes(any_world.scores, since=1)


def test_vacuum_rewrites_embeddings_that_are_mostly_dead(world: World) -> None:
    content = keys(*range(12))
    world.night(content)
    for i in range(8):
        content = {**content, (i, 0): "other"}
    world.night(content)
    before = sum(f.rows for f in live(world.scores).files_of("embeddings") if f.run == "run-001")
    done = vacuum(VacuumConfig(scores=world.scores))
    after = sum(f.rows for f in live(world.scores).files_of("embeddings") if f.run == "run-001")
    assert (before, after, done["files_compacted"], live_number(world.folder)) == (12, 4, 4, 3)
    assert live(world.scores).files_of("dead") == []
    check(world, content, M1)
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"] == 0
    world.night({**content, (11, 0): "later"})
    check(world, {**content, (11, 0): "later"}, M1)


CHANGES = st.dictionaries(
    st.tuples(st.integers(0, 9), st.integers(0, 1)),
    st.sampled_from(["a", "b", "NOT_FOUND", "CORRUPT"]),
    min_size=1,
    max_size=14,
)
NIGHTS = st.lists(
    st.tuples(
        CHANGES,
        st.sampled_from([M1, M1, M1, M2]),
        st.sampled_from([None, None, 0, 1, 2]),
        st.sampled_from([{}, {}, {}, {"full": True}, {"retry_failed": True}, {"vacuum": "0s"}]),
    ),
    min_size=2,
    max_size=7,
)


def s1_and_s2_hold(nights: Iterable[tuple[Content, str, int | None, dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        world = World(place, piece_rows=2)
        published: tuple[Content, str] | None = None
        for content, model, killed_after, options in nights:
            before = world.rows() if published else {}
            if options.pop("vacuum", None) and published:
                vacuum(VacuumConfig(scores=world.scores, keep=1, keep_staged="0s"))
            staged = staged_keys(world, model) if not options.get("full") else set()
            removed = removed_keys(world) if published else set()
            world.night(content, model, killed_after=killed_after, **options)
            wanted = expected(content, model, before, published, **options)
            if killed_after is None:
                assert set(world.scored) <= wanted
                assert wanted - set(world.scored) <= staged | removed | (
                    wanted if options.get("full") else set()
                )
                published = (content, model)
                check(world, content, model)
            elif published:
                assert world.rows() == before
            assert len(world.scored) == len(set(world.scored))


UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow])
test_s1_and_s2_hold_over_any_sequence_of_nights = settings(UNHURRIED, max_examples=2)(
    given(NIGHTS)(s1_and_s2_hold)
)
test_s1_and_s2_hold_over_many_sequences_of_nights = pytest.mark.slow(
    settings(UNHURRIED, max_examples=17)(given(NIGHTS)(s1_and_s2_hold))
)


def expected(
    content: Content,
    model: str,
    before: Mapping[Key, dict[str, Any]],
    published: tuple[Content, str] | None,
    *,
    full: bool = False,
    retry_failed: bool = False,
) -> set[Key]:
    """S2, written down a second time."""
    wanted = set()
    for key, fingerprint in content.items():
        row = before.get(key)
        is_other = (
            row is None
            or published is None
            or published[1] != model
            or row["fingerprint"] != f"etag:{fingerprint}"
        )
        is_due = row is not None and row["error_code"] == "NOT_FOUND" and row["attempts"] < 5
        if full or is_other or is_due or (retry_failed and row is not None and row["status"] == FAILED):
            wanted.add(key)
    return wanted


def removed_keys(world: World) -> set[Key]:
    found = set()
    for file in live(world.scores).files_of("removed"):
        table = pa.parquet.read_table(pa.BufferReader(world.folder.read(file.path)))
        found |= set(zip(table["illust_id"].to_pylist(), table["page"].to_pylist(), strict=True))
    return found


def staged_keys(world: World, model: str) -> set[Key]:
    found = set()
    for receipt in staged_receipts(world.folder):
        if receipt.origin.model_version == model:
            table = pa.parquet.read_table(pa.BufferReader(world.folder.read(receipt.scores.path)))
            found |= set(zip(table["illust_id"].to_pylist(), table["page"].to_pylist(), strict=True))
    return found


@pytest.mark.parametrize("num_nights", [1, 2])
def test_pieces_that_a_killed_run_published_but_did_not_remove_are_never_used_again(
    world: World, num_nights: int
) -> None:
    """A picture that goes and comes back: its staged row looks as if it were wanted, but its embedding is
    dead by then."""
    plan, publication = world.plan(keys(*range(9)))
    receipts = world.stage(plan, publication)
    standing = {entry.path: world.folder.read(entry.path) for entry in world.folder.entries("staged")}
    publish_night(replace(publication, receipts=receipts), FACTS, Here())
    for number in range(num_nights):
        for path, data in standing.items():  # killed before it tidied up, every time
            world.folder.publish(path, data, replace=True)
        world.night(keys(*range(4 - number), *range(5, 9)))
    for path, data in standing.items():
        world.folder.publish(path, data, replace=True)
    world.night(keys(*range(9)))
    check(world, keys(*range(9)), M1)
    assert staged_receipts(world.folder) == []


def test_compaction_keeps_in_mind_which_pieces_were_published(world: World) -> None:
    world.night(keys(*range(9)), killed_after=3)
    standing = {entry.path: world.folder.read(entry.path) for entry in world.folder.entries("staged")}
    world.night(keys(*range(10)))  # takes them up, and is killed before it tidies up
    for path, data in standing.items():
        world.folder.publish(path, data, replace=True)
    world.night(keys(*range(3)))
    for path, data in standing.items():
        world.folder.publish(path, data, replace=True)
    vacuum(VacuumConfig(scores=world.scores))
    assert live(world.scores).manifest["compacted"]
    world.night(keys(*range(9)))
    check(world, keys(*range(9)), M1)


def test_an_answer_stays_while_its_changed_image_cannot_be_fetched_and_is_given_up_after_the_fifth_night(
    any_world: World,
) -> None:
    any_world.night(keys(1, 2, 3))
    content = {**keys(2, 3), (1, 0): "NOT_FOUND new picture"}
    for attempts in (1, 2, 3, 4):
        any_world.night({**content, (100 + attempts, 0): "x"})
        row = any_world.rows()[1, 0]
        assert (row["status"], row["error_code"], row["attempts"], row["fingerprint"]) == (
            OK,
            "NOT_FOUND",
            attempts,
            "etag:v1",
        )
        assert (row["run"], row["bookmark_bin"]) == ("run-001", 1)
        assert live(any_world.scores).manifest["counts"] | {"rows": 0, "ok": 0} == {
            **{"rows": 0, "ok": 0, "failed": 0, "failed_by_code": {}, "kept": 1, "pending": 0}
        }
    check(any_world, {**content, (104, 0): "x"}, M1)
    any_world.night(content)
    row = any_world.rows()[1, 0]
    assert (row["status"], row["error_code"], row["attempts"], row["bookmark_bin"]) == (
        FAILED,
        "NOT_FOUND",
        5,
        None,
    )
    check(any_world, content, M1)
    assert any_world.night(content) is None


@pytest.mark.parametrize("later", ["v1", "fetched now"])
def test_a_kept_answer_is_replaced_as_soon_as_its_image_can_be_had(world: World, later: str) -> None:
    world.night(keys(1, 2))
    world.night({**keys(2), (1, 0): "NOT_FOUND"})
    world.night({**keys(2), (1, 0): later})
    row = world.rows()[1, 0]
    assert (row["status"], row["error_code"], row["fingerprint"], row["attempts"]) == (
        OK,
        None,
        f"etag:{later}",
        2,
    )
    assert world.scored == [(1, 0)]
    check(world, {**keys(2), (1, 0): later}, M1)


def test_bad_bytes_another_model_and_full_drop_an_earlier_answer(world: World) -> None:
    world.night(keys(1, 2))
    world.night({(1, 0): "CORRUPT", (2, 0): "v2"})
    assert world.rows()[1, 0]["status"] == FAILED
    world.night({(1, 0): "CORRUPT", (2, 0): "NOT_FOUND"}, full=True)
    assert world.rows()[2, 0]["status"] == FAILED
    world.night(keys(1, 2))
    world.night({(1, 0): "NOT_FOUND", (2, 0): "v2"}, M2)
    assert world.rows()[1, 0]["status"] == FAILED
    check(world, {(1, 0): "NOT_FOUND", (2, 0): "v2"}, M2)


def test_a_crashed_decoder_is_tried_again_on_later_nights(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.night(keys(1, 2))
    content = {**keys(1, 2), (3, 0): "CRASHED"}
    for attempts in (1, 2, 3, 4, 5):
        world.night(content)
        assert world.scored == [(3, 0)]
        assert world.rows()[3, 0]["attempts"] == attempts
    assert world.night(content) is None


def test_rows_refused_for_their_place_are_tried_again_when_the_place_is_allowed(world: World) -> None:
    content = {**keys(2), (1, 0): "FORBIDDEN"}
    facts = {**FACTS, "places": ["/catalog"]}
    for _ in range(5):
        plan, run = world.plan(content, places=("/catalog",))
        publish_night(replace(run, receipts=world.stage(plan, run)), facts, Here())
    assert world.rows()[1, 0]["attempts"] == 5
    assert world.plan(content, places=("/catalog",))[0].counts.planned == 0
    assert world.plan(content, places=("/catalog", "/pictures"))[0].counts.retry == 1
    assert world.plan(content, places=("/pictures",))[0].counts.retry == 1


def test_unsupported_images_are_tried_again_once_when_more_formats_are_decoded(world: World) -> None:
    content = {**keys(2), (1, 0): "UNSUPPORTED"}
    world.night(content)
    assert world.night(content) is None
    manifest = live(world.scores).manifest
    formats = manifest["formats"]
    for fewer in (formats[1:], None):  # as a version published that decoded fewer, or did not say
        changed = {name: value for name, value in manifest.items() if name != "formats"} | (
            {"formats": fewer} if fewer else {}
        )
        world.folder.publish("snapshots/00000001.json", json.dumps(changed).encode(), replace=True)
        is_due = bool(fewer) or len(formats) > 6
        assert world.plan(content)[0].counts.retry == int(is_due)


def test_more_fingerprints_changed_than_allowed_is_refused_before_anything_is_written(world: World) -> None:
    world.piece_rows = 50
    world.night(keys(*range(100)))
    before = world.folder.entries()
    other = {(i, 0): f"other {i}" for i in range(51)}
    with pytest.raises(LimitError, match=r"51 of 100 .*another fingerprint.*--max-changed 0\.5.*'etag'"):
        world.plan({**keys(*range(100)), **other}, max_changed=0.5)
    assert world.folder.entries() == before
    del other[50, 0]
    assert world.plan({**keys(*range(100)), **other}, max_changed=0.5)[0].counts.changed == 50
    assert (
        world.plan({**keys(*range(100)), **other, (50, 0): "x"}, max_changed=0.5, full=True)[0].counts.changed
        == 51
    )


def test_files_of_ranges_in_which_nothing_changes_stay(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "PART_ROWS", 10)
    world = World(str(tmp_path), piece_rows=50)
    content = {**keys(*range(100)), (5, 0): "CORRUPT"}
    world.night(content)
    before = {file.path for file in live(world.scores).files_of("scores")}
    content = {**content, (1000, 0): "last", (-5, 0): "first"}
    world.night(content)
    after = {file.path for file in live(world.scores).files_of("scores")}
    assert (len(before), len(before & after)) == (10, 8)
    check(world, content, M1)
    assert live(world.scores).manifest["counts"]["failed_by_code"] == {"CORRUPT": 1}
    world.night({**keys(*range(50)), (1000, 0): "last"})
    check(world, {**keys(*range(50)), (1000, 0): "last"}, M1)


def test_keys_that_left_for_a_night_come_back_without_being_scored(any_world: World) -> None:
    whole = {**keys(*range(12)), (3, 0): "CORRUPT"}
    any_world.night(whole)
    any_world.night({key: value for key, value in whole.items() if key[0] % 3})
    assert pix2score.read_embeddings(any_world.scores).count_rows() == 8
    any_world.night({**whole, (50, 0): "new", (6, 0): "other picture"})
    assert sorted(any_world.scored) == [(3, 0), (6, 0), (50, 0)]
    check(any_world, {**whole, (50, 0): "new", (6, 0): "other picture"}, M1)
    assert any_world.rows()[0, 0]["run"] == "run-001"
    any_world.night(keys(1))
    vacuum(
        VacuumConfig(scores=any_world.scores, keep=1, keep_staged="0s")
    )  # their embeddings are gone for good
    any_world.night(keys(1, 2))
    assert any_world.scored == [(2, 0)]
    check(any_world, keys(1, 2), M1)


def test_a_key_that_is_taken_down_leaves_nothing_behind(any_world: World) -> None:
    any_world.night(keys(*range(6)))
    any_world.night(keys(*range(5)))
    assert len(removed_keys(any_world)) == 1
    vacuum(VacuumConfig(scores=any_world.scores))
    assert len(removed_keys(any_world)) == 1, "it may come back"
    vacuum(VacuumConfig(scores=any_world.scores, keep=1, keep_staged="0s"))
    assert removed_keys(any_world) == set()
    assert any_world.folder.entries("removed") == []
    check(any_world, keys(*range(5)), M1)


def test_a_live_file_that_is_missing_is_named_on_a_night_of_another_model_too(world: World) -> None:
    world.night(keys(1, 2, 3))
    (file,) = live(world.scores).files_of("scores")
    world.folder.delete([file.path])
    with pytest.raises(DataError, match=rf"{file.path} is missing.*--full"):
        world.night(keys(1, 2, 3), M2)
    world.night(keys(1, 2, 3), M2, full=True)
    check(world, keys(1, 2, 3), M2)


def test_many_small_embedding_files_of_a_run_are_merged(world: World) -> None:
    world.piece_rows = 1
    content = keys(*range(20))
    world.night(content)
    content = {**content, (7, 0): "other"}
    world.night(content)
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"] == 20
    assert len(live(world.scores).files_of("embeddings")) == 2
    check(world, content, M1)
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"] == 0


def test_reading_embeddings_takes_one_test_however_many_nights_and_pages(tmp_path: Path) -> None:
    world = World(str(tmp_path), piece_rows=100)
    content = {(i, page): "a" for i in range(4) for page in range(30)}
    for night in range(4):
        content = {**content, **{(night, page): f"night {night}" for page in range(30)}}
        world.night(content)
    check(world, content, M1)
    text = str(read_embeddings(world.scores)._scan_options["filter"])
    assert (text.count("pix2score_is_dead"), text.count("is_in")) == (1, 0)


def test_pieces_are_sorted_by_key(world: World) -> None:
    world.piece_rows = 50
    world.night({(i * 7919 % 50, i % 3): "a" for i in range(50)}, killed_after=1)
    (receipt,) = staged_receipts(world.folder)
    for file in receipt.files:
        rows = pa.parquet.read_table(pa.BufferReader(world.folder.read(file.path)))
        found = list(zip(rows["illust_id"].to_pylist(), rows["page"].to_pylist(), strict=True))
        assert found == sorted(found)
