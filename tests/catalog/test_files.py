"""Which files are a catalog: links followed, nothing left out without a word, tables with a log and
half-written folders refused."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.files import find_files, hive_values, relist
from pix2score.errors import ConfigError, DataError
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from tests.support.builders import publish_night, write_catalog


def one(number: int) -> dict[str, Any]:
    return {"illust_id": [number], "uri": [f"{number}.png"]}


def found(place: str | Path) -> list[str]:
    return [entry.path for entry in find_files(str(place))[1]]


def test_linked_files_and_linked_folders_belong_to_the_catalog(tmp_path: Path) -> None:
    write_catalog(str(tmp_path / "blobs"), one(1), "aaa")
    write_catalog(str(tmp_path / "blobs"), one(2), "bbb")
    write_catalog(str(tmp_path / "cat"), one(3), "day3.parquet")
    (tmp_path / "cat" / "day1.parquet").symlink_to("../blobs/aaa")
    (tmp_path / "cat" / "day2.parquet").symlink_to(tmp_path / "blobs" / "bbb")
    assert found(tmp_path / "cat") == ["day1.parquet", "day2.parquet", "day3.parquet"]
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "dt=1").symlink_to("../cat")
    write_catalog(str(tmp_path / "nested"), one(4), "dt=2/x.parquet")
    assert found(tmp_path / "nested") == [
        "dt=1/day1.parquet",
        "dt=1/day2.parquet",
        "dt=1/day3.parquet",
        "dt=2/x.parquet",
    ]
    assert found(tmp_path / "cat" / "day1.parquet") == ["day1.parquet"]


def test_a_linked_file_is_pinned_by_the_content_that_it_leads_to(tmp_path: Path) -> None:
    write_catalog(str(tmp_path / "blobs"), one(1), "a")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.parquet").symlink_to("../blobs/a")
    catalog = open_catalog(str(tmp_path / "cat"), Columns())
    catalog.check_unchanged()
    os.utime(tmp_path / "blobs" / "a", (1, 1))
    with pytest.raises(DataError, match="changed while it was read"):
        catalog.check_unchanged()


def test_a_loop_of_links_ends_and_a_second_way_to_a_file_counts_once(tmp_path: Path) -> None:
    write_catalog(str(tmp_path), one(1), "dt=1/a.parquet")
    (tmp_path / "dt=1" / "up").symlink_to("..")
    (tmp_path / "latest").symlink_to("dt=1")
    assert found(tmp_path) == ["dt=1/a.parquet"]


@pytest.mark.parametrize("name", ["b.parquet", "dt=2"])
def test_a_link_to_nowhere_is_named(tmp_path: Path, name: str) -> None:
    write_catalog(str(tmp_path), one(1), "dt=1/a.parquet")
    (tmp_path / name).symlink_to("/nowhere/at/all")
    with pytest.raises(DataError, match=rf"{name} is a link to /nowhere/at/all"):
        find_files(str(tmp_path))


def test_a_dangling_link_among_the_pictures_is_not_the_catalogs(tmp_path: Path) -> None:
    write_catalog(str(tmp_path), one(1), "dt=1/a.parquet")
    (tmp_path / "gone.png").symlink_to("/nowhere/at/all.png")
    assert found(tmp_path) == ["dt=1/a.parquet"]


@pytest.mark.parametrize(
    "names",
    [
        ["a.parquet", "b.PARQUET", "c.pq", "d.parq"],
        ["part-00000", "part-00001", "000002_0"],
        ["a.parquet", "part-00000", "part-00001-x.snappy.parquet", "part-00002.parquet.zstd"],
    ],
)
def test_files_of_every_usual_name_are_taken(place: str, names: list[str]) -> None:
    for number, name in enumerate(names):
        write_catalog(place, one(number), name)
    for other in ("_SUCCESS", "_metadata", ".part-00000.crc", "README", "notes.txt", "1.png"):
        Folder(place).publish(other, b"not a catalog")
    assert found(place) == sorted(names)


def test_parquet_in_folders_called_parquet_belongs_to_the_top(place: str) -> None:
    write_catalog(place, one(1), "a.parquet")
    write_catalog(place, one(2), "b.parquet/part-00000-x.snappy.parquet")
    Folder(place).publish("b.parquet/_SUCCESS", b"")
    assert found(place) == ["a.parquet", "b.parquet/part-00000-x.snappy.parquet"]
    assert found(f"{place}/b.parquet") == ["part-00000-x.snappy.parquet"]


def test_backups_beside_the_catalog_are_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_catalog(str(tmp_path), one(1), "a.parquet")
    write_catalog(str(tmp_path), one(2), "a.parquet.bak")
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path) == ["a.parquet"]
    assert "a.parquet.bak" in caplog.text


def test_partitions_beside_files_at_the_top_are_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_catalog(str(tmp_path), one(1), "a.parquet")
    write_catalog(str(tmp_path), one(2), "dt=2/b.parquet")
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path) == ["a.parquet"]
    assert "left out: dt=2" in caplog.text


def test_a_file_compressed_as_a_whole_is_refused_rather_than_left_out(place: str) -> None:
    write_catalog(place, one(1), "a.parquet")
    Folder(place).publish("b.parquet.gz", b"\x1f\x8b\x08" + bytes(60))
    with pytest.raises(DataError, match=r"b\.parquet\.gz .*compressed as a whole \(gzip\)"):
        find_files(place)


LOGS = {
    "Delta Lake": ["_delta_log/00000000000000000000.json"],
    "Hudi": [".hoodie/hoodie.properties"],
    "Iceberg": ["metadata/v1.metadata.json", "metadata/version-hint.text"],
    "Paimon": ["snapshot/snapshot-1", "schema/schema-0"],
    "Lance": ["data/0a1b.lance", "_versions/1.manifest"],
}


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("data", ["a.parquet", "data/a.parquet", "dt=1/artist_id=2/a.parquet"])
def test_a_table_with_a_log_is_refused_at_its_folder_and_above_it(place: str, kind: str, data: str) -> None:
    write_catalog(f"{place}/lake/table", one(1), data)
    for name in LOGS[kind]:
        Folder(f"{place}/lake/table").publish(name, b"{}")
    for given in ("lake/table", "lake"):
        with pytest.raises(
            DataError, match=rf"lake/table is an? {kind} table.*deleted rows would come back.*Export"
        ):
            find_files(f"{place}/{given}")


@pytest.mark.parametrize("kind", ["Delta Lake", "Hudi", "Iceberg", "Paimon"])
@pytest.mark.parametrize("given", ["data", "data/dt=1", "data/dt=1/a.parquet", "b.parquet"])
def test_a_table_with_a_log_is_refused_from_within(place: str, kind: str, given: str) -> None:
    write_catalog(f"{place}/table", one(1), "data/dt=1/a.parquet")
    write_catalog(f"{place}/table", one(2), "b.parquet")
    for name in LOGS[kind]:
        Folder(f"{place}/table").publish(name, b"{}")
    with pytest.raises(DataError, match=rf"table is an? {kind} table"):
        find_files(f"{place}/table/{given}")


def test_files_of_a_ducklake_are_refused_by_their_names(tmp_path: Path) -> None:
    write_catalog(str(tmp_path), one(1), "main/t/ducklake-019a2c3e-7f10-7abc-8def-0123456789ab.parquet")
    with pytest.raises(DataError, match="DuckLake table"):
        find_files(str(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "_temporary/0/x",
        "b.parquet.tmp",
        "part-1.inprogress.0a1b",
        ".part-0-1.inprogress.0a",
        "_started_42",
        ".a.parquet.Xy12Ab",
    ],
)
def test_a_catalog_that_is_being_written_is_refused(place: str, name: str) -> None:
    for folder in ("top", "nested/dt=1"):
        write_catalog(f"{place}/{folder}", one(1), "a.parquet")
        Folder(f"{place}/{folder}").publish(name, b"half of it")
    for given in ("top", "nested"):
        with pytest.raises(DataError, match="still being written.*run again"):
            find_files(f"{place}/{given}")


def test_a_commit_marker_ends_the_writing(place: str) -> None:
    write_catalog(place, one(1), "part-0.parquet")
    Folder(place).publish("_started_42", b"")
    Folder(place).publish("_committed_42", b"")
    Folder(place).publish("_SUCCESS", b"")
    assert found(place) == ["part-0.parquet"]


def test_our_own_folders_below_a_catalog_are_no_part_of_it(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_catalog(place, one(1), "dt=1/a.parquet")
    publish_night(f"{place}/scores", [(1, 0)])
    for name in (
        "deep/set/dataset.json",
        "deep/set/split=train/part-0.parquet",
        "model/model.json",
        "new/staged/0a1b2c3d4e5f/plan-0/rows",
    ):
        Folder(place).publish(name, b"{}")
    write_catalog(f"{place}/new/staged/20261121T080000-00000001", one(9), "plan/rows-00000.parquet")
    with caplog.at_level(logging.INFO):
        assert found(place) == ["dt=1/a.parquet"]
    assert "scores (a scores folder)" in caplog.text
    with pytest.raises(DataError, match="scores is a scores folder, not a catalog"):
        find_files(f"{place}/scores")


def test_files_of_others_that_are_called_like_ours_hide_nothing(tmp_path: Path) -> None:
    write_catalog(str(tmp_path), one(1), "dt=1/a.parquet")
    for name in ("model.json", "dataset.json", "dt=1/dataset.json", "dt=1/12.png.tmp", "notes.txt.tmp"):
        Folder(str(tmp_path)).publish(name, b"{}")
    assert found(tmp_path) == ["dt=1/a.parquet"]


def test_a_link_to_a_folder_is_that_folder(tmp_path: Path) -> None:
    write_catalog(str(tmp_path / "real"), one(1), "a.parquet")
    (tmp_path / "link").symlink_to("real")
    assert found(tmp_path / "link") == ["a.parquet"]


def test_partition_columns_are_decoded() -> None:
    path = "artist_id=7/when=2026-01-01%2000%3A00/x=__HIVE_DEFAULT_PARTITION__/empty=/plain/a=b.parquet"
    assert hive_values(path) == {"artist_id": "7", "when": "2026-01-01 00:00", "x": None, "empty": ""}


def test_relisting_gives_every_file_as_it_was_found(place: str) -> None:
    for number in range(12):
        write_catalog(place, one(number), f"dt={number % 3}/{number}.parquet")
    folder, files = find_files(place)
    assert {e.path: e for e in files}.items() <= relist(folder, files).items()
    folder.delete(["dt=0/0.parquet"])
    assert {entry.path for entry in files} - set(relist(folder, files)) == {"dt=0/0.parquet"}


def test_relisting_leaves_folders_of_pictures_alone(place: str) -> None:
    for number in range(12):
        write_catalog(place, one(number), f"dt={number % 3}/{number}.parquet")
    Folder(place).publish("images/deep/1.png", b"x")
    folder, files = find_files(place)
    assert set(relist(folder, files)) == {entry.path for entry in files}


PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("img/1.png", PNG, r"pictures \(1 PNG\).*illust_id.*catalog\.parquet"),
        ("cat.csv", b"illust_id,uri\n1,a\n", r"1 CSV files, such as .*cat\.csv.*read_csv"),
        ("rows.jsonl", b"{}\n", r"JSON lines.*read_json"),
        ("rows.json", b"[]\n", r"1 JSON files.*read_json"),
        ("00000.tar", bytes(1024), r"tar \(WebDataset\).*unpack"),
        ("a.arrow", b"ARROW1", r"Arrow.*pyarrow"),
        ("a.duckdb", b"DUCK", r"database.*COPY"),
        ("x.bin", b"?", r"1 files of other kinds, such as .*x\.bin"),
    ],
)
def test_what_stands_at_a_place_that_is_no_catalog_is_said(
    place: str, name: str, data: bytes, words: str
) -> None:
    Folder(place).publish(f"deep/{name}", data)
    with pytest.raises(DataError, match=f"no catalog at .*{words}") as error:
        find_files(place)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("1.png", PNG, r"is a picture \(PNG\)"),
        ("cat.csv", b"illust_id,uri\n1,a.png\n", r"is CSV.*read_csv\('.*cat\.csv'\)"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    ],
)
def test_a_single_file_that_is_no_parquet_is_named_by_its_kind(
    place: str, name: str, data: bytes, words: str
) -> None:
    Folder(place).publish(name, data)
    with pytest.raises(DataError, match=rf"{name} is not a Parquet file: it {words}"):
        find_files(f"{place}/{name}")


def test_a_pattern_and_an_empty_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing stands there$"):
        find_files(str(tmp_path))
    write_catalog(str(tmp_path), one(1))
    with pytest.raises(DataError, match="patterns are not expanded: give the folder"):
        find_files(f"{tmp_path}/*.parquet")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("hf://datasets/owner/name/data", "hf download --repo-type dataset owner/name"),
        ("hdfs://bucket/x", "only a local path or s3://, gs:// or az://bucket/prefix"),
        ("s3a://bucket/x", "write s3://bucket/x"),
        ("file:///data/x", "give the plain path '/data/x'"),
    ],
)
def test_a_place_of_another_kind_is_refused_with_what_to_do(given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_files(given)


def test_the_recipe_for_pictures_makes_a_catalog(tmp_path: Path) -> None:
    Folder(str(tmp_path)).publish("img/1.PNG", PNG)
    Folder(str(tmp_path)).publish("img/deep/2.jpg", b"\xff\xd8\xff")
    with pytest.raises(DataError) as error:
        find_files(str(tmp_path))
    words = str(error.value).split("python ")[1].split(" makes one")[0]
    subprocess.run([sys.executable, *shlex.split(words)], check=True, timeout=60)
    assert pq.read_table(tmp_path / "catalog.parquet").column("uri").to_pylist() == [
        "img/1.PNG",
        "img/deep/2.jpg",
    ]
    assert found(tmp_path) == ["catalog.parquet"]


def test_a_parquet_file_under_any_name_is_a_catalog_by_itself(place: str) -> None:
    Folder(place).publish("export.data", parquet_bytes(pa.table(one(5))))
    assert found(f"{place}/export.data") == ["export.data"]
