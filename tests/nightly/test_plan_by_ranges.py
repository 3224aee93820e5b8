"""A plan made by ranges of keys is the plan that one task makes: rows, order, counts, errors; and what it
publishes is the same, row for row."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.expressions import Expression
from pix2score.errors import DataError, LimitError, StorageError
from pix2score.nightly import cuts, order, pending, work_order
from pix2score.nightly.plan import ScoringPlan
from pix2score.nightly.plan_night import plan_night
from pix2score.nightly.publish import publish_night
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.manifest import live, live_number
from pix2score.snapshots.pieces import Origin
from pix2score.snapshots.tables import Layout
from pix2score.storage.folder import Folder
from tests.support.builders import HEADS, Here, planned_rows, write_catalog
from tests.support.nights import FACTS, M1, M2, Content, World, check, keys

M3 = "cccccccccccc"
TRUNKS = {M1: "t1", M3: "t1", M2: "t2"}
MANY = settings(suppress_health_check=list(HealthCheck))


def plan_facts(folder: Folder, plan: ScoringPlan) -> dict[str, Any]:
    """All that a plan says, however it is laid out in parts."""

    def rows(parts: Any) -> list[dict[str, Any]]:
        return planned_rows(folder, parts)

    def sorted_rows(parts: Any) -> list[dict[str, Any]]:
        return sorted(rows(parts), key=lambda row: (row["illust_id"], row["page"]))

    return {
        "counts": plan.counts.to_dict(),
        "rows, in order": rows(plan.parts),
        "stored, in order": rows(plan.stored),
        "resumed": sorted_rows(plan.resumed),
        "resumed from": [receipt.scores.path for receipt in plan.resumed_from],
        "removed": sorted_rows(plan.removed),
        "withheld": sorted_rows(plan.withheld),
        "failed": (plan.resumed_failed, plan.resumed_failed_again),
        "carry": plan.carry,
        "carried, in order": rows(plan.carried),
        "published": [receipt.path for receipt in plan.already_published],
    }


def plan_or_error(world: World, content: Content, model: str, range_rows: int | None, **options: Any) -> Any:
    """The facts of a plan that is not carried out, or the error."""
    world.range_rows = range_rows
    nights = world.nights
    try:
        plan, publication = world.plan(content, model, **options)
    except (DataError, LimitError) as exc:
        return type(exc), str(exc)
    finally:
        world.nights = nights
    facts = plan_facts(world.folder, plan)
    run = publication.origin.run
    Lease(world.folder, run).release()
    world.folder.delete(
        [f"staged/{run}/plan/{e.path}" for e in (world.folder / f"staged/{run}/plan").entries()]
    )
    return facts


CHANGES = st.dictionaries(
    st.tuples(st.integers(0, 9), st.integers(-1, 1)),
    st.sampled_from(["a", "a", "b", "NOT_FOUND", "CORRUPT"]),
    min_size=1,
    max_size=16,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "full": st.just(True),
        "retry_failed": st.just(True),
        "limit": st.integers(0, 7),
        "order": st.sampled_from(["waiting first", "new first"]),
        "where": st.sampled_from([Expression("--where", "page = 0"), Expression("--where", "etag = 'b'")]),
        "first": st.sampled_from(
            [
                Expression("--first", "likes DESC", is_order=True),
                Expression("--first", "etag NULLS FIRST, illust_id % 3 DESC", is_order=True),
            ]
        ),
        "carry": st.just(("likes",)),
        "max_removed": st.sampled_from([0.0, 0.3]),
        "max_changed": st.sampled_from([0.0, 0.3]),
    },
)
NIGHTS = st.lists(
    st.tuples(CHANGES, st.sampled_from([M1, M1, M1, M3, M2]), st.sampled_from([None, None, 0, 1, 2])),
    max_size=4,
)


def plans_are_equal(
    nights: list[tuple[Content, str, int | None]],
    content: Content,
    model: str,
    options: dict[str, Any],
    range_rows: int,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        world = World(place, piece_rows=2, trunks=TRUNKS, columns={"likes": lambda key: key[0] % 4})
        for before, scored_by, killed_after in nights:
            world.night(before, scored_by, killed_after=killed_after)
        if live_number(world.folder) and live(world.scores).manifest["model_version"] != model:
            options.pop("where", None)
        of_one = plan_or_error(world, content, model, None, **options)
        by_ranges = plan_or_error(world, content, model, range_rows, **options)
        assert by_ranges == of_one
        left = [e.path for e in world.folder.entries() if "/dealt/" in e.path]
        assert not left


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ranges of the table, chunks and stretches of the order of a few rows, so that there are several."""
    monkeypatch.setattr(cuts, "PART_ROWS", 4)
    monkeypatch.setattr(work_order, "STRETCH_ROWS", 3)
    monkeypatch.setattr(work_order, "_CHUNK_ROWS", (2, 2))
    monkeypatch.setattr(pending, "_CUTS", 2)
    yield


GIVEN = given(
    nights=NIGHTS,
    content=CHANGES,
    model=st.sampled_from([M1, M1, M3, M2]),
    options=OPTIONS,
    range_rows=st.sampled_from([2, 4, 7]),
)
test_a_plan_by_ranges_is_the_plan_of_one_task = settings(MANY, max_examples=2)(GIVEN(plans_are_equal))
test_many_plans_by_ranges_are_the_plans_of_one_task = pytest.mark.slow(
    settings(MANY, max_examples=60)(GIVEN(plans_are_equal))
)


def test_every_kind_of_row_at_once_is_planned_as_by_one_task(tmp_path: Path) -> None:
    """New, changed, failed, staged, taken back, removed; several pages; in the order that was asked for."""
    world = World(str(tmp_path), piece_rows=2, columns={"likes": lambda key: (key[0] * 7) % 5})
    first = {(i, page): "a" for i in range(12) for page in (0, 1)} | {(3, 0): "NOT_FOUND", (4, 0): "CORRUPT"}
    world.night(first)
    gone = {key: value for key, value in first.items() if key[0] != 5}
    world.night(gone)
    tonight = {**first, (7, 0): "b", (8, 1): "b", (20, 0): "a", (21, 0): "a", (-3, 0): "a"}
    tonight |= {(i, 1): "NOT_FOUND b" for i in range(8)}
    del tonight[9, 0]
    world.night(tonight, killed_after=3)
    for asked in (
        {},
        {"limit": 2, "order": "waiting first"},
        {"first": Expression("--first", "likes DESC", is_order=True), "carry": ("likes",)},
        {"where": Expression("--where", "likes > 1")},
    ):
        of_one = plan_or_error(world, tonight, M1, None, **asked)
        assert of_one["counts"]["resumed"] and of_one["counts"]["removed"] == 1
        assert plan_or_error(world, tonight, M1, 13, **asked) == of_one, asked


def test_a_live_file_that_two_ranges_share_is_read_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many new keys lie between those of one file."""
    monkeypatch.setattr(cuts, "PART_ROWS", 100)
    world = World(str(tmp_path), piece_rows=50)
    before = keys(*range(0, 40, 2))
    world.night(before)
    assert len(live(world.scores).files_of("scores")) == 1
    tonight = {**keys(*range(40)), (4, 0): "b"}
    del tonight[30, 0]
    of_one = plan_or_error(world, tonight, M1, None)
    assert plan_or_error(world, tonight, M1, 12) == of_one
    assert [of_one["counts"][name] for name in ("live", "new", "changed", "removed")] == [20, 20, 1, 1]
    world.range_rows = 12
    world.night(tonight)
    check(world, tonight, M1)


def test_rows_for_the_heads_are_planned_file_by_file_as_by_one_task(tmp_path: Path) -> None:
    world = World(str(tmp_path), piece_rows=3, trunks=TRUNKS)
    content = {(i, 0): "CORRUPT" if i % 5 == 4 else "a" for i in range(20)}
    world.night(content)
    world.night(content, M3, killed_after=2)
    content = {**content, (0, 0): "b", (50, 0): "a"}
    for limit in (None, 4, 15):
        of_one = plan_or_error(world, content, M3, None, limit=limit)
        assert of_one["counts"]["heads"]
        assert plan_or_error(world, content, M3, 10, limit=limit) == of_one, limit


@pytest.mark.slow
def test_what_is_published_is_the_same_row_for_row(tmp_path: Path) -> None:
    """Against the same nights planned and published by one task."""
    told = []
    for name, rows in (("one", None), ("ranges", 8)):
        world = World(str(tmp_path / name), piece_rows=2, trunks=TRUNKS, range_rows=rows)
        content: dict[Any, str] = {(i, page): "a" for i in range(9) for page in (0, 1)}
        nights = [
            (content, M1, None),
            ({**content, (3, 0): "b", (4, 1): "NOT_FOUND", (30, 0): "a"}, M1, 1),
            ({k: v for k, v in content.items() if k[0] != 6} | {(3, 0): "b"}, M1, None),
            (content, M1, None),
            (content, M3, None),
            (content, M2, None),
        ]
        for catalog, model, killed_after in nights:
            world.night(catalog, model, killed_after=killed_after)
            if killed_after is None:
                check(world, catalog, model)
                told.append((name, [_stable(row) for row in world.rows().values()]))
    half = len(told) // 2
    assert [rows for _, rows in told[:half]] == [rows for _, rows in told[half:]]


def _stable(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "scored_at"}


def test_a_dry_run_and_a_night_with_nothing_to_do_leave_nothing(any_world: World) -> None:
    world, content = any_world, keys(*range(12))
    world.night(content)
    before = {e.path: e.etag for e in world.folder.entries()}
    plan, _ = world.plan(content)
    assert plan.counts.changes_nothing
    assert {e.path: e.etag for e in world.folder.entries()} == before
    more = {**content, (50, 0): "new"}
    request = _request(world)
    catalog = open_catalog(world.catalog(more), Columns())
    plan = world.planned(catalog, request, dry_run=True)
    assert (plan.counts.new, plan.counts.to_score, plan.parts) == (1, 1, [])
    assert {e.path: e.etag for e in world.folder.entries()} == before


def test_limits_hold_for_all_ranges_together_and_leave_nothing(any_world: World) -> None:
    world, content = any_world, keys(*range(12))
    world.night(content)
    before = {e.path for e in world.folder.entries()}
    with pytest.raises(LimitError, match="4 of 12 illustrations .* over --max-removed 0.3"):
        world.plan(keys(*range(8)), max_removed=0.3)
    changed = {**content, **{(i, 0): "other" for i in (0, 5, 7, 11)}}
    with pytest.raises(LimitError, match="4 of 12 illustrations have another fingerprint"):
        world.plan(changed, max_changed=0.3)
    assert {e.path for e in world.folder.entries()} == before
    plan, _ = world.plan(changed, max_changed=0.34)
    assert plan.counts.changed == 4


def test_a_night_that_ends_at_a_time_leaves_the_same_rows(tmp_path: Path) -> None:
    told = []
    for rows in (None, 9):
        world = World(str(tmp_path / str(rows)), piece_rows=4, range_rows=rows)
        content = keys(*range(30))
        asked = Expression("--where", "illust_id % 3 > 0")
        world.night(content, ends_after=2, where=asked, order="waiting first")
        of_first = dict(live(world.scores).manifest["plan"]), [_stable(row) for row in world.rows().values()]
        world.night({**content, (3, 0): "b"}, ends_after=3, order="waiting first")
        told.append((of_first, [_stable(row) for row in world.rows().values()]))
        assert len(world.rows()) == 30
        assert not [e.path for e in world.folder.entries() if "/left/" in e.path]
    assert told[0] == told[1]


@pytest.fixture
def any_world(place: str) -> World:
    """Planned by ranges, on disk and on S3."""
    return World(place, range_rows=3)


def _request(world: World) -> ScoringRequest:
    number = live_number(world.folder)
    layout = Layout(world.id_type, HEADS, 4, "float16")
    origin = Origin(run="run-dry", model_version=M1, parent=number)
    return ScoringRequest(origin=origin, layout=layout, live=live(world.scores) if number else None)


def planned(place: Path, catalog: str, range_rows: int = 2) -> tuple[Any, Any]:
    """The facts of a first night's plan by one task and by ranges, or their errors."""
    told = []
    for rows in (None, range_rows):
        folder = Folder(str(place / f"out-{rows}"))
        opened = open_catalog(catalog, Columns())
        origin = Origin(run="run-1", model_version=M1, parent=0)
        request = ScoringRequest(origin=origin, layout=Layout(opened.id_type, HEADS, 4, "float16"))
        sizes = {} if rows is None else {"one_task_rows": 0, "range_rows": rows}
        try:
            plan = plan_night(opened, folder, "staged/run-1/plan", request, Here(), **sizes)
            told.append(plan_facts(folder, plan))
        except DataError as exc:
            told.append((type(exc), str(exc)))
    return told[0], told[1]


TEXTS: dict[str, list[str | None]] = {
    "numbers": ["9", "10", "8", "7", "100", "20"],
    "times": ["2026-01-02", "2026-01-10", "2026-01-03", "2025-12-31", "2026-02-01", "2026-01-31"],
    "neither": ["9", "10", "2026-01-03", "2025-12-31", "zzz", "b"],
    "none": [None, None, None, None, None, None],
}


@pytest.mark.parametrize("kind", list(TEXTS))
def test_how_texts_of_updates_compare_is_decided_by_all_ranges_together(tmp_path: Path, kind: str) -> None:
    """In the range of one key they may all be numbers while those of another are not."""
    table = {
        "illust_id": [1, 1, 5, 5, 9, 9],
        "uri": ["a", "b", "c", "d", "e", "f"],
        "updated_at": pa.array(TEXTS[kind], pa.string()),
    }
    of_one, by_ranges = planned(tmp_path, write_catalog(str(tmp_path / "catalog"), table))
    assert by_ranges == of_one
    assert of_one["counts"]["duplicate_key"] == 3


@pytest.mark.parametrize(
    "table",
    [
        {"illust_id": pa.array([None, None, None], pa.int64()), "uri": ["a", "b", "c"]},
        {"illust_id": [1, 2, 3], "uri": ["a", "b", "c"], "page": ["p0", "p1", "nonsense"]},
        {"illust_id": ["x", "\0", "y'z"], "uri": ["a", "b", "c"], "page": ["p2", "1", None]},
        {"illust_id": [1, 2, None, 4, 4, 4], "image": [b"1", b"2", b"3", b"4", b"5", b"4"]},
    ],
    ids=["no id", "no page", "odd keys", "embedded"],
)
def test_odd_catalogs_give_the_same_plan_or_the_same_kind_of_error(
    tmp_path: Path, table: dict[str, Any]
) -> None:
    place = write_catalog(str(tmp_path / "catalog"), table)
    of_one, by_ranges = planned(tmp_path, place)
    if isinstance(of_one, tuple):
        assert by_ranges[0] == of_one[0]
        assert by_ranges[1][:60] == of_one[1][:60]
    else:
        assert by_ranges == of_one


def test_a_catalog_of_many_files_and_row_groups_is_dealt_out_whole(tmp_path: Path) -> None:
    """Also columns of the files' paths, and embedded images, whose file and row are asked for."""
    place = tmp_path / "catalog"
    for number in range(5):
        folder = place / f"page={number % 2:02}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = 1000 if number == 3 else 3
        table = pa.table(
            {
                "illust_id": [number * 10_000 + i for i in range(rows)],
                "image": [f"{number}-{i}".encode() * 9 for i in range(rows)],
            }
        )
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=100)
    of_one, by_ranges = planned(tmp_path, str(place), range_rows=300)
    assert by_ranges == of_one
    assert of_one["counts"]["keys"] == 1012


def test_a_damaged_live_file_stops_a_night_but_not_a_full_one(tmp_path: Path) -> None:
    world, content = World(str(tmp_path), range_rows=2), keys(*range(9))
    world.night(content)
    file = live(world.scores).files_of("scores")[-1]
    world.folder.publish(file.path, b"x" * file.bytes, replace=True)
    with pytest.raises(DataError, match="is not a Parquet file"):
        world.plan({**content, (0, 0): "b"})
    plan, _ = world.plan(content, full=True)
    assert (plan.counts.live, plan.counts.new, plan.counts.planned) == (0, 9, 9)


def test_an_embedding_that_is_not_wanted_any_more_is_dead_though_its_range_does_not_change(
    tmp_path: Path,
) -> None:
    """A piece holds two rows; tonight's catalog wants one of them."""
    world, content = World(str(tmp_path), piece_rows=2, range_rows=30), keys(*range(20))
    world.night(content)
    world.night({**content, (1, 0): "b", (18, 0): "b"}, killed_after=1)
    before = live(world.scores).files_of("scores")
    world.night({**content, (18, 0): "b"})
    assert world.scored == []
    assert live(world.scores).files_of("scores")[0] == before[0]
    dead = [file.rows for file in live(world.scores).files_of("dead")]
    assert sum(dead) == 2, "the row that was answered anew, and the one that is not wanted"
    check(world, {**content, (18, 0): "b"}, M1)


def test_new_ids_behind_all_others_leave_the_files_before_them(tmp_path: Path) -> None:
    """Shown in bytes: a night of appended ids writes the last range, whatever the table's size."""
    written = {}
    for rows in (None, 25):
        world = World(str(tmp_path / str(rows)), piece_rows=20, range_rows=rows)
        content = keys(*range(40))
        world.night(content)
        before = live(world.scores).files_of("scores")
        world.night({**content, **keys(*range(40, 43))})
        after = live(world.scores).files_of("scores")
        assert before[:-1] == after[: len(before) - 1]
        new = [file for file in after if file not in before]
        assert sum(file.rows for file in new) <= 3 + before[-1].rows
        written[rows] = sum(file.rows for file in new)
        check(world, {**content, **keys(*range(40, 43))}, M1)
        # cut anew where many were added, and again the ranges without a change stay
        content = {**content, **keys(*range(40, 80))}
        world.night(content)
        known = live(world.scores).files_of("scores")
        world.night({**content, (0, 0): "b"})
        assert live(world.scores).files_of("scores")[1:] == known[1:]
    assert written[25] <= written[None] + 4


def test_a_night_whose_pieces_are_not_as_planned_is_not_published(tmp_path: Path) -> None:
    world = World(str(tmp_path), range_rows=3)
    plan, publication = world.plan(keys(*range(9)))
    receipts = world.stage(plan, publication)
    for wrong, what in (
        (receipts[1:], "table has 6 rows, the catalog 9 keys"),
        (receipts + receipts[:1], "staged rows with . keys in one range"),
    ):
        with pytest.raises(StorageError, match=what):
            publish_night(replace(publication, receipts=wrong), FACTS, Here())
    assert live_number(world.folder) == 0


def test_the_order_of_work_is_that_of_one_task_for_every_kind_of_term(tmp_path: Path) -> None:
    """Nulls, letters, lists, numbers: bytes stand for them when ranges are brought together."""
    columns: dict[str, Callable[[Any], Any]] = {
        "name": lambda key: None if key[0] % 4 == 0 else "aBcÄ\0"[key[0] % 5 :],
        "size": lambda key: [None, -1.5, 2.0, float("inf")][key[0] % 4],
        "tags": lambda key: ["x"] * (key[0] % 3),
    }
    world = World(str(tmp_path), columns=columns)
    content = keys(*range(30))
    for text in ("name DESC", "size NULLS FIRST, name", "len(tags) DESC, size DESC NULLS LAST"):
        first = Expression("--first", text, is_order=True)
        of_one = plan_or_error(world, content, M1, None, first=first)
        assert plan_or_error(world, content, M1, 10, first=first) == of_one, text
    assert order.is_steered(replace(_request(world), first=first))
