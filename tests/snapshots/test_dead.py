"""The dead: whichever files list them, a reader of embeddings passes over exactly those rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pix2score.errors import DataError
from pix2score.snapshots import compaction, dead, lookup
from pix2score.snapshots.config import VacuumConfig
from pix2score.snapshots.dead import hashes_of, of_run, organise, organise_calls, organise_part
from pix2score.snapshots.lookup import DeadKeys
from pix2score.snapshots.manifest import live
from pix2score.snapshots.read import read_embeddings
from pix2score.snapshots.tables import DataFile, dead_schema, unique_path, write_file
from pix2score.snapshots.vacuum import vacuum
from pix2score.storage.folder import Folder
from tests.support.nights import M1, World, check, keys

IDS: dict[pa.DataType, list[Any]] = {
    pa.int64(): [-(2**63), -1, *range(400), 2**63 - 1],
    pa.string(): ["", "a/b", "1/0", "u\u0308", *(f"id{i}" for i in range(400))],
}


def rows_of(id_type: pa.DataType, numbers: Sequence[int], run: str) -> pa.Table:
    ids = IDS[id_type]
    columns = [[ids[i % len(ids)] for i in numbers], [i % 3 for i in numbers], [run] * len(numbers)]
    return pa.table(columns, schema=dead_schema(id_type))


def loose(folder: Folder, rows: pa.Table, size: int = 37) -> list[DataFile]:
    """As nights leave them: in several files, runs mixed."""
    starts = range(0, rows.num_rows, size)
    return [
        write_file(folder, "dead", unique_path("dead", f"n{start}"), rows.slice(start, size))
        for start in starts
    ]


@pytest.fixture(params=list(IDS), ids=str)
def id_type(request: pytest.FixtureRequest) -> pa.DataType:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["loose", "spilled", "organised", "both"])
def test_exactly_the_listed_keys_are_dead(
    tmp_path: Path, id_type: pa.DataType, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "FILE_ROWS", 50)
    monkeypatch.setattr(dead, "PART_ROWS", 120)
    monkeypatch.setattr(lookup, "HELD_BYTES", 4_000)  # so that files are opened again
    if form == "spilled":
        monkeypatch.setattr(lookup, "LOOSE_ROWS", 10)
    folder, rng = Folder(str(tmp_path)), np.random.default_rng(0)
    by_run = {run: rng.choice(1200, 150 * (i + 1), replace=False) for i, run in enumerate("abc")}
    rows = pa.concat_tables([rows_of(id_type, by_run[run].tolist(), run) for run in by_run])
    files = loose(folder, rows.take(pa.array(rng.permutation(rows.num_rows))))
    if form in ("organised", "both"):
        some = files if form == "organised" else files[:10]
        new = [f for call in organise_calls(folder, "n", id_type, some, "abc") for f in organise_part(*call)]
        assert all(of_run(file) for file in new)
        assert sum(file.rows for file in new) == sum(file.rows for file in some)
        files = [*new, *files[len(some) :]]
    asked = DeadKeys(folder, files, id_type)
    for run in "abcd":
        every = rows_of(id_type, range(1200), run)
        listed = {tuple(row.values()) for row in rows.to_pylist() if row["run"] == run}
        expected = [tuple(row.values()) in listed for row in every.to_pylist()]
        assert asked.are_dead(run, every["illust_id"], every["page"]).tolist() == expected


def test_keys_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two are known: every key is given the same."""
    everything = lambda keys: np.full(keys.num_rows, 7, np.uint64)  # noqa: E731
    monkeypatch.setattr(lookup, "hashes_of", everything)
    files = loose(Folder(str(tmp_path)), rows_of(pa.int64(), [3, 5, 8, 8], "a"))
    asked = DeadKeys(Folder(str(tmp_path)), files, pa.int64())
    every = rows_of(pa.int64(), range(12), "a")
    flags = asked.are_dead("a", every["illust_id"], every["page"])
    assert np.flatnonzero(flags).tolist() == [3, 5, 8]


def test_the_hash_is_that_of_the_format(id_type: pa.DataType) -> None:
    """Names of files say hashes: another one would bring the dead back."""
    table = rows_of(id_type, range(200), "a")
    texts = [f"{row['illust_id']}/{row['page']}" for row in table.to_pylist()]
    expected = [int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "little") for text in texts]
    assert hashes_of(table).tolist() == expected


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    (file,) = organise(folder, "n", pa.int64(), rows_of(pa.int64(), range(20), "a").to_batches())
    others = rows_of(pa.int64(), range(1, 21), "a")
    folder.delete([file.path])
    write_file(folder, "dead", file.path, others)
    every = rows_of(pa.int64(), range(30), "a")
    with pytest.raises(DataError, match="does not hold the keys that its name says"):
        DeadKeys(folder, [file], pa.int64()).are_dead("a", every["illust_id"], every["page"])


def test_vacuum_puts_many_files_of_the_dead_in_order_and_readers_open_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MANY_LOOSE", 6)
    world = World(str(tmp_path), piece_rows=300)
    content = keys(*range(300))
    world.night(content)
    num_nights = compaction.MANY_LOOSE + 1
    for i in range(num_nights):
        content = {**content, (i, 0): "b", (200, 0): f"night {i}"}
        world.night(content)
    files = live(world.scores).files_of("dead")
    assert len(files) == num_nights
    vacuum(VacuumConfig(scores=world.scores))
    named = [of_run(file) for file in live(world.scores).files_of("dead")]
    assert all(named), "none holds those of any run"
    check(world, content, M1)
    others = [f.path for f in live(world.scores).files_of("dead") if "/run-001/" not in f.path]
    world.folder.delete(others)
    of_first = read_embeddings(world.scores).to_table(filter=pc.field("run") == "run-001")
    assert of_first.num_rows == 300 - num_nights - 1
    with pytest.raises(DataError, match="is missing"):
        read_embeddings(world.scores).to_table()
