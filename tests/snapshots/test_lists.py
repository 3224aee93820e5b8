"""Lists: a snapshot with many files names them in Parquet files of their own; all else stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pix2score.errors import DataError, VerifyError
from pix2score.nightly import cuts
from pix2score.snapshots import compaction, lists
from pix2score.snapshots.config import HistoryConfig, PublishConfig, VacuumConfig, VerifyConfig
from pix2score.snapshots.history import history
from pix2score.snapshots.manifest import live, live_number, read_snapshot
from pix2score.snapshots.pieces import staged_receipts
from pix2score.snapshots.restore import publish_snapshot
from pix2score.snapshots.tables import READABLE_VERSIONS
from pix2score.snapshots.vacuum import vacuum
from pix2score.snapshots.verify import verify
from tests.support.nights import M1, World, check, keys


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Whose snapshots are large with five files."""
    monkeypatch.setattr(lists, "LISTED_FROM", 4)
    monkeypatch.setattr(lists, "MEAN_FILES", 2)
    monkeypatch.setattr(cuts, "PART_ROWS", 3)
    return World(str(tmp_path))


def list_paths(world: World, number: int) -> set[str]:
    return {one.path for one in read_snapshot(world.folder, number).lists}


def manifest(world: World, number: int) -> dict[str, object]:
    found: dict[str, object] = json.loads(world.folder.read(f"snapshots/{number:08}.json"))
    return found


def test_nights_with_lists_are_as_without(world: World) -> None:
    content = keys(*range(30))
    world.night(content)
    for i in range(2):
        content = {key: value for key, value in content.items() if key != (i, 0)}
        content |= {(20 + i, 0): "other", (40 + i, 0): "new"}
        world.night(content)
        check(world, content, M1)
    told = manifest(world, 3)
    assert ("files" in told, told["schema_version"]) == (False, 3)
    snapshot = live(world.scores)
    assert snapshot.num_files == len(snapshot.files) > 20
    assert snapshot.num_bytes == sum(file.bytes for file in snapshot.files)
    first_keys = [file.first_key for file in snapshot.files_of("scores")]
    assert first_keys == sorted(first_keys, key=lambda key: key or ())
    assert len({one.table for one in snapshot.lists}) == 4


def test_lists_that_stay_the_same_are_named_again(world: World) -> None:
    world.night(keys(*range(40)))
    world.night({**keys(*range(40)), (0, 0): "other"})
    first, second = list_paths(world, 1), list_paths(world, 2)
    assert len(first & second) >= len(first) // 2
    assert {e.path for e in (world.folder / "lists").entries()} == {p[6:] for p in first | second}


def test_a_small_snapshot_has_no_list(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    world.night(keys(*range(9)))
    told = manifest(world, 1)
    assert told["schema_version"] == 2
    assert "lists" not in told
    assert list(told) == [
        *("snapshot", "parent", "schema_version", "run", "model_version", "trunk_version", "layout"),
        *("fingerprint_kind", "config", "counts", "formats", "plan", "carry", "runs", "consumed"),
        *("removed_runs", "files", "sha256"),
    ]
    assert world.folder.entries("lists") == []


def test_a_reader_that_knows_no_lists_refuses_the_manifest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions before lists do: they look at the number alone."""
    world.night(keys(*range(20)))
    monkeypatch.setattr("pix2score.snapshots.manifest.READABLE_VERSIONS", READABLE_VERSIONS[:2])
    with pytest.raises(DataError, match="has schema version 3; this version of pix2score reads 1 and 2"):
        live(world.scores)


@pytest.mark.parametrize("how", ["missing", "altered"])
def test_a_damaged_list_is_named_and_nothing_is_removed(world: World, how: str) -> None:
    world.night(keys(*range(20)))
    (path, *_) = sorted(list_paths(world, 1))
    data = bytearray(world.folder.read(path))
    data[len(data) // 2] ^= 1
    world.folder.delete([path])
    if how == "altered":
        world.folder.publish(path, bytes(data))
    before = world.folder.entries()
    with pytest.raises(VerifyError, match=f"{path} (is missing|was altered)"):
        verify(VerifyConfig(scores=world.scores))
    with pytest.raises(DataError, match=path):
        vacuum(VacuumConfig(scores=world.scores, keep=1, keep_staged="0s"))
    assert world.folder.entries() == before
    assert history(HistoryConfig(scores=world.scores))["live"] == 1, "it reads no list"


def test_vacuum_keeps_lists_of_kept_snapshots_and_no_others(world: World) -> None:
    content = keys(*range(22))
    world.night(content)
    for i in range(3):
        content = {**content, (i * 7, 0): f"night {i}"}
        world.night(content)
    vacuum(VacuumConfig(scores=world.scores, keep=2, keep_staged="0s"))
    number = live_number(world.folder)
    kept = list_paths(world, number) | list_paths(world, number - 1)
    assert {f"lists/{e.path}" for e in (world.folder / "lists").entries()} >= kept
    vacuum(VacuumConfig(scores=world.scores, keep=1, keep_staged="0s"))
    assert {f"lists/{e.path}" for e in (world.folder / "lists").entries()} == list_paths(world, number)
    check(world, content, M1)


def test_an_older_snapshot_with_lists_is_published_again(world: World) -> None:
    world.night(keys(*range(20)))
    rows = world.rows()
    world.night({**keys(*range(25)), (3, 0): "other"})
    done = publish_snapshot(PublishConfig(scores=world.scores, snapshot=1))
    assert (done["files"], done["snapshot"]) == (read_snapshot(world.folder, 1).num_files, 3)
    assert list_paths(world, 3) == list_paths(world, 1)
    assert world.rows() == rows
    assert publish_snapshot(PublishConfig(scores=world.scores, snapshot=1))["snapshot"] == 3
    world.catalog(keys(*range(20)))
    check(world, keys(*range(20)), M1)


def test_many_receipts_are_in_a_list_and_their_pieces_are_not_used_again(world: World) -> None:
    world.piece_rows = 2
    world.night(keys(*range(20)), killed_after=6)
    standing = {e.path: world.folder.read(e.path) for e in world.folder.entries("staged")}
    world.night(keys(*range(20)))
    assert "consumed" not in manifest(world, 1)
    assert len(live(world.scores).consumed) == 6
    for path, data in standing.items():  # killed before it tidied up
        world.folder.publish(path, data, replace=True)
    world.night(keys(*range(3, 20)))
    for path, data in standing.items():
        world.folder.publish(path, data, replace=True)
    world.night(keys(*range(20)))
    check(world, keys(*range(20)), M1)
    assert staged_receipts(world.folder) == []
    vacuum(VacuumConfig(scores=world.scores))
    check(world, keys(*range(20)), M1)


def test_compaction_keeps_the_list_of_receipts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MANY_SMALL", 2)
    world.piece_rows = 2
    world.night(keys(*range(20)), killed_after=6)
    world.night(keys(*range(20)))
    before = live(world.scores).consumed
    assert vacuum(VacuumConfig(scores=world.scores))["files_compacted"] == 10
    assert (live_number(world.folder), len(before)) == (2, 6)
    assert live(world.scores).consumed == before
    check(world, keys(*range(20)), M1)
