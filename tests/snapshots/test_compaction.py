"""Compaction beside nights: whichever publishes first, no row and no embedding is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pix2score.errors import ConflictError, DataError
from pix2score.snapshots import compaction
from pix2score.snapshots.config import PublishConfig, VacuumConfig
from pix2score.snapshots.manifest import live, live_number, numbers
from pix2score.snapshots.restore import publish_snapshot
from pix2score.snapshots.vacuum import vacuum, vacuum_on
from tests.support.builders import Here
from tests.support.nights import M1, Between, World, check, keys


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(str(tmp_path_factory.mktemp("world")))
    world.night(keys(*range(12)))
    world.night(mostly_new())
    return world


@pytest.fixture
def world(two_nights: World, tmp_path: Path) -> World:
    """After two nights: most of the first one's embeddings are dead."""
    return two_nights.copied_to(str(tmp_path / "world"))


def mostly_new() -> dict[tuple[int | str, int], str]:
    return {**keys(*range(12)), **{(i, 0): "other" for i in range(8)}}


class Before:
    """Workers before whose first task of ``name`` something else happens."""

    def __init__(self, name: str, happens: Callable[[], Any]) -> None:
        self._name, self._happens, self._is_over = name, happens, False

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        if function.__name__ == self._name and not self._is_over:
            self._is_over = True
            self._happens()
        return (function(*call) for call in calls)


def rows_of_first(world: World) -> int:
    return sum(file.rows for file in live(world.scores).files_of("embeddings") if file.run == "run-001")


def test_a_night_that_publishes_meanwhile_stays_and_so_does_what_was_compacted(world: World) -> None:
    content = {**mostly_new(), (11, 0): "later", (20, 0): "new"}
    beside = Before("rewrite_files", lambda: world.night(content))
    done = vacuum_on(VacuumConfig(scores=world.scores), beside)
    assert (done["files_compacted"], live_number(world.folder)) == (4, 4)
    assert live(world.scores).same_scores == (3,)
    assert rows_of_first(world) == 4, "of which one is dead since the night"
    check(world, content, M1)
    world.night({**content, (10, 0): "later still"})
    check(world, {**content, (10, 0): "later still"}, M1)


def test_a_run_at_work_publishes_upon_what_was_compacted(world: World) -> None:
    content = {**mostly_new(), (11, 0): "later", (20, 0): "new"}
    plan, publication = world.plan(content)
    receipts = world.stage(plan, publication)
    publication = replace(publication, receipts=receipts)
    world.publish(publication, Between(lambda: vacuum(VacuumConfig(scores=world.scores))))
    assert [n for n in numbers(world.folder) if n > 2] == [3, 4]
    assert rows_of_first(world) == 4
    check(world, content, M1)


def test_rows_that_came_back_meanwhile_have_their_embeddings(world: World) -> None:
    """A night removes rows, the next plans to take them back, and their embeddings go before it publishes."""
    world.night({key: value for key, value in mostly_new().items() if key[0] not in (8, 9)})
    plan, publication = world.plan(mostly_new())
    assert (plan.counts.resumed, plan.counts.to_score) == (2, 0)
    with pytest.raises(ConflictError, match="run again"):
        world.publish(publication, Between(lambda: vacuum(VacuumConfig(scores=world.scores))))
    assert live_number(world.folder) == 4
    world.night(mostly_new())
    assert sorted(world.scored) == [(8, 0), (9, 0)]
    check(world, mostly_new(), M1)


def test_rows_that_came_back_while_it_compacted_keep_their_embeddings(world: World) -> None:
    world.night({key: value for key, value in mostly_new().items() if key[0] not in (8, 9)})
    beside = Before("rewrite_files", lambda: world.night(mostly_new()))
    assert vacuum_on(VacuumConfig(scores=world.scores), beside)["files_compacted"] == 0
    assert (live_number(world.folder), world.scored) == (4, [])
    check(world, mostly_new(), M1)


@pytest.mark.parametrize("comes_back", [False, True])
def test_of_a_run_of_several_steps_what_may_come_back_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    for name in ("STEP_BYTES", "FILE_BYTES"):
        monkeypatch.setattr(compaction, name, 1)
    world.night({key: value for key, value in mostly_new().items() if key[0] != 9})
    beside = Before("rewrite_files", lambda: world.night(mostly_new()) if comes_back else None)
    number = live_number(world.folder)
    assert vacuum_on(VacuumConfig(scores=world.scores), beside)["files_compacted"] == 4
    assert live_number(world.folder) == number + 4 + comes_back, "one step for each file"
    assert rows_of_first(world) == 4
    world.night(mostly_new())
    assert world.scored == []
    check(world, mostly_new(), M1)
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"] == 0


def test_nothing_is_replaced_once_an_older_snapshot_is_live_again(world: World) -> None:
    def take_back() -> None:
        publish_snapshot(PublishConfig(scores=world.scores, snapshot=1))

    rows = {key: row for key, row in world.rows().items() if key[0] >= 8}
    assert (
        vacuum_on(VacuumConfig(scores=world.scores), Before("rewrite_files", take_back))["files_compacted"]
        == 0
    )
    assert live_number(world.folder) == 3
    assert {key: row for key, row in world.rows().items() if key[0] >= 8} == rows
    world.catalog(keys(*range(12)))
    world.before = {}
    check(world, keys(*range(12)), M1)


def test_a_new_file_that_another_vacuum_removed_is_not_published(world: World) -> None:
    class Removes(Here):
        def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
            for made in super().each(function, calls):
                world.folder.delete([file.path for file in getattr(made, "new", ())])
                yield made

    with pytest.raises(DataError, match="is missing: nothing was published"):
        vacuum_on(VacuumConfig(scores=world.scores), Removes())
    assert live_number(world.folder) == 2
    check(world, mostly_new(), M1)
