"""What changed between snapshots, where columns of the catalog are carried."""

from __future__ import annotations

from pathlib import Path

import pytest

import pix2score
from tests.support.nights import World, keys


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def changed(world: World, since: int) -> list[tuple[int, str]]:
    """Ids and what they changed to."""
    rows = pix2score.read_changes(world.scores, since=since).read_all().to_pylist()
    return [(row["illust_id"], row["change"]) for row in rows]


def test_a_row_whose_carried_column_changed_is_another_one(world: World) -> None:
    counts: dict[int, int | None] = {1: 5, 2: 6, 3: None, 4: 7}
    world.columns = {"clicks": lambda key: counts.get(int(key[0]), 0)}
    content = keys(1, 2, 3) | {(4, 0): "CORRUPT"}
    world.night(content, carry=("clicks",))
    counts.update({2: None, 3: 1, 4: 8})
    world.night(content | {(5, 0): "new"}, carry=("clicks",))
    assert changed(world, 1) == [(2, "scored"), (3, "scored"), (4, "failed"), (5, "scored")]
    assert changed(world, 2) == []


def test_every_row_is_another_one_where_other_columns_are_carried(world: World) -> None:
    world.columns = {"clicks": lambda key: 1, "rate": lambda key: 0.5}
    world.night(keys(1, 2), carry=("clicks",))
    world.night(keys(1, 2), carry=("clicks", "rate"))
    assert changed(world, 1) == [(1, "scored"), (2, "scored")]
    world.night(keys(2))
    assert changed(world, 2) == [(1, "removed"), (2, "scored")]
