"""Tags from texts: a later run reads only what is new or changed, and no tag outlives its text."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.job import catalog
from pix2score.catalog.pictures import texts
from pix2score.catalog.pictures.found import list_place
from pix2score.catalog.pictures.ids import find_keys
from pix2score.catalog.pictures.out import Out
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.summaries import CatalogSummary
from tests.support.flaky_proxy import Faults, FlakyStorage, start
from tests.support.paths import ROOT
from tests.test_summaries import mismatches

KEPT = ".catalog.texts-00000"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are taken for older than they are, as those of a test are all new."""
    monkeypatch.setattr(texts, "SETTLED_S", -3600)


def put(place: str, **contents: str) -> None:
    """Texts, or with ``_jpg`` at the end pictures."""
    for name, content in contents.items():
        path = f"{name.removesuffix('_jpg')}.jpg" if name.endswith("_jpg") else f"{name}.txt"
        Folder(f"{place}/art").publish(path, content.encode(), replace=True)


def art(place: str, *names: str) -> None:
    """Pictures, each with a text that holds its name."""
    put(place, **{f"{name}_jpg": name for name in names}, **{name: name for name in names})


def run(place: str, **settings: Any) -> tuple[CatalogSummary, dict[str, Any]]:
    """The summary, and tags by picture; the catalog is right however it was made."""
    config = {"out": f"{place}/catalog.parquet", "tags_from_text": "tags", **settings}
    summary = catalog(CatalogConfig(images=f"{place}/art", **config))
    opened = open_catalog(config["out"], Columns(), extras={"tags": config["tags_from_text"]})
    rows = [row for batch in opened.batches() for row in batch.to_pylist()]
    paths = [row["uri"].removeprefix(f"{place}/").removeprefix("art/") for row in rows]
    return summary, {path.removesuffix(".jpg"): row["tags"] for path, row in zip(paths, rows, strict=True)}


def counts(place: str, **settings: Any) -> tuple[int, int]:
    """How many texts were read, and of how many the tags were kept."""
    summary, _ = run(place, **settings)
    return summary["texts"]["read"], summary["texts"]["kept"]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("out", ["catalog.parquet", "catalog"])
def test_only_texts_that_are_new_or_changed_are_read_again(place: str, out: str) -> None:
    art(place, *"abcdef")
    at = {"out": f"{place}/{out}"}
    summary, _ = run(place, **at)
    assert mismatches(CatalogSummary, summary) == []
    assert summary["texts"] == {"read": 6, "kept": 0}
    before = Folder(place).entries()
    assert run(place, **at)[0]["texts"] == {"read": 0, "kept": 6}
    assert Folder(place).entries() == before
    put(place, a="x", b="", new="new", new_jpg="new", d_jpg="another picture")
    Folder(f"{place}/art").publish("e.jpg.txt", b"moved")
    Folder(f"{place}/art").delete(["c.txt", "e.txt", "f.jpg"])
    summary, tags = run(place, **at)
    assert tags == {"a": ["x"], "b": [], "c": None, "d": ["d"], "e": ["moved"], "new": ["new"]}
    assert summary["texts"] == {"read": 4, "kept": 1}
    assert summary["rows"] == {
        "pictures": 6, "new": 1, "changed": 1, "updated": 4, "removed": 1, "unchanged": 0
    }  # fmt: skip
    assert counts(place, **at) == (0, 5)


@pytest.fixture
def storage(moto_server: str, tmp_path: Path) -> Iterator[FlakyStorage]:
    """What ``command`` takes for S3; the tests themselves speak to the server behind it."""
    process, flaky = start(moto_server, tmp_path / "faults.json")
    yield flaky
    process.kill()
    process.wait(timeout=10)


def command(storage: FlakyStorage, place: str) -> tuple[CatalogSummary, str]:
    """Summary and messages of a process of its own."""
    words = ["--images", f"{place}/art", "--out", f"{place}/catalog.parquet", "--tags-from-text", "tags"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": storage.endpoint}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.catalog", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_store_is_asked_for_changed_texts_alone(storage: FlakyStorage, s3_place: str) -> None:
    """Without waiting: the etag of an object is the MD5 of what was read."""
    art(s3_place, *"abcdefghij")
    below = f"{s3_place.removeprefix('s3://')}/art/"
    command(storage, s3_place)
    assert storage.served(below) == {f"{below}{name}.txt": 1 for name in "abcdefghij"}
    storage.forget()
    put(s3_place, c="x")
    summary, _ = command(storage, s3_place)
    assert storage.served(below) == {f"{below}c.txt": 1}
    assert (summary["texts"], summary["rows"]["updated"]) == ({"read": 1, "kept": 9}, 1)


def test_tags_that_cannot_be_kept_do_not_end_the_run(storage: FlakyStorage, s3_place: str) -> None:
    art(s3_place, "a")
    storage.behave(Faults(unwritable=f"{s3_place.removeprefix('s3://')}/{KEPT}"))
    summary, said = command(storage, s3_place)
    assert summary["rows"]["new"] == 1
    assert "the next run reads all texts, as their tags cannot be kept" in said
    assert run(s3_place)[0]["texts"] == {"read": 1, "kept": 0}


def test_a_text_written_again_with_the_same_words_is_known_by_its_etag(s3_place: str) -> None:
    art(s3_place, "a", "b")
    run(s3_place)
    put(s3_place, a="a")
    assert counts(s3_place) == (0, 2)


@pytest.mark.usefixtures("settled")
def test_a_text_that_is_touched_is_read_once_and_the_catalog_stays(tmp_path: Path) -> None:
    place = str(tmp_path)
    art(place, "a", "b")
    run(place)
    before = Folder(place).entry("catalog.parquet")
    os.utime(tmp_path / "art/a.txt")
    assert [counts(place) for _ in range(2)] == [(1, 1), (0, 2)]
    assert Folder(place).entry("catalog.parquet") == before


# Never a stale tag


@pytest.mark.usefixtures("settled")
def test_a_text_of_the_same_size_and_time_is_another_one(tmp_path: Path) -> None:
    place = str(tmp_path)
    art(place, "a", "b")
    run(place)
    before = (tmp_path / "art/a.txt").stat()
    (tmp_path / "art/a.txt").write_text("x")
    os.utime(tmp_path / "art/a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    summary, tags = run(place)
    assert (tags, summary["texts"]) == ({"a": ["x"], "b": ["b"]}, {"read": 1, "kept": 1})


@pytest.mark.usefixtures("settled")
def test_texts_that_change_places_do_not_keep_each_others_tags(tmp_path: Path) -> None:
    """Folders that are renamed leave size and both times of their files as they are."""
    place = str(tmp_path)
    for name in ("x/1", "y/1"):
        Folder(f"{place}/art").publish(f"{name}.jpg", name.encode())
    _texts_of_one_moment(tmp_path / "art/x/1.txt", tmp_path / "art/y/1.txt")
    _, before = run(place, id="path")
    for one, other in (("x", "z"), ("y", "x"), ("z", "y")):
        (tmp_path / "art" / one).rename(tmp_path / "art" / other)
    _, after = run(place, id="path")
    assert after == {"x/1": before["y/1"], "y/1": before["x/1"]} == {"x/1": ["2"], "y/1": ["1"]}


def _texts_of_one_moment(*paths: Path) -> None:
    """Texts that only their content and number on the disk tell apart, where its clock lets them be made."""
    for _ in range(200):
        for number, path in enumerate(paths, 1):
            path.unlink(missing_ok=True)
            path.write_text(str(number))
        for path in paths:
            os.utime(path, (1, 1))
        if len({path.stat().st_ctime_ns for path in paths}) == 1:
            return


def test_a_file_that_changed_just_before_the_listing_is_read_again(tmp_path: Path) -> None:
    """It may change once more within the same step of the file system's clock."""
    art(str(tmp_path), "a", "b")
    assert [counts(str(tmp_path)) for _ in range(2)] == [(2, 0), (2, 0)]
    assert list(tmp_path.glob(".*")) == []


def test_a_text_that_changes_between_listing_and_reading_and_back_is_read_again(s3_place: str) -> None:
    art(s3_place, "a")
    run(s3_place)
    put(s3_place, a="first")
    images, out = Folder(f"{s3_place}/art"), Out.at(f"{s3_place}/catalog.parquet")
    with duckdb.connect() as connection:
        began = datetime.now(UTC)
        left_out = list_place(connection, images, ("jpg",))
        find_keys(connection, CatalogConfig(images=images.uri, out=out.place), left_out)
        put(s3_place, a="second")
        some = texts.Texts(connection, images, out, began)
        some.find(is_first=False)
        assert connection.execute("SELECT tags FROM texts").fetchall() == [(["second"],)]
        some.keep()
    put(s3_place, a="first")
    assert run(s3_place)[1] == {"a": ["first"]}


@pytest.mark.usefixtures("settled")
def test_whatever_happens_tags_are_those_of_the_texts(tmp_path: Path) -> None:
    dice, read = random.Random(0), 0
    art(str(tmp_path), *"01234567")
    for _ in range(15):
        for _ in range(3):
            _something_happens(tmp_path / "art", dice)
        summary, tags = run(str(tmp_path))
        words = {path.stem: path.read_bytes() for path in tmp_path.glob("art/*.txt")}
        assert tags == {
            path.stem: texts.tags_of(words[path.stem]) if path.stem in words else None
            for path in tmp_path.glob("art/*.jpg")
        }
        read += summary["texts"]["read"]
    assert 15 < read < 60


def _something_happens(folder: Path, dice: random.Random) -> None:
    one, other = (folder / f"{dice.randrange(1, 8)}" for _ in range(2))
    text, picture = one.with_suffix(".txt"), one.with_suffix(".jpg")
    words = f"{dice.randrange(10)}, {dice.randrange(10)}"  # of one size
    match dice.randrange(7):
        case 0:
            put(str(folder.parent), **{one.name: words, f"{one.name}_jpg": words})
        case 1:
            text.write_text(words)
        case 2:
            text.write_text("")
        case 3:
            text.unlink(missing_ok=True)
        case 4:
            picture.unlink(missing_ok=True)
        case 5 if text.exists():
            text.rename(other.with_suffix(".txt"))
        case _:
            shutil.copy2(folder / "0.txt", text)


# What the catalog and what is kept may be


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("gone", ["catalog.parquet", KEPT])
def test_all_texts_are_read_for_a_catalog_anew_and_for_one_of_an_earlier_version(
    tmp_path: Path, gone: str
) -> None:
    """Beside that nothing is kept."""
    place = str(tmp_path)
    art(place, "a", "b")
    run(place)
    Folder(place).delete([gone])
    assert [counts(place) for _ in range(2)] == [(2, 0), (0, 2)]


@pytest.mark.usefixtures("settled")
def test_a_catalog_that_was_edited_or_has_another_column_is_put_right(tmp_path: Path) -> None:
    place = str(tmp_path)
    art(place, "a", "b")
    run(place)
    edited = pq.read_table(Folder(place).open("catalog.parquet"))
    place_of_tags = edited.column_names.index("tags")
    edited = edited.set_column(place_of_tags, "tags", pa.array([["edited"], ["b"]], pa.list_(pa.string())))
    Folder(place).publish("catalog.parquet", parquet_bytes(edited), replace=True)
    summary, tags = run(place)
    assert (tags, summary["rows"]["updated"]) == ({"a": ["a"], "b": ["b"]}, 1)
    put(place, b="x")
    assert run(place, tags_from_text="words")[1] == {"a": ["a"], "b": ["x"]}
    put(place, a="y")
    catalog(CatalogConfig(images=f"{place}/art", out=f"{place}/catalog.parquet"))
    assert run(place)[1] == {"a": ["y"], "b": ["x"]}


@pytest.mark.usefixtures("settled")
def test_what_is_kept_is_in_parts_that_follow_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "PART_ROWS", 2)
    place = str(tmp_path)
    art(place, *"abcde")
    run(place)

    def parts() -> list[str]:
        return [entry.path for entry in Folder(place).entries() if ".texts-" in entry.path]

    assert parts() == [f".catalog.texts-0000{number}" for number in range(3)]
    assert counts(place) == (0, 5)
    Folder(f"{place}/art").delete(["a.txt", "b.txt", "c.jpg"])
    assert run(place)[1] == {"a": None, "b": None, "d": ["d"], "e": ["e"]}
    assert parts() == [KEPT]
    assert counts(place) == (0, 2)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["bytes", "cut", "format", "another run", "missing"])
def test_what_is_kept_and_cannot_be_used_is_read(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "PART_ROWS", 2)
    place = str(tmp_path)
    art(place, *"abcd")
    run(place)
    first, second = (tmp_path / f".catalog.texts-0000{number}" for number in range(2))
    data = first.read_bytes()
    if damage in ("bytes", "cut"):
        first.write_bytes(b"no Parquet" if damage == "bytes" else data[: len(data) // 2])
    elif damage == "format":
        monkeypatch.setattr(texts, "FORMAT", texts.FORMAT + 1)
    elif damage == "another run":
        put(place, d="x")
        run(place)
        first.write_bytes(data)
    else:
        first.unlink()
    summary, tags = run(place)
    assert tags == {**{name: [name] for name in "abc"}, "d": ["x" if damage == "another run" else "d"]}
    assert summary["texts"]["read"] == (2 if damage == "another run" else 4)
    assert counts(place) == (0, 4)


def test_what_is_kept_of_another_place_is_not_used(s3_place: str) -> None:
    for place in (f"{s3_place}/one", f"{s3_place}/two"):
        art(place, "a", "b")
        run(place)
    Folder(f"{s3_place}/one").publish(KEPT, Folder(f"{s3_place}/two").read(KEPT), replace=True)
    assert counts(f"{s3_place}/one") == (2, 0)


@pytest.mark.usefixtures("settled")
def test_what_is_kept_is_no_part_of_a_catalog_nor_a_picture(place: str) -> None:
    art(place, "a", "b")
    for _ in range(2):
        summary, tags = run(place, out=f"{place}/art")
        assert tags == {"a": ["a"], "b": ["b"]}
    assert summary["left_out"]["hidden"] == 1
