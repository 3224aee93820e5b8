"""Catalog columns in the scores table: as they are tonight, in every row, whoever scored it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pix2score import read_scores
from pix2score.errors import ConfigError, DataError, VerifyError
from pix2score.nightly import carry, cuts
from pix2score.nightly.carry import check_carry
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live, live_number
from pix2score.snapshots.verify import verify
from tests.support.builders import LAYOUT
from tests.support.nights import M1, M2, World, check, keys

NAMES = ("bookmarks", "tags")


def bookmarks_of(night: int) -> Callable[[Any], Any]:
    return lambda key: None if key[0] == 2 else 10 * key[0] + night


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path), columns={"bookmarks": bookmarks_of(0), "tags": lambda key: [f"t{key[0]}"]})


def carried(world: World) -> dict[Any, Any]:
    return {key: (row["bookmarks"], row["tags"]) for key, row in world.rows().items()}


def test_every_row_has_what_the_catalog_says_tonight(world: World) -> None:
    content = {**keys(1, 2, 3), (4, 0): "CORRUPT"}
    world.night(content, carry=NAMES)
    assert carried(world) == {
        (1, 0): (10, ["t1"]), (2, 0): (None, ["t2"]), (3, 0): (30, ["t3"]), (4, 0): (40, ["t4"])
    }  # fmt: skip
    world.columns["bookmarks"] = bookmarks_of(5)
    world.night({**content, (3, 0): "other", (7, 0): "new"}, carry=NAMES)
    assert sorted(world.scored) == [(3, 0), (7, 0)]
    assert [row[0] for row in carried(world).values()] == [15, None, 35, 45, 75]
    check(world, {**content, (3, 0): "other", (7, 0): "new"}, M1)
    assert read_scores(world.scores).schema.names[-3:] == ["scored_at", *NAMES]


def test_a_name_may_have_quotes(world: World) -> None:
    world.columns = {'said "so"': bookmarks_of(0)}
    world.night(keys(1, 2, 3), carry=('said "so"',))
    world.night(keys(1, 2, 3, 4), carry=('said "so"',))
    assert [row['said "so"'] for row in world.rows().values()] == [10, None, 30, 40]
    check(world, keys(1, 2, 3, 4), M1)


@pytest.mark.parametrize("value", [timedelta(seconds=3), [timedelta(seconds=3)]])
def test_a_span_of_time_is_refused_before_the_night(world: World, value: Any) -> None:
    world.columns = {"lasts": lambda key: value}
    with pytest.raises(ConfigError, match=r"carry lasts: a column of .*duration\[us\].* cannot be carried"):
        world.night(keys(1, 2), carry=("lasts",))
    assert world.scored == []


def test_values_that_moved_alone_make_a_snapshot_and_nothing_that_moved_makes_none(world: World) -> None:
    world.night(keys(1, 2, 3), carry=NAMES)
    number = live_number(world.folder)
    world.night(keys(1, 2, 3), carry=NAMES)
    assert live_number(world.folder) == number
    world.columns["bookmarks"] = bookmarks_of(1)
    plan, publication = world.plan(keys(1, 2, 3), carry=NAMES)
    assert (plan.counts.planned, plan.counts.recarried) == (0, 1)
    world.publish(publication)
    assert carried(world)[1, 0][0] == 11


def test_columns_come_and_go(world: World) -> None:
    world.night(keys(1, 2))
    world.night({**keys(1, 2), (3, 0): "new"}, carry=("tags",))
    assert world.rows()[1, 0]["tags"] == ["t1"]
    check(world, {**keys(1, 2), (3, 0): "new"}, M1)
    world.night(keys(1, 2), carry=NAMES)
    assert carried(world)[1, 0] == (10, ["t1"])
    world.night({**keys(1, 2), (3, 0): "new"})
    assert not {*NAMES} & {*world.rows()[1, 0]}
    check(world, {**keys(1, 2), (3, 0): "new"}, M1)


def test_ranges_of_any_size_have_their_own_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "PART_ROWS", 4)
    monkeypatch.setattr(carry, "PART_ROWS", 5)
    content = {(i, page): f"v{i}" for i in range(13) for page in (0, 1)}
    world.night(content, carry=NAMES)
    later = {key: value for key, value in content.items() if key[0] % 4} | {(40, 0): "new", (5, 0): "other"}
    world.columns["bookmarks"] = bookmarks_of(3)
    world.night(later, carry=NAMES)
    assert {key: row[0] for key, row in carried(world).items()} == {
        key: bookmarks_of(3)(key) for key in later
    }
    check(world, later, M1)


def test_another_model_and_heads_that_answer_again_carry_too(world: World) -> None:
    world.trunks = {M1: "t", M2: "t"}
    world.night(keys(1, 2, 3), carry=NAMES)
    world.columns["bookmarks"] = bookmarks_of(7)
    world.night(keys(1, 2, 3), M2, carry=NAMES)
    assert sorted(world.answered) == [*keys(1, 2, 3)]
    assert carried(world)[3, 0] == (37, ["t3"])
    check(world, keys(1, 2, 3), M2)


def test_a_column_that_is_not_there_and_one_that_the_table_has_are_named(world: World) -> None:
    with pytest.raises(DataError, match=r"bookmark\b.*bookmarks"):
        world.night(keys(1), carry=("bookmark",))
    for names, what in ((("bookmark_bin",), "has a column of that name"), (("a", "a"), "given twice")):
        with pytest.raises(ConfigError, match=what):
            check_carry(names, LAYOUT)
    assert live_number(world.folder) == 0


def test_verify_names_a_file_without_a_carried_column(world: World) -> None:
    world.night(keys(1, 2))
    manifest = {**live(world.scores).manifest, "snapshot": 2, "parent": 1}
    manifest["carry"] = {"columns": {"tags": "list<element: string>"}, "hash": "0"}
    world.folder.publish("snapshots/00000002.json", json.dumps(manifest).encode())
    with pytest.raises(VerifyError, match="lacks tags of type list"):
        verify(VerifyConfig(scores=world.scores))
