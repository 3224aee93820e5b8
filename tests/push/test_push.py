"""What is in a table after a push: the live snapshot, whatever happened since the last one."""

from __future__ import annotations

import logging
import shutil
import traceback
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pix2score
from pix2score.errors import AccessError, ConfigError, ConflictError, DataError
from pix2score.push import job
from pix2score.push.config import PushConfig
from pix2score.push.job import push
from pix2score.snapshots.config import PublishConfig, VacuumConfig
from pix2score.snapshots.manifest import live_number
from pix2score.snapshots.restore import publish_snapshot
from pix2score.snapshots.vacuum import vacuum
from pix2score.storage import places
from tests.push.tables import Postgres, Table, check, live_rows, on, pushed
from tests.support.nights import M1, M2, World, keys
from tests.support.stores import CONTAINER, KEY, AzureServer

FIRST = keys(1, 2, 3, 4, 5, 6) | {(7, 0): "CORRUPT", (3, 1): "page"}
SECOND = keys(1, 3, 4, 6, 9) | {(7, 0): "mended", (3, 1): "other", (6, 0): "CORRUPT now", (8, 0): "NOT_FOUND"}


def test_after_every_night_the_table_is_the_live_snapshot(world: World, table: Table) -> None:
    world.night(FIRST)
    told = pushed(world, table)
    assert (told["snapshot"], told["since"], told["upserted"], told["whole"]) == (1, None, 7, True)
    check(world, table, M1)
    world.night(SECOND)
    told = pushed(world, table)
    assert (told["snapshot"], told["since"], told["upserted"], told["deleted"]) == (2, 1, 3, 4)
    check(world, table, M1)
    world.night({(1, 0): "CORRUPT all"})
    pushed(world, table)
    assert table.rows() == []
    world.night(FIRST)
    pushed(world, table)
    world.night(SECOND, M2)
    pushed(world, table)
    check(world, table, M2)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["lancedb-gs", "delta-gs", "lancedb-az", "delta-az"], indirect=True)
def test_a_table_in_another_store_is_the_live_snapshot(world: World, table: Table) -> None:
    world.night(FIRST)
    pushed(world, table)
    world.night(SECOND)
    told = pushed(world, table)
    assert (told["since"], told["upserted"], told["deleted"]) == (1, 3, 4)
    check(world, table, M1)
    world.night(FIRST, M2)
    pushed(world, table, full=True)
    check(world, table, M2)
    pushed(world, table, recreate=True)
    check(world, table, M2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lancedb:", "delta:"])
def test_a_store_that_refuses_is_named_without_the_key(
    world: World, azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    world.night(FIRST)
    with pytest.raises(DataError, match="container 'no-such-container' does not exist"):
        push(PushConfig(scores=world.scores, to=f"{kind}az://no-such-container/table"))
    text = azure_server.connection_string
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text.replace(KEY, "AAAA" + KEY[4:]))
    places._filesystem.cache_clear()
    with pytest.raises(AccessError, match=f"container '{CONTAINER}' was refused: the key .AZURE_") as told:
        push(PushConfig(scores=world.scores, to=f"{kind}az://{CONTAINER}/table"))
    places._filesystem.cache_clear()
    assert KEY[4:] not in "".join(traceback.format_exception(told.value))


@on("delta")
def test_rows_that_did_not_change_are_not_sent(world: World, table: Table) -> None:
    world.night(FIRST)
    pushed(world, table)
    world.night(SECOND)
    pushed(world, table)
    came = {(row["illust_id"], row["page"]): row["snapshot"] for row in table.rows()}
    assert came == {(1, 0): 1, (3, 0): 1, (4, 0): 1, (3, 1): 2, (7, 0): 2, (9, 0): 2}
    told = pushed(world, table)
    assert (told["upserted"], told["deleted"], told["batches"]) == (0, 0, 0)


@on("postgres")
def test_a_dry_run_counts_and_writes_nothing(world: World, table: Table) -> None:
    world.night(FIRST)
    told = pushed(world, table, dry_run=True)
    assert (told["upserted"], told["deleted"], told["batches"], told["dry_run"]) == (7, None, 0, True)
    pushed(world, table)
    before, position = table.rows(), table.position()
    world.night(SECOND)
    told = pushed(world, table, dry_run=True)
    assert (told["upserted"], told["deleted"], told["batches"]) == (3, 4, 0)
    assert (table.rows(), table.position()) == (before, position)
    assert not world.folder.entries("leases")


def test_a_dry_run_makes_no_table(world: World, postgres: Postgres) -> None:
    world.night(FIRST)
    pushed(world, postgres, dry_run=True)
    assert postgres.sql("SELECT to_regclass('scores'), to_regclass('pix2score_push')") == [(None, None)]


@on("postgres")
def test_a_snapshot_that_was_taken_back_is_taken_back_in_the_table(world: World, table: Table) -> None:
    world.night(FIRST)
    pushed(world, table)
    world.night(SECOND, M2)
    pushed(world, table)
    publish_snapshot(PublishConfig(scores=world.scores, snapshot=1))
    told = pushed(world, table)
    assert (told["snapshot"], told["since"], told["whole"]) == (3, 2, False)
    check(world, table, M1)


@on("lancedb")
def test_several_nights_are_one_push(world: World, table: Table) -> None:
    world.night(FIRST)
    pushed(world, table)
    world.night(SECOND)
    world.night(keys(1, 2, 3))
    told = pushed(world, table)
    assert (told["since"], told["snapshot"]) == (1, 3)
    check(world, table)


@on("delta")
def test_embeddings_that_vacuum_compacted_need_no_push(world: World, table: Table) -> None:
    for ids in ((1, 2, 3), (1, 2, 4), (1, 4, 5)):
        world.night(keys(*ids))
    pushed(world, table)
    vacuum(VacuumConfig(scores=world.scores))
    assert live_number(world.folder) == 4
    told = pushed(world, table)
    assert (told["snapshot"], told["upserted"], told["deleted"]) == (4, 0, 0)
    check(world, table)


@on("lancedb")
def test_a_position_whose_snapshot_is_vacuumed_away_is_told_and_all_is_compared(
    world: World, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    world.night(FIRST)
    pushed(world, table)
    for content in (SECOND, keys(1, 2), SECOND):
        world.night(content)
    vacuum(VacuumConfig(scores=world.scores, keep=1, keep_staged="0s"))
    with caplog.at_level(logging.WARNING):
        told = pushed(world, table)
    assert (told["whole"], told["deleted"]) == (True, None)
    assert "snapshot 1, of which the table's rows are, is there no more" in caplog.text
    check(world, table)


def test_a_folder_that_was_made_anew_is_compared_as_a_whole(
    world: World, table: Table, tmp_path: Path
) -> None:
    world.night(FIRST)
    world.night(SECOND)
    pushed(world, table)
    shutil.rmtree(world.scores)
    world.night(keys(1, 2, 50))
    assert pushed(world, table)["whole"] is True
    check(world, table)


@on("postgres")
def test_the_same_folder_at_another_place_goes_on(world: World, table: Table, tmp_path: Path) -> None:
    world.night(FIRST)
    pushed(world, table)
    world.night(SECOND)
    shutil.move(world.place, tmp_path / "moved")
    moved = World(str(tmp_path / "moved"))
    assert pushed(moved, table)["whole"] is False
    check(moved, table)


@on("lancedb")
def test_another_scores_folder_is_refused(world: World, table: Table, tmp_path: Path) -> None:
    world.night(FIRST)
    pushed(world, table)
    other = World(str(tmp_path / "other"))
    other.night(keys(1, 2))
    with pytest.raises(
        ConfigError, match=r"holds rows of another scores folder, .*world/scores, not of .*other"
    ):
        pushed(other, table)
    check(world, table)
    pushed(other, table, recreate=True)
    check(other, table)


def test_what_others_did_to_rows_is_mended_by_full(world: World, postgres: Postgres) -> None:
    world.night(FIRST)
    pushed(world, postgres)
    postgres.sql("DELETE FROM scores WHERE illust_id = 2")
    postgres.sql("UPDATE scores SET bookmark_bin = 0 WHERE illust_id = 3")
    for stray in ((0, 0), (3, 7), (99, 0)):
        postgres.sql(
            "INSERT INTO scores (illust_id, page, run, scored_at, snapshot, model_version, embedding) "
            "VALUES (%s, %s, 'x', now(), 1, 'x', '[0,0,0,0]')",
            *stray,
        )
    assert pushed(world, postgres)["batches"] == 0
    pushed(world, postgres, full=True)
    check(world, postgres)


def test_a_table_that_was_dropped_is_filled_again(world: World, table: Table) -> None:
    if table.to.startswith("delta:") and "://" in table.to:
        pytest.skip("nobody drops a Delta table in a store but by removing its objects")
    world.night(FIRST)
    pushed(world, table)
    table.drop()
    assert pushed(world, table)["whole"] is True
    check(world, table)


@pytest.mark.parametrize("id_type", ["string"])
def test_ids_that_are_text(tmp_path: Path, table: Table, id_type: str) -> None:
    world = World(str(tmp_path / "text"), id_type=pa.string())
    names = ["a", "B", "b'", 'c"d', "é", "Z", "-", "10", "9"]
    world.night({(name, 0): "v1" for name in names})
    pushed(world, table)
    check(world, table)
    world.night({(name, 0): "v2" if name in "bé" else "v1" for name in names[2:]} | {("é", 1): "v1"})
    pushed(world, table)
    check(world, table)
    pushed(world, table, full=True)
    check(world, table)


def test_carried_columns_go_with_the_rows_and_are_sent_when_they_change(world: World, table: Table) -> None:
    counts = {1: 5, 2: 6, 3: 7}
    world.columns = {
        "Title of it": lambda key: f"no. {key[0]} \N{SNOWMAN} 'x'" if key[0] != 2 else None,
        "clicks": lambda key: counts[key[0]],
        "rate": lambda key: key[0] / 4,
        "is_new": lambda key: key[0] % 2 == 0,
        "day": lambda key: date(2026, 11, key[0]),
        "price": lambda key: Decimal(key[0]) / 4,
        "tags": lambda key: ["a", f"t{key[0]}"] if key[0] != 3 else [],
        "at": lambda key: datetime(2026, 1, 1) + timedelta(hours=key[0]),
    }
    carry = tuple(world.columns)
    world.night(keys(1, 2, 3), carry=carry)
    pushed(world, table)
    expected = live_rows(world.scores)
    found = {(row["illust_id"], row["page"]): row for row in table.rows()}
    for key, row in expected.items():
        for name in carry:
            assert _plain(found[key][name]) == _plain(row[name]), name
    counts[2] = 60
    world.night(keys(1, 2, 3), carry=carry)
    told = pushed(world, table)
    assert (told["upserted"], told["deleted"]) == (1, 0)
    assert {row["illust_id"]: row["clicks"] for row in table.rows()} == {1: 5, 2: 60, 3: 7}


def _plain(value: Any) -> Any:
    """The same for Postgres's JSON and for Arrow."""
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


@pytest.mark.parametrize("name", ["snapshot", "embedding", "pix2score_change", "Page", "Embedding", "STATUS"])
def test_a_carried_column_of_a_name_that_a_push_has_is_refused(
    world: World, postgres: Postgres, name: str
) -> None:
    world.columns = {name: lambda key: 1}
    world.night(keys(1), carry=(name,))
    with pytest.raises(ConfigError, match=f"carried column {name}: a push has its own column of that name"):
        pushed(world, postgres)


def test_a_carried_column_may_have_a_name_that_a_push_uses_within(world: World, table: Table) -> None:
    world.columns = {name: lambda key: key[0] for name in ("change", "due", "incoming", "i", "d", "s")}
    world.night(keys(1, 2, 3), carry=tuple(world.columns))
    pushed(world, table)
    world.night(keys(1, 3, 4), carry=tuple(world.columns))
    pushed(world, table)
    assert sorted((row["change"], row["illust_id"]) for row in table.rows()) == [(1, 1), (3, 3), (4, 4)]
    check(world, table)


def test_the_smallest_and_the_greatest_ids(world: World, table: Table) -> None:
    ids = (-(2**63), -(2**63) + 1, -1, 0, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1)
    world.night(keys(*ids))
    pushed(world, table, batch_rows=1)
    check(world, table)
    world.night(keys(*ids[1::2]))
    pushed(world, table)
    check(world, table)
    world.night(keys(*ids[::2]))
    pushed(world, table, full=True, batch_rows=1)
    check(world, table)


def test_a_model_with_other_columns_is_refused_until_the_table_is_made_anew(
    world: World, table: Table
) -> None:
    world.night(keys(1, 2))
    pushed(world, table)
    world.columns = {"clicks": lambda key: 1}
    world.night(keys(1, 2, 3), M2, carry=("clicks",))
    with pytest.raises(ConfigError, match=r"does not fit what this snapshot has \(lacks clicks int64\)"):
        pushed(world, table)
    pushed(world, table, recreate=True)
    assert {row["clicks"] for row in table.rows()} == {1}
    assert len(table.rows()) == 3
    assert table.position()["done"]


@on("lancedb")
def test_a_missing_embedding_is_told_before_its_row_is_sent(world: World, table: Table) -> None:
    world.night(keys(1, 2, 3, 4, 5, 6))
    second = sorted(entry.path for entry in world.folder.entries("embeddings"))[1]
    file = world.folder.full(second)
    rows = pq.read_table(file)
    pq.write_table(rows.slice(1), file)
    lost = rows.column("illust_id")[0].as_py()
    with pytest.raises(DataError, match="embeddings of 1 rows of snapshot 1 .* are missing: jobs.verify"):
        pushed(world, table, batch_rows=1)
    assert sorted(row["illust_id"] for row in table.rows()) == [i for i in range(1, 7) if i < lost]
    assert table.position()["done"] is False
    with pytest.raises(DataError, match="embeddings of 1 rows"):
        pushed(world, table, batch_rows=1)


@on("postgres")
def test_no_scores_is_one_line(tmp_path: Path, table: Table) -> None:
    with pytest.raises(DataError, match="no scores at"):
        push(pix2score.PushConfig(scores=str(tmp_path / "none"), to=table.to))


def test_a_table_that_is_dropped_while_a_push_begins_is_not_half_made(
    world: World, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.night(keys(1, 2, 3))
    pushed(world, table)
    world.night(keys(1, 2, 3, 4))
    begun = job.sent_schema

    def dropped(*args: Any) -> Any:
        """Between the question for the position and the work."""
        table.drop()
        return begun(*args)

    monkeypatch.setattr(job, "sent_schema", dropped)
    with pytest.raises(ConflictError, match="another push"):
        pushed(world, table)
    monkeypatch.undo()
    pushed(world, table)
    check(world, table)


@pytest.mark.parametrize("name", ['page"', '"illust_id"'])
def test_a_carried_column_that_is_nearly_called_as_the_key_follows_the_catalog(
    world: World, table: Table, name: str
) -> None:
    counts = {1: 5, 2: 6}
    world.columns = {name: lambda key: counts[key[0]]}
    world.night(keys(1, 2), carry=(name,))
    pushed(world, table)
    counts[2] = 60
    world.night(keys(1, 2), carry=(name,))
    pushed(world, table)
    check(world, table)
    assert sorted(row[name] for row in table.rows()) == [5, 60]
