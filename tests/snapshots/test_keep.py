"""Which snapshots and staged pieces vacuum keeps, and what a reader of one that it removes is told."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import pix2score
from pix2score.errors import ConfigError, DataError
from pix2score.snapshots.config import PublishConfig, VacuumConfig
from pix2score.snapshots.manifest import live, numbers, path_of
from pix2score.snapshots.pieces import staged_receipts
from pix2score.snapshots.read import files_of_snapshot
from pix2score.snapshots.restore import publish_snapshot
from pix2score.snapshots.vacuum import vacuum
from tests.support.nights import M1, M2, World, check, keys

NO_AGE = {"keep_staged": "0s"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


@pytest.fixture
def any_world(place: str) -> World:
    return World(place)


def nights(world: World, num: int) -> None:
    """Snapshots that each have a table of their own."""
    for night in range(num):
        world.night({(1, 0): f"night {night}"})


def age(world: World, path: str, days: float) -> None:
    """The file was last written so many days ago."""
    moment = time.time() - days * 86_400
    os.utime(world.folder.full(path), (moment, moment))


def kept(world: World, **settings: Any) -> list[int]:
    vacuum(VacuumConfig(scores=world.scores, **settings))
    return numbers(world.folder)


def test_keep_counts_tables_so_that_neither_a_take_back_nor_a_compaction_uses_it_up(world: World) -> None:
    content = keys(*range(9))
    world.night(content)
    world.night({**content, **{(i, 0): "other" for i in range(8)}})
    assert kept(world, keep=14) == [1, 2, 3]  # 3 is a compaction of 2
    world.night({**content, (9, 0): "new"})
    publish_snapshot(PublishConfig(scores=world.scores, snapshot=3))
    # Tables, newest first: that of 2, 3 and 5; of 4; of 1.
    assert kept(world, keep=3) == [1, 2, 3, 4, 5]
    assert kept(world, keep=2) == [4, 5]
    assert kept(world, keep=1) == [5]


def test_keep_since_keeps_more_than_keep_and_never_less(world: World) -> None:
    nights(world, 5)
    for number in (1, 2, 3):
        age(world, path_of(number), 40 - 10 * number)  # 30, 20 and 10 days
    assert kept(world, keep=1, keep_since="25d") == [2, 3, 4, 5]
    assert kept(world, keep=3, keep_since="1h") == [3, 4, 5]
    assert kept(world, keep=1, keep_since="11d", **NO_AGE) == [3, 4, 5]
    assert pix2score.read_scores(world.scores, snapshot=3).count_rows() == 1
    assert kept(world, keep=1) == [5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_since": "30"}, "keep_since '30': expected a number with a unit"),
        ({"keep_model": ("models/7",)}, "keep_model 'models/7': expected a model_version, 12 hex digits"),
        ({"keep": 0}, "keep 0: at least 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VacuumConfig(scores="somewhere", **settings)


def test_staged_pieces_of_a_model_to_keep_never_age_out(any_world: World) -> None:
    content = keys(*range(9))
    any_world.night(content)
    any_world.night(content, M2, killed_after=2)
    any_world.night({**content, (9, 0): "new"}, killed_after=1)
    vacuum(VacuumConfig(scores=any_world.scores, keep_model=(M2,), **NO_AGE))
    assert {receipt.origin.model_version for receipt in staged_receipts(any_world.folder)} == {M2}
    any_world.night(content, M2)
    assert len(any_world.scored) == 3
    check(any_world, content, M2)
    any_world.night(content, M1, killed_after=1)
    vacuum(VacuumConfig(scores=any_world.scores, keep_model=("cccccccccccc",), **NO_AGE))
    assert staged_receipts(any_world.folder) == []


@pytest.mark.parametrize("read", ["scores", "embeddings"])
def test_a_dataset_opened_before_vacuum_gives_its_own_rows_or_an_error_that_says_why(
    any_world: World, read: str
) -> None:
    any_world.night(keys(*range(4)))
    any_world.night({**keys(*range(3)), (0, 0): "other"})
    any_world.night({(0, 0): "a", (1, 0): "b", (2, 0): "c"})
    opener = pix2score.read_scores if read == "scores" else pix2score.read_embeddings
    datasets = {number: opener(any_world.scores, snapshot=number) for number in (1, 2, 3)}
    before = {number: dataset.to_table().to_pylist() for number, dataset in datasets.items()}
    publish_snapshot(PublishConfig(scores=any_world.scores, snapshot=1))
    assert kept(any_world, keep=2, **NO_AGE) == [3, 4]
    for number in (1, 3):  # the files of 1 are those of 4
        assert datasets[number].to_table().to_pylist() == before[number]
        assert datasets[number].count_rows() == len(before[number])
    with pytest.raises(DataError, match=r"a file of snapshot 2 .* is missing.*--keep.*live is 4"):
        datasets[2].to_table()
    with pytest.raises(DataError, match=r"there is no snapshot 2 .*: 3-4$"):
        opener(any_world.scores, snapshot=2)
    assert opener(any_world.scores).to_table().to_pylist() == before[1]


@pytest.mark.parametrize("read", ["scores", "embeddings"])
def test_a_reader_in_the_middle_of_its_files_gets_an_error_or_the_rest_of_its_rows(
    any_world: World, read: str
) -> None:
    any_world.night(keys(*range(36)))  # 12 files of embeddings
    opener = pix2score.read_scores if read == "scores" else pix2score.read_embeddings
    before = opener(any_world.scores).to_table().to_pylist()
    options = {"batch_size": 2, "batch_readahead": 0, "fragment_readahead": 0, "use_threads": False}
    batches = opener(any_world.scores).to_batches(**options)
    found = next(batches).to_pylist()
    any_world.night({(i, 0): "other" for i in range(36)}, M2)
    assert kept(any_world, keep=1, **NO_AGE) == [2]
    try:
        for batch in batches:
            found += batch.to_pylist()
    except DataError as exc:
        assert "a file of snapshot 1 " in str(exc) and "live is 2" in str(exc)
    else:
        assert found == before
    assert all(row in before for row in found)


def test_a_file_that_goes_while_it_is_read_is_told_like_one_that_was_gone(s3_place: str) -> None:
    world = World(s3_place)
    nights(world, 1)
    snapshot = live(world.scores)
    (file,) = snapshot.files_of("scores")
    files = files_of_snapshot(world.folder, snapshot)
    with files.open_input_file(world.folder.full(file.path).removeprefix("s3://")) as stream:
        stream.seek(file.bytes - 8)
        assert stream.read(8)[4:] == b"PAR1"
        world.folder.delete([file.path])
        stream.seek(0)
        with pytest.raises(DataError, match=r"a file of snapshot 1 .* is missing.*jobs\.verify"):
            stream.read(100)
