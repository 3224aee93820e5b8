"""Groups of near-identical pictures: the components of the pairs that the plain formula finds."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pix2score
from pix2score.errors import ConfigError
from pix2score.neighbours.config import DuplicatesConfig, IndexConfig
from pix2score.neighbours.duplicates import duplicates
from pix2score.neighbours.groups import Components, hashes, join_by_index, join_copies, remove_others
from pix2score.neighbours.index import index
from pix2score.neighbours.loaded import loaded_index
from pix2score.snapshots.manifest import publish
from pix2score.snapshots.tables import write_file
from pix2score.storage.folder import Folder
from tests.neighbours.made import Vectors, night, vectors_of
from tests.support.builders import Key

KEYS: list[Key] = [(number, number % 2) for number in range(600)]


def with_copies() -> Vectors:
    """Two chains of near-identical rows, one embedding fifty times, and rows of zeros."""
    rng, found = np.random.default_rng(3), vectors_of(KEYS)
    for start, num in ((10, 4), (30, 3)):
        row = found[KEYS[start]].astype(np.float32)
        for step in range(num):
            found[7000 + start + step, 0] = row.astype(np.float16)
            row = row + 0.12 * np.linalg.norm(row) * _unit(rng.standard_normal(len(row)))
    for number in range(50):
        found[8000 + number, 0] = found[KEYS[100]]
    for number in range(5):
        found[9000 + number, 0] = np.zeros_like(found[KEYS[0]])
    return found


def _unit(row: np.ndarray) -> np.ndarray:
    return np.asarray(row / np.linalg.norm(row))


def by_the_formula(vectors: Vectors, threshold: float) -> list[list[Key]]:
    """Components of all pairs, the largest first, of equal ones the first by key."""
    keys = sorted(vectors)
    rows = np.stack([vectors[key] for key in keys]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    label = np.arange(len(keys))
    pairs = np.argwhere(np.triu(rows @ rows.T >= threshold, 1))
    for _ in range(len(keys)):
        before = label.copy()
        for one, other in pairs:
            label[one] = label[other] = min(label[one], label[other])
        if (before == label).all():
            break
    groups = [[keys[i] for i in np.flatnonzero(label == root)] for root in np.unique(label)]
    return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group))


def groups_of(table: pa.Table) -> list[list[Key]]:
    found: dict[int, list[Key]] = {}
    for row in table.to_pylist():
        found.setdefault(row["group"], []).append((row["illust_id"], row["page"]))
    return [found[number] for number in range(len(found))]


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("threshold", [0.98, 0.995, 1.0])
def test_groups_are_the_components_of_the_pairs(tmp_path: Path, indexed: bool, threshold: float) -> None:
    vectors, place = with_copies(), str(tmp_path / "scores")
    night(place, {"run-1": vectors})
    if indexed:
        index(IndexConfig(scores=place))
    out = str(tmp_path / "found.parquet")
    summary = duplicates(DuplicatesConfig(scores=place, out=out, threshold=threshold))
    wanted = by_the_formula(vectors, min(threshold, 1 - 1e-9))
    table = pq.read_table(out)
    assert groups_of(table) == wanted
    assert (summary["groups"], summary["images"]) == (len(wanted), sum(map(len, wanted)))
    assert (summary["largest"], summary["indexed"], summary["rows"]) == (51, indexed, len(vectors) - 5)
    first = {number: group[0] for number, group in enumerate(wanted)}
    for row in table.to_pylist():
        one, other = (
            vectors[key].astype(np.float64) for key in (first[row["group"]], (row["illust_id"], row["page"]))
        )
        assert row["similarity"] == pytest.approx(
            one @ other / np.sqrt((one @ one) * (other @ other)), abs=1e-5
        )


def test_a_chain_is_one_group_whose_ends_are_less_alike(tmp_path: Path) -> None:
    place, out = str(tmp_path / "scores"), str(tmp_path / "found.parquet")
    night(place, {"run-1": with_copies()})
    duplicates(DuplicatesConfig(scores=place, out=out, threshold=0.99))
    rows = [row for row in pq.read_table(out).to_pylist() if 7010 <= row["illust_id"] < 7014]
    assert len({row["group"] for row in rows}) == 1
    assert min(row["similarity"] for row in rows) < 0.99


def test_groups_on_s3(s3_place: str) -> None:
    keys = KEYS[:60]
    vectors = vectors_of(keys) | {(7000, 0): vectors_of(keys)[keys[3]]}
    night(f"{s3_place}/scores", {"run-1": vectors})
    found = []
    for name in ("exact", "indexed"):
        out = f"{s3_place}/{name}.parquet"
        found.append(duplicates(DuplicatesConfig(scores=f"{s3_place}/scores", out=out)))
        index(IndexConfig(scores=f"{s3_place}/scores"))
        table = pq.read_table(pa.BufferReader(Folder(s3_place).read(f"{name}.parquet")))
        assert groups_of(table)[0] == [keys[3], (7000, 0)]
    assert [one["indexed"] for one in found] == [False, True]


def test_no_group_is_an_empty_table_with_its_columns(tmp_path: Path) -> None:
    place, out = str(tmp_path / "scores"), str(tmp_path / "found.parquet")
    night(place, {"run-1": {(i, 0): np.eye(40, dtype=np.float16)[i] for i in range(40)}})
    summary = duplicates(DuplicatesConfig(scores=place, out=out))
    assert (summary["groups"], summary["images"], summary["largest"]) == (0, 0, 0)
    assert pq.read_table(out).column_names == ["group", "illust_id", "page", "similarity"]


def test_superseded_and_removed_rows_are_in_no_group(tmp_path: Path) -> None:
    place, out = str(tmp_path / "scores"), str(tmp_path / "found.parquet")
    first = vectors_of(KEYS) | {(7000, 0): vectors_of(KEYS)[KEYS[3]], (7001, 0): vectors_of(KEYS)[KEYS[5]]}
    night(place, {"run-1": first})
    index(IndexConfig(scores=place))
    night(
        place,
        {"run-1": first, "run-2": {(7000, 0): vectors_of(KEYS, seed=9)[KEYS[0]]}},
        parent=1,
        removed=[(7001, 0)],
    )
    for _ in range(2):
        assert not {7000, 7001} & set(_ids(place, out))
        index(IndexConfig(scores=place))


def _ids(place: str, out: str) -> list[int]:
    duplicates(DuplicatesConfig(scores=place, out=out))
    return list(pq.read_table(out).column("illust_id").to_pylist())


def test_columns_of_the_catalog_are_carried(tmp_path: Path) -> None:
    place, out = str(tmp_path / "scores"), str(tmp_path / "found.parquet")
    vectors = with_copies()
    snapshot = night(place, {"run-1": vectors})
    (file,) = snapshot.files_of("scores")
    rows = pq.read_table(f"{place}/{file.path}")
    artists = pa.array([f"artist {row}" for row in rows.column("illust_id").to_pylist()])
    wider = write_file(
        Folder(place), "scores", "scores/2/part-wide.parquet", rows.append_column("artist", artists)
    )
    files = [asdict(wider), *(asdict(f) for f in snapshot.files if f.table != "scores")]
    carry = {"columns": {"artist": "string"}, "hash": ""}
    publish(Folder(place), 1, {**snapshot.manifest, "files": files, "carry": carry})
    duplicates(DuplicatesConfig(scores=place, out=out))
    table = pq.read_table(out)
    assert table.column_names == ["group", "illust_id", "page", "similarity", "artist"]
    assert {row["artist"] == f"artist {row['illust_id']}" for row in table.to_pylist()} == {True}


def test_too_many_rows_without_an_index_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "scores")
    night(place, {"run-1": vectors_of(KEYS)})
    monkeypatch.setattr("pix2score.neighbours.duplicates.EXACT_ROWS", 599)
    with pytest.raises(ConfigError, match="600 embeddings are too many .* by jobs.index"):
        duplicates(DuplicatesConfig(scores=place, out=str(tmp_path / "found.parquet")))
    index(IndexConfig(scores=place))
    duplicates(DuplicatesConfig(scores=place, out=str(tmp_path / "found.parquet")))
    with pytest.raises(ConfigError, match=r"threshold 0.4: expected 0.5 to 1"):
        DuplicatesConfig(scores=place, out="x", threshold=0.4)


@pytest.mark.parametrize("indexed", [False, True])
def test_thousands_of_near_identical_rows_are_a_group_within_seconds(tmp_path: Path, indexed: bool) -> None:
    """Eight million pairs: one by one they took half a minute, and four times as long for twice the rows."""
    rng, place = np.random.default_rng(5), str(tmp_path)
    rows = (rng.random(16) + 0.01 * rng.standard_normal((4_000, 16))).astype(np.float16)
    copies = np.repeat(rows[:1], 500, axis=0)
    night(place, {"r1": {(number, 0): row for number, row in enumerate(np.concatenate([rows, copies]))}})
    if indexed:
        index(IndexConfig(scores=place))
    start = time.process_time()
    told = duplicates(DuplicatesConfig(scores=place, out=f"{place}/groups.parquet"))
    assert (told["groups"], told["largest"], told["indexed"]) == (1, 4_500, indexed)
    assert time.process_time() - start < 8


def test_an_index_that_misses_far_neighbours_finds_near_identical_rows(tmp_path: Path) -> None:
    """200,000 rows without any order have a recall of 0.92, and duplicates said: make the index first."""
    place, vectors = str(tmp_path), with_copies()
    night(place, {"r1": vectors})
    index(IndexConfig(scores=place))
    path = tmp_path / "index/00000001/index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recall": 0.5}))
    told = duplicates(DuplicatesConfig(scores=place, out=f"{place}/groups.parquet"))
    assert told["indexed"]
    assert groups_of(pq.read_table(f"{place}/groups.parquet")) == by_the_formula(vectors, 0.98)


@pytest.mark.parametrize("indexed", [False, True])
def test_how_far_it_is_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, indexed: bool
) -> None:
    place = str(tmp_path)
    night(place, {"r1": vectors_of(KEYS)})
    monkeypatch.setattr("pix2score.neighbours.groups.BLOCK_ROWS", 256)
    config = DuplicatesConfig(scores=place, out=f"{place}/groups.parquet")
    if indexed:
        index(IndexConfig(scores=place))
    with caplog.at_level(logging.INFO):
        duplicates(config)
        assert "embeddings compared" not in caplog.text  # nothing that took long
        monkeypatch.setattr("pix2score.neighbours.duplicates.TOLD_S", 0)
        duplicates(config)
    told = [line for line in caplog.messages if " of 600 embeddings " in line]
    compared = [f"{done} of 600 embeddings compared" for done in (256, 512, 600)]
    assert told == ["600 of 600 embeddings read"] * indexed + compared


def test_what_a_search_may_find_at_once_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cell with a million rows that are near to each other, 256 would find 256 million."""
    place, vectors = str(tmp_path), with_copies()
    snapshot = night(place, {"r1": vectors})
    index(IndexConfig(scores=place))
    loaded = loaded_index(Folder(place), snapshot)
    assert loaded
    loaded.faiss.nprobe = loaded.cells.num_cells
    _, _, chosen = loaded.faiss.range_search(loaded.cells.project(loaded.vectors.read(np.zeros(1, int))), 0.9)
    monkeypatch.setattr("pix2score.neighbours.groups.MAX_FOUND", 7 * len(chosen))
    monkeypatch.setattr("pix2score.neighbours.groups.PROBED", 2)
    done = list[int]()
    join_by_index(Components(len(vectors)), loaded, np.sort(chosen), 0.5, done.append)
    most = max(np.diff([0, *done]))
    assert 7 <= most < len(chosen)
    asked = loaded.cells.project(loaded.vectors.read(np.sort(chosen)))
    limits, _, _ = loaded.faiss.range_search(asked, 4.0)  # as far as can be
    assert max(np.diff(limits)) * most <= 7 * len(chosen)


def test_what_is_not_compared_is_not_found_by_what_is(tmp_path: Path) -> None:
    """A placeholder that stands in the table thousands of times would be found by each row near it."""
    place, vectors = str(tmp_path), with_copies()
    snapshot = night(place, {"r1": vectors})
    index(IndexConfig(scores=place))
    loaded = loaded_index(Folder(place), snapshot)
    assert loaded
    chosen = np.arange(0, len(vectors), 3)
    remove_others(loaded, chosen)
    assert loaded.num_rows == len(chosen)
    _, found = loaded.faiss.search(np.zeros((1, loaded.cells.dim), np.float32), len(vectors))
    assert {*found[0].tolist()} <= {*chosen.tolist(), -1}


def test_hashes_tell_rows_apart() -> None:
    rows = np.random.default_rng(0).random((2_000, 21)).astype(np.float16)
    swapped = rows.copy()
    swapped[:, [0, 1]] = rows[:, [1, 0]]
    assert len(np.unique(np.concatenate([hashes(rows), hashes(swapped)]))) == 4_000
    assert (hashes(rows) == hashes(rows.copy())).all()


def test_one_of_each_copy_stands_for_all() -> None:
    found = Components(6)
    chosen = join_copies(found, np.array([5, 7, 5, 9, 7, 9], np.uint64), np.array([1, 1, 1, 1, 1, 0], bool))
    assert chosen.tolist() == [0, 1, 3]
    assert found.roots().tolist() == [0, 1, 0, 3, 1, 5]


def test_the_public_function_is_this_one() -> None:
    assert pix2score.duplicates is duplicates
