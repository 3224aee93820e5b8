"""The index answers as the exact search does, follows the nights, and never misleads after a kill."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pix2score
from pix2score.errors import ConfigError, ConflictError, DataError, StorageError, VerifyError
from pix2score.neighbours import index as indexing
from pix2score.neighbours import parts
from pix2score.neighbours.config import DuplicatesConfig, IndexConfig
from pix2score.neighbours.duplicates import duplicates
from pix2score.neighbours.index import index
from pix2score.neighbours.loaded import LoadedIndex
from pix2score.neighbours.questions import Questions
from pix2score.neighbours.similar import Neighbours, similar
from pix2score.snapshots.config import PublishConfig, VacuumConfig, VerifyConfig
from pix2score.snapshots.indexes import IndexCard, each_index, publish_index
from pix2score.snapshots.restore import publish_snapshot
from pix2score.snapshots.tables import Layout
from pix2score.snapshots.vacuum import vacuum
from pix2score.snapshots.verify import verify
from pix2score.storage.folder import Folder
from pix2score.storage.places import is_s3
from tests.neighbours.made import Vectors, cosines, night, vectors_of
from tests.support.builders import Key
from tests.support.paths import ROOT

KEYS: list[Key] = [(number, number % 2) for number in range(900)]
FIRST = vectors_of(KEYS)
PART_ROWS = 256


def made(place: str) -> dict[str, Any]:
    return {**index(IndexConfig(scores=place))}


def cards(place: str) -> dict[int, IndexCard]:
    """Snapshot -> card of its index."""
    return {card.snapshot: card for card in each_index(Folder(place))}


def pairs(table: pa.Table) -> list[tuple[Key, float]]:
    return [((row["illust_id"], row["page"]), row["similarity"]) for row in table.to_pylist()]


def recall(place: str, vectors: Vectors, num: int = 60) -> float:
    """Share of the ten nearest that are found; what is found has the exact similarity."""
    asked, found = Neighbours(place), 0
    num = min(num, 2) if is_s3(place) else num  # each candidate is a request
    assert asked.is_indexed
    for key in list(vectors)[:num]:
        exact = dict(one for one in cosines(vectors, vectors[key], len(vectors)) if one[0] != key)
        wanted = list(exact)[:10]
        for other, similarity in pairs(asked.of([key], 10)):
            found += other in wanted
            assert similarity == pytest.approx(exact[other], abs=1e-6)
    return found / num / 10


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index of several parts without many rows."""
    monkeypatch.setattr("pix2score.neighbours.build.PART_ROWS", PART_ROWS)


@pytest.fixture(scope="module")
def first_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first night, of run-1, and its index."""
    place = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pix2score.neighbours.build.PART_ROWS", PART_ROWS)
        night(str(place), {"run-1": FIRST})
        made(str(place))
    return place


@pytest.fixture
def indexed(first_built: Path, tmp_path: Path) -> str:
    """A copy of them, in ``tmp_path``."""
    shutil.copytree(first_built, tmp_path, dirs_exist_ok=True)
    return str(tmp_path)


def test_it_finds_the_nearest_with_their_exact_similarity(place: str) -> None:
    night(place, {"run-1": FIRST})
    summary = made(place)
    assert (summary["snapshot"], summary["rows"], summary["added"], summary["gone"]) == (1, 900, 900, 0)
    (card,) = cards(place).values()
    assert len(card.parts) == 4
    assert card.recall >= 0.98
    assert recall(place, FIRST) >= 0.98


def test_it_answers_as_the_exact_search_does(tmp_path: Path) -> None:
    night(str(tmp_path), {"run-1": FIRST})
    keys: list[Any] = [(12, 0), (13, 1), (800, 0)]
    exact = pix2score.similar(str(tmp_path), keys, 5)
    made(str(tmp_path))
    by_index = pix2score.similar(str(tmp_path), keys, 5)
    assert by_index.schema == exact.schema
    assert [key for key, _ in pairs(by_index)] == [key for key, _ in pairs(exact)]
    np.testing.assert_allclose(by_index.column("similarity"), exact.column("similarity"), atol=1e-6)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_picture_that_is_not_in_the_table_has_neighbours(tmp_path: Path, indexed: bool) -> None:
    night(str(tmp_path), {"run-1": FIRST})
    if indexed:
        made(str(tmp_path))
    asked = Neighbours(str(tmp_path))
    other = vectors_of([(0, 0)], seed=7)[0, 0]
    found, wanted = pairs(asked.like(other, 6)), cosines(FIRST, other, 6)
    assert asked.is_indexed == indexed
    assert [key for key, _ in found] == [key for key, _ in wanted]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in wanted], atol=1e-6)
    assert pairs(asked.like(FIRST[5, 1], 1)) == [((5, 1), pytest.approx(1, abs=1e-6))]
    for wrong in (other[:5], other * np.nan):
        with pytest.raises(ConfigError, match="expected 32 finite numbers"):
            asked.like(wrong)


def test_string_ids_and_float32(tmp_path: Path) -> None:
    keys: list[Key] = [(f"work/{number}", 0) for number in range(300)]
    vectors = vectors_of(keys, dtype=np.float32)
    night(str(tmp_path), {"run-1": vectors}, layout=Layout(pa.string(), (), 32, "float32"))
    made(str(tmp_path))
    assert recall(str(tmp_path), vectors, 20) >= 0.98
    with pytest.raises(DataError, match="'work/999', page 0, has no embedding"):
        Neighbours(str(tmp_path)).of("work/999")
    with pytest.raises(DataError, match="7: the ids of .* are string"):
        Neighbours(str(tmp_path)).of(7)


def test_more_neighbours_than_an_index_is_good_for_are_found_exactly(indexed: str) -> None:
    found = Neighbours(indexed).of([(3, 1)], 700)
    assert [key for key, _ in pairs(found)][:50] == [
        key for key, _ in cosines({k: v for k, v in FIRST.items() if k != (3, 1)}, FIRST[3, 1], 50)
    ]
    assert found.num_rows == 700


def later(place: str, num_changed: int = 30, num_new: int = 20, num_removed: int = 10) -> Vectors:
    """A second night; its live embeddings."""
    second = vectors_of([*KEYS[:num_changed], *((9000 + i, 0) for i in range(num_new))], seed=1)
    removed = KEYS[len(KEYS) - num_removed :]
    night(place, {"run-1": FIRST, "run-2": second}, parent=1, removed=removed)
    return {key: vector for key, vector in (FIRST | second).items() if key not in removed}


@pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_the_next_night_is_taken_up(place: str) -> None:
    night(place, {"run-1": FIRST})
    made(place)
    old = {entry.path for entry in Folder(f"{place}/index/00000001").entries(suffix=".vectors")}
    vectors = later(place)
    summary = made(place)
    assert (summary["rows"], summary["added"], summary["gone"]) == (910, 50, 40)
    new = {entry.path for entry in Folder(f"{place}/index/00000002").entries(suffix=".vectors")}
    assert len(old) == 4
    assert len(new) == 1
    assert recall(place, vectors) >= 0.98
    asked = Neighbours(place)
    for gone in KEYS[-10:]:
        with pytest.raises(DataError, match="has no embedding"):
            asked.of([gone])
    assert {key for key, _ in pairs(asked.like(np.ones(32), 100))} <= vectors.keys()
    verify(VerifyConfig(scores=place))


def test_measured_recall_follows_the_rows(indexed: str) -> None:
    """What the card says after rows came and went is what asking all of them says."""
    vectors = later(indexed)
    made(indexed)
    card = cards(indexed)[2]
    folder = Folder(indexed)
    kept, loaded = Questions.read(folder.read(card.questions.path)), LoadedIndex(folder, card)
    for unit_D, positions in zip(kept._unit_QD, kept._position_QK, strict=True):
        ids, pages = loaded.keys(positions[:10])
        found = list(zip(ids.to_pylist(), pages.to_pylist(), strict=True))
        assert found == [key for key, _ in cosines(vectors, unit_D, 10)]


def test_new_rows_of_another_kind_are_measured_too(indexed: str) -> None:
    keys: list[Key] = [(9000 + number, 0) for number in range(150)]
    other = vectors_of(keys, seed=3, themes_of=7)
    night(indexed, {"run-1": FIRST, "run-2": other}, parent=1)
    made(indexed)
    before, after = (card for _, card in sorted(cards(indexed).items()))
    assert after.recall >= 0.98
    assert recall(indexed, other | FIRST, 60) >= 0.97
    folder = Folder(indexed)
    kept = Questions.read(folder.read(after.questions.path))
    assert len(kept._unit_QD) == len(Questions.read(folder.read(before.questions.path))._unit_QD) == 200
    for unit_D in kept._unit_QD[-3:]:
        (nearest,) = cosines(FIRST | other, unit_D, 1)
        assert nearest[0] in other


def test_a_night_that_changed_much_or_another_trunk_builds_all_anew(indexed: str) -> None:
    vectors = later(indexed, num_changed=200)
    summary = made(indexed)
    assert (summary["added"], summary["gone"]) == (910, 0)
    assert recall(indexed, vectors, 30) >= 0.98
    other = vectors_of(KEYS, seed=4)
    night(indexed, {"run-3": other}, parent=2, trunk="c" * 12)
    assert made(indexed)["added"] == 900
    assert recall(indexed, other, 30) >= 0.98


def test_changes_add_up_until_all_is_built_anew(indexed: str) -> None:
    runs = {"run-1": FIRST, "run-2": vectors_of(KEYS[:40], seed=1)}
    night(indexed, runs, parent=1)
    config = IndexConfig(scores=indexed, rebuild_share=0.1)
    assert index(config)["added"] == 40  # and as many went
    night(indexed, runs | {"run-3": vectors_of(KEYS[50:60], seed=2)}, parent=2)
    assert index(config)["added"] == 900


def test_cells_of_another_trunk_are_not_taken_up(indexed: str) -> None:
    night(indexed, {"run-1": FIRST}, parent=1, trunk="c" * 12)
    assert made(indexed)["added"] == 900


def test_an_index_of_other_embeddings_is_not_used_and_the_log_says_why(
    indexed: str, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = later(indexed)
    with caplog.at_level(logging.INFO):
        asked = Neighbours(indexed)
    assert not asked.is_indexed
    (line,) = [r.getMessage() for r in caplog.records if "every embedding" in r.getMessage()]
    assert "index is of snapshot 1" in line
    assert [key for key, _ in pairs(asked.like(vectors[9000, 0], 3))] == [
        key for key, _ in cosines(vectors, vectors[9000, 0], 3)
    ]


def test_an_index_is_not_used_once_rows_are_gone(indexed: str) -> None:
    night(indexed, {"run-1": FIRST}, parent=1, removed=KEYS[:2])
    assert not Neighbours(indexed).is_indexed
    assert made(indexed)["gone"] == 2
    found = pairs(Neighbours(indexed).like(FIRST[KEYS[0]], 5))
    assert not {*KEYS[:2]} & {key for key, _ in found}


def test_an_index_serves_a_night_that_left_the_embeddings_as_they_are(indexed: str) -> None:
    night(indexed, {"run-1": FIRST}, parent=1)
    assert Neighbours(indexed).is_indexed
    summary = made(indexed)
    assert (summary["snapshot"], summary["added"], summary["gone"]) == (2, 0, 0)
    assert made(indexed)["added"] == 0
    assert sorted(cards(indexed)) == [1, 2]


def test_an_index_that_finds_too_little_is_not_used(
    tmp_path: Path, indexed: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "index/00000001/index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recall": 0.97}))
    with caplog.at_level(logging.INFO):
        assert not Neighbours(indexed).is_indexed
    assert "finds 97.0% of the nearest" in caplog.text


def test_without_the_library_the_answer_is_exact_and_the_job_says_what_to_install(
    indexed: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pix2score.cli.packages.find_spec", lambda name: None)
    with caplog.at_level(logging.INFO):
        assert not Neighbours(indexed).is_indexed
    assert "pip install 'pix2score[index]'" in caplog.text
    with pytest.raises(ConfigError, match=r"jobs.index needs faiss, .*pip install 'pix2score\[index\]'"):
        made(indexed)


def test_rows_that_the_snapshot_does_not_have_stop_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(str(tmp_path), {"run-1": FIRST})
    less = {key: v for key, v in FIRST.items() if key != (4, 0)}
    night(str(tmp_path / "other"), {"run-1": less})
    files = list((tmp_path / "other/scores").rglob("*.parquet"))
    (target,) = (tmp_path / "scores").rglob("*.parquet")
    target.write_bytes(files[0].read_bytes())
    with pytest.raises(StorageError, match="lacks 0 rows of snapshot 1 and has 1 surplus"):
        made(str(tmp_path))
    assert not Neighbours(str(tmp_path)).is_indexed


def test_of_two_builds_one_is_the_index(indexed: str) -> None:
    (card,) = cards(indexed).values()
    with pytest.raises(ConflictError, match="made the index of snapshot 1"):
        publish_index(Folder(indexed), replace(card, recall=0.5))


def test_a_snapshot_without_embeddings_is_named(tmp_path: Path) -> None:
    night(str(tmp_path), {"run-1": FIRST})
    manifest = tmp_path / "snapshots/00000001.json"
    plain = json.loads(manifest.read_text())
    plain["files"] = [file for file in plain["files"] if file["table"] != "embeddings"]
    manifest.write_text(json.dumps(plain))
    with pytest.raises(DataError, match="has no embedding to index"):
        made(str(tmp_path))


def test_verify_names_a_damaged_file_of_the_index(tmp_path: Path, indexed: str) -> None:
    verify(VerifyConfig(scores=indexed))
    path = next((tmp_path / "index").rglob("*.codes"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(VerifyError, match=f"{path.name} was altered: .* its index says"):
        verify(VerifyConfig(scores=indexed))


def names(place: str) -> set[str]:
    return {entry.path for entry in Folder(f"{place}/index").entries()}


def aged(place: str) -> None:
    moment = time.time() - 30 * 86_400
    for path in Path(place, "index").rglob("*"):
        os.utime(path, (moment, moment))


INDEX_FILES = ["projection", "cells", "questions", "codes", "keys", "vectors", "index.json"]


def damage_file(place: str, kind: str, how: str) -> str:
    """The path of a file of index 1 that is gone, cut or altered now."""
    (path, *_) = sorted((Path(place) / "index/00000001").glob(f"*{kind}*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if how != "gone":
        path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
    return str(path.relative_to(place))


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (kind, how)
        for kind in INDEX_FILES
        for how in ("gone", "cut", "altered")
        if (kind, how) != ("index.json", "altered")  # that may say anything
    ],
)
def test_a_damaged_index_misleads_nobody_and_is_made_anew(
    indexed: str, caplog: pytest.LogCaptureFixture, kind: str, how: str
) -> None:
    """Of embeddings that changed within a file of the right size only verify knows, which reads them."""
    nearest = [key for key, _ in cosines(FIRST, FIRST[KEYS[0]], 21)[1:]]
    path = damage_file(indexed, kind, how)
    is_unseen, is_card = (kind, how) == ("vectors", "altered"), kind == "index.json"
    if not (is_card and how == "gone"):
        with pytest.raises(VerifyError, match=f"{path} (is missing|has|was altered)"):
            verify(VerifyConfig(scores=indexed))
    asked = Neighbours(indexed)
    assert asked.is_indexed == (is_unseen or kind == "questions" and how == "altered")
    if not asked.is_indexed:
        assert [key for key, _ in pairs(asked.of(KEYS[0]))] == nearest
        assert path in caplog.text or (is_card and how == "gone")
    duplicates(DuplicatesConfig(scores=indexed, out=f"{indexed}/groups.parquet"))
    vacuum(VacuumConfig(scores=indexed, dry_run=True))
    index(IndexConfig(scores=indexed, rebuild_share=0 if is_unseen else 0.2))
    verify(VerifyConfig(scores=indexed))
    assert recall(indexed, FIRST, 20) >= 0.98


@pytest.mark.parametrize("kind", [name for name in INDEX_FILES if name != "vectors"])
def test_an_altered_index_is_not_taken_up(indexed: str, kind: str) -> None:
    later = vectors_of([(5000, 0)], seed=4)
    damage_file(indexed, kind, "altered")
    night(indexed, {"run-1": FIRST, "r2": later}, parent=1)
    facts = made(indexed)
    assert (facts["rows"], facts["added"], facts["gone"]) == (901, 901, 0)
    verify(VerifyConfig(scores=indexed))


def restored(place: str) -> None:
    """Snapshot 3, with the files of 1, whose index answers."""
    night(place, {"r1": FIRST})
    made(place)
    night(place, {"r2": vectors_of(KEYS, seed=9)}, parent=1)
    publish_snapshot(PublishConfig(scores=place, snapshot=1))
    assert Neighbours(place).is_indexed


@pytest.mark.parametrize("kind", ["codes", "vectors", "index.json"])
def test_verify_looks_at_the_index_that_answers_after_a_snapshot_was_published_again(
    tmp_path: Path, kind: str
) -> None:
    place = str(tmp_path)
    restored(place)
    verify(VerifyConfig(scores=place))
    path = damage_file(place, kind, "altered" if kind != "index.json" else "cut")
    with pytest.raises(VerifyError, match=f"{path} (has|was altered)"):
        verify(VerifyConfig(scores=place))
    index(IndexConfig(scores=place, rebuild_share=0))
    verify(VerifyConfig(scores=place))


def test_verify_does_not_look_at_an_index_that_does_not_answer(tmp_path: Path) -> None:
    place = str(tmp_path)
    night(place, {"r1": FIRST})
    made(place)
    for kind, how in (("codes", "altered"), ("index.json", "cut")):
        damage_file(place, kind, how)
    night(place, {"r2": vectors_of(KEYS, seed=9)}, parent=1)
    assert not Neighbours(place).is_indexed
    verify(VerifyConfig(scores=place))


def test_vacuum_keeps_the_index_that_answers_after_a_snapshot_was_published_again(tmp_path: Path) -> None:
    place = str(tmp_path)
    restored(place)
    aged(place)
    vacuum(VacuumConfig(scores=place, keep=1))
    assert recall(place, FIRST, 10) >= 0.98
    night(place, {"r4": vectors_of(KEYS, seed=4)}, parent=3)
    vacuum(VacuumConfig(scores=place, keep=1))
    assert names(place) == set()


def test_an_index_is_read_on_though_vacuum_removed_its_files(tmp_path: Path, indexed: str) -> None:
    asked = Neighbours(indexed)
    night(indexed, {"run-1": FIRST, "r2": vectors_of(KEYS[:800], seed=9)}, parent=1)
    made(indexed)
    vacuum(VacuumConfig(scores=indexed, keep=1, keep_staged="0s"))
    assert not (tmp_path / "index/00000001").exists() or not list((tmp_path / "index/00000001").iterdir())
    assert len(asked.of(0, 5)) == 5


def test_an_index_has_more_parts_than_files_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 1,024, the default, 33 million rows would be the most."""
    place = str(tmp_path)
    night(place, {"run-1": FIRST})
    monkeypatch.setattr("pix2score.neighbours.build.PART_ROWS", 14)
    spare, (before, most) = 24, resource.getrlimit(resource.RLIMIT_NOFILE)
    free = sorted({*range(2_000)} - {*map(int, os.listdir("/proc/self/fd"))})
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare], most))
    try:
        made(place)
        later(place)
        assert made(place)["added"] == 50  # taken up, and its new rows asked about
        asked = Neighbours(place)
        assert len(cards(place)[2].parts) > 2 * spare
        assert [key for key, _ in pairs(asked.of(KEYS[300], 5))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def test_a_reader_whose_files_vacuum_removed_is_told(tmp_path: Path) -> None:
    place = str(tmp_path)
    night(place, {"r1": FIRST})
    asked = Neighbours(place)
    night(place, {"r2": vectors_of(KEYS, seed=9)}, parent=1)
    vacuum(VacuumConfig(scores=place, keep=1, keep_staged="0s"))
    with pytest.raises(DataError, match=r"snapshot 1 of .* is missing .* live is"):
        asked.of(0, 5)


def test_an_index_of_another_form_is_written_over(tmp_path: Path, indexed: str) -> None:
    path = tmp_path / "index/00000001/index.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 9'))
    assert not Neighbours(indexed).is_indexed
    made(indexed)
    assert Neighbours(indexed).is_indexed


def test_a_card_without_its_hash_is_one_of_the_first_version(tmp_path: Path, indexed: str) -> None:
    path = tmp_path / "index/00000001/index.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in plain.items() if name != "sha256"}))
    verify(VerifyConfig(scores=indexed))
    path.write_text(json.dumps(plain | {"num_probed": 1}))
    with pytest.raises(VerifyError, match=r"index/00000001/index\.json was altered"):
        verify(VerifyConfig(scores=indexed))
    made(indexed)
    verify(VerifyConfig(scores=indexed))


def test_embeddings_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    """Widened from half precision, infinity is 65,536: near to others that are far."""
    place, vectors = str(tmp_path), dict(FIRST)
    vectors[KEYS[3]] = np.full_like(vectors[KEYS[3]], np.nan)
    vectors[KEYS[4]] = np.full_like(vectors[KEYS[4]], np.inf)
    night(place, {"r1": vectors})
    with pytest.raises(DataError, match="2 embeddings of .* have NaN or infinity"):
        made(place)
    with pytest.raises(DataError, match="2 embeddings of .* have NaN or infinity"):
        duplicates(DuplicatesConfig(scores=place, out=f"{place}/groups.parquet"))


def test_keys_that_cannot_be_are_not_found_and_no_key_has_no_neighbour(indexed: str) -> None:
    with pytest.raises(DataError, match="page 99999999999, has no embedding"):
        Neighbours(indexed).of((0, 99_999_999_999))
    assert similar(indexed, []).num_rows == 0


def test_vacuum_keeps_what_the_indexes_of_kept_snapshots_name(tmp_path: Path, indexed: str) -> None:
    vectors = later(indexed)
    made(indexed)
    (tmp_path / "index/00000002/part-killed.vectors").write_bytes(b"of a build that was killed")
    aged(indexed)
    before = names(indexed)
    assert vacuum(VacuumConfig(scores=indexed, keep=5, dry_run=True))["files_removed"] == 1
    vacuum(VacuumConfig(scores=indexed, keep=5))
    assert names(indexed) == before - {"00000002/part-killed.vectors"}
    vacuum(VacuumConfig(scores=indexed, keep=1))
    assert "00000001/index.json" not in names(indexed)
    assert not any(
        path.endswith("safetensors") and "questions" in path for path in names(indexed) if path[7] == "1"
    )
    assert recall(indexed, vectors, 30) >= 0.98  # by the vectors that the first one wrote
    night(indexed, {"run-9": FIRST}, parent=2)
    vacuum(VacuumConfig(scores=indexed, keep=1))
    assert names(indexed) == set()


def test_vacuum_leaves_the_files_of_a_build_at_work_alone(tmp_path: Path) -> None:
    night(str(tmp_path), {"run-1": FIRST})
    (tmp_path / "index/00000001").mkdir(parents=True)
    (tmp_path / "index/00000001/part-1.vectors").write_bytes(b"half of it")
    aged(str(tmp_path))
    with indexing._leased(Folder(str(tmp_path))):
        assert vacuum(VacuumConfig(scores=str(tmp_path), dry_run=True))["files_removed"] == 0
        vacuum(VacuumConfig(scores=str(tmp_path)))
        assert names(str(tmp_path))
    vacuum(VacuumConfig(scores=str(tmp_path)))
    assert not names(str(tmp_path))


KILLED = """
import os, signal, sys
from pix2score.neighbours import index as indexing
from pix2score.neighbours.config import IndexConfig
indexing.publish_index = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
indexing.index(IndexConfig(scores=sys.argv[1]))
"""


def test_a_killed_build_leaves_nothing_that_is_taken_for_an_index(tmp_path: Path) -> None:
    place = str(tmp_path)
    night(place, {"run-1": FIRST})
    done = subprocess.run([sys.executable, "-c", KILLED, place], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -9
    assert names(place)
    assert cards(place) == {}
    assert not Neighbours(place).is_indexed
    left = names(place)
    made(place)
    assert recall(place, FIRST, 30) >= 0.98
    aged(place)
    vacuum(VacuumConfig(scores=place))
    assert not names(place) & left


def test_parts_hold_rows_in_order(tmp_path: Path) -> None:
    batches = [pa.record_batch({"x": list(range(start, start + 7))}) for start in range(0, 70, 7)]
    tables = list(parts.part_tables(batches, 16))
    assert [table.num_rows for table in tables] == [16, 16, 16, 16, 6]
    assert pa.concat_tables(tables).column("x").to_pylist() == list(range(70))


def test_keys_in_the_index_are_those_of_the_ok_rows(tmp_path: Path) -> None:
    place = str(tmp_path)
    night(place, {"run-1": FIRST}, failed=[(5000, 0)])
    made(place)
    found = {
        (row["illust_id"], row["page"], row["run"])
        for path in (tmp_path / "index").rglob("*.keys.parquet")
        for row in pq.read_table(path).to_pylist()
    }
    assert found == {(*key, "run-1") for key in KEYS}
