"""LanceDB and Delta tables that others restored, wrote to or wrote anew, and pushes at the same moment."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from pix2score.errors import ConflictError, TargetError
from pix2score.push.config import PushConfig
from pix2score.push.rows import Chunk, sent_schema
from pix2score.push.targets import open_target
from pix2score.snapshots.manifest import live
from tests.push.tables import Delta, Lance, Table, check, pushed
from tests.support.nights import World, keys

FIRST, SECOND = keys(1, 2, 3, 4), keys(1, 2, 5) | {(1, 0): "changed"}
FOLDERS = ["lancedb", "delta"]


def opened(table: Table) -> Any:
    """By its own library."""
    if isinstance(table, Delta):
        return table.opened()
    assert isinstance(table, Lance)
    return table.opened("scores")


def version_of(table: Table) -> int:
    return int(opened(table).version() if isinstance(table, Delta) else opened(table).version)


def two_nights(world: World, table: Table) -> list[int]:
    """The table after two pushes; its versions after each, and one in the middle of the second."""
    world.night(FIRST)
    pushed(world, table)
    first = version_of(table)
    world.night(SECOND)
    pushed(world, table)
    return [first, first + 1, version_of(table)]


@pytest.mark.parametrize("table", FOLDERS, indirect=True)
@pytest.mark.parametrize("which", [0, 1])
def test_a_table_that_was_restored_becomes_the_live_snapshot_again(
    world: World, table: Table, which: int
) -> None:
    version = two_nights(world, table)[which]
    opened(table).restore(version)
    assert pushed(world, table)["batches"] > 0
    check(world, table)
    assert pushed(world, table)["batches"] == 0


@pytest.mark.parametrize("table", FOLDERS, indirect=True)
def test_a_table_that_was_restored_before_another_night(world: World, table: Table) -> None:
    version = two_nights(world, table)[0]
    opened(table).restore(version)
    world.night(SECOND | keys(6))
    pushed(world, table)
    check(world, table)


@pytest.mark.parametrize("table", FOLDERS, indirect=True)
def test_a_table_that_was_restored_to_where_it_was_needs_nothing(world: World, table: Table) -> None:
    newest = two_nights(world, table)[2]
    opened(table).delete("illust_id = 2")
    opened(table).restore(newest)
    assert pushed(world, table)["batches"] == 0
    world.night(FIRST)
    assert pushed(world, table)["whole"] is False
    check(world, table)


def test_a_restored_delta_table_goes_on_from_there(world: World, tmp_path: Any) -> None:
    table = Delta(f"{tmp_path}/table")
    version = two_nights(world, table)[0]
    opened(table).restore(version)
    assert (pushed(world, table)["since"], table.position()["base"]) == (1, 1)


def compact(table: Table) -> None:
    if isinstance(table, Delta):
        found = table.opened()
        found.optimize.compact()
        found.vacuum(0, dry_run=False, enforce_retention_duration=False)
        found.create_checkpoint()
    else:
        opened(table).optimize(cleanup_older_than=timedelta(0))


@pytest.mark.parametrize("table", FOLDERS, indirect=True)
@pytest.mark.filterwarnings("ignore:.*removes every version except the latest")
def test_a_table_that_was_compacted_and_vacuumed_goes_on(world: World, table: Table) -> None:
    two_nights(world, table)
    compact(table)
    world.night(FIRST)
    assert pushed(world, table)["whole"] is False
    check(world, table)


def append_all(table: Table) -> None:
    """Every row once more."""
    if isinstance(table, Delta):
        from deltalake import write_deltalake

        write_deltalake(table.opened(), table.opened().to_pyarrow_table(), mode="append")
    else:
        opened(table).add(opened(table).to_arrow())


@pytest.mark.parametrize("table", FOLDERS, indirect=True)
@pytest.mark.parametrize("batch_rows", [1, 100])
def test_rows_that_others_wrote_twice_are_mended_by_full(world: World, table: Table, batch_rows: int) -> None:
    two_nights(world, table)
    append_all(table)
    assert len(table.rows()) == 6
    pushed(world, table, full=True, batch_rows=batch_rows)
    check(world, table)


def test_that_others_wrote_to_a_delta_table_is_told(
    world: World, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    table = Delta(f"{tmp_path}/table")
    two_nights(world, table)
    compact(table)
    with caplog.at_level(logging.WARNING):
        pushed(world, table)
    assert "others" not in caplog.text
    table.opened().delete("illust_id = 2")
    with caplog.at_level(logging.WARNING):
        assert pushed(world, table)["batches"] == 0
    assert "others wrote to it since the last push (DELETE): --full compares all rows" in caplog.text
    pushed(world, table, full=True)
    check(world, table)


def test_a_delta_table_that_others_wrote_anew_is_compared(
    world: World, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from deltalake import write_deltalake

    table = Delta(f"{tmp_path}/table")
    two_nights(world, table)
    write_deltalake(table.opened(), table.opened().to_pyarrow_table().slice(0, 1), mode="overwrite")
    assert pushed(world, table)["whole"] is True
    assert "others wrote it anew since the last push: all rows are sent" in caplog.text
    check(world, table)


class Slow:
    """A chunk between whose check and whose write something else happens."""

    def __init__(self, chunk: Chunk, happens: Callable[[], object]) -> None:
        self._chunk, self._happens = chunk, [happens]

    def __getattr__(self, name: str) -> Any:
        if name == "is_whole" and self._happens:
            self._happens.pop()()
        return getattr(self._chunk, name)


@pytest.mark.parametrize("table", FOLDERS, indirect=True)
def test_a_batch_of_a_push_that_was_overtaken_does_not_stay(world: World, table: Table) -> None:
    """Rows of an older snapshot that a slow push brings when a newer one has gone through."""
    world.night(keys(1, 2, 3))
    pushed(world, table)
    world.night({(1, 0): "old", **keys(2, 3)})
    with closing(open_target(PushConfig(scores=world.scores, to=table.to))) as slow:
        position, schema = slow.position(), sent_schema(world.folder, live(world.scores))
        assert position
        slow.prepare(schema, position, recreate=False)
        stale = _rows_of(table, schema)
        world.night({(1, 0): "new", **keys(2, 3, 4)})
        nothing = stale.slice(0, 0).select(["illust_id", "page"])
        chunk = Slow(Chunk(stale, nothing, None, None, is_whole=False), lambda: pushed(world, table))
        with pytest.raises(ConflictError):
            slow.write(cast("Chunk", chunk), position)
    assert table.position()["done"] is isinstance(table, Delta)  # whose commit failed as a whole
    pushed(world, table)
    check(world, table)


def _rows_of(table: Table, schema: Any) -> Any:
    """What the table holds now, as a push would send it."""
    import pyarrow as pa

    return pa.Table.from_pylist(table.rows(), schema=schema)


@pytest.mark.parametrize("table", FOLDERS, indirect=True)
def test_pushes_that_begin_at_once_are_one(world: World, table: Table) -> None:
    for content in (keys(*range(12)), keys(*range(4, 16)) | {(6, 0): "changed"}):
        world.night(content)
        found: list[str] = []

        def begin(found: list[str] = found) -> None:
            try:
                pushed(world, table)
                found.append("done")
            except ConflictError:
                found.append("conflict")

        threads = [threading.Thread(target=begin) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 3, "one ended with another error"
        if isinstance(table, Lance):
            assert table.opened("pix2score_push").count_rows() == 1
        pushed(world, table)
        check(world, table)


@pytest.mark.parametrize("table", ["lancedb"], indirect=True)
def test_two_that_optimise_at_once_are_no_failure_of_a_push(
    world: World, table: Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import lancedb

    def preempted(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            "Retryable commit conflict for version 9: preempted by concurrent transaction Rewrite"
        )

    monkeypatch.setattr(lancedb.table.LanceTable, "optimize", preempted)
    world.night(keys(1, 2))
    assert pushed(world, table)["upserted"] == 2
    assert "all rows are written, but not all is tidied up behind them" in caplog.text
    check(world, table)


def test_what_is_missing_in_a_folder_called_concurrent_is_no_conflict(world: World, tmp_path: Path) -> None:
    table = Lance(str(tmp_path / "concurrent" / "target"))
    world.night(keys(1, 2))
    pushed(world, table)
    for path in (tmp_path / "concurrent/target/scores.lance/data").iterdir():
        path.unlink()
    world.night(keys(1, 2, 3))
    with pytest.raises(TargetError):
        pushed(world, table, full=True)


@pytest.mark.parametrize("table", ["lancedb"], indirect=True)
def test_a_batch_whose_mark_is_lost_to_another_writer_does_not_stay(
    world: World, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LanceDB refuses one of two marks at the same moment."""
    import lancedb

    world.night(keys(1, 2, 3))
    pushed(world, table)
    world.night({(1, 0): "old", **keys(2, 3)})
    kept = lancedb.table.LanceTable.update_field_metadata
    words = "UpdateConfig transaction is incompatible with concurrent transaction UpdateConfig at version 9"

    def lost(*_: Any, **__: Any) -> None:
        """A newer push has gone through, before the rows of this one were brought once more."""
        monkeypatch.setattr(lancedb.table.LanceTable, "update_field_metadata", kept)
        stale = opened(table).search().where("illust_id = 1").to_arrow()
        world.night({(1, 0): "new", **keys(2, 3)})
        pushed(world, table)
        opened(table).merge_insert(["illust_id", "page"]).when_matched_update_all().execute(stale)
        raise RuntimeError(words)

    monkeypatch.setattr(lancedb.table.LanceTable, "update_field_metadata", lost)
    with pytest.raises(ConflictError, match="run again"):
        pushed(world, table)
    assert table.position()["done"] is False
    pushed(world, table)
    check(world, table)
