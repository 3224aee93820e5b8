"""Pictures that lie somewhere become a catalog that the other jobs read as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.guards import BEING_WRITTEN
from pix2score.catalog.job import catalog
from pix2score.catalog.pictures import out as out_module
from pix2score.errors import ConfigError, DataError
from pix2score.images.source import image_source
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.summaries import CatalogSummary
from tests.support.paths import ROOT
from tests.support.pictures import encode, flat
from tests.test_summaries import mismatches


def publish(place: str, *paths: str) -> None:
    """Files at ``paths``, each with its path as its content."""
    for path in paths:
        Folder(place).publish(path, path.encode(), replace=True)


def made(images: str, out: str, **settings: Any) -> CatalogSummary:
    return catalog(CatalogConfig(images=images, out=out, **settings))


def rows(out: str) -> list[dict[str, Any]]:
    """The rows as every reader has them."""
    opened = open_catalog(out, Columns())
    return [row for batch in opened.batches() for row in batch.to_pylist()]


def table(out: str) -> pa.Table:
    opened = open_catalog(out, Columns())
    parts = [pq.read_table(opened.folder.open(entry.path)) for entry in opened.files]
    return pa.concat_tables(parts)


def refusal(images: str, out: str, **settings: Any) -> str:
    with pytest.raises((DataError, ConfigError)) as error:
        made(images, out, **settings)
    assert "\n" not in str(error.value)
    assert Folder(out).entries() == []
    return str(error.value)


def test_a_folder_becomes_a_catalog_whose_images_are_found(place: str) -> None:
    paths = ("12_p0.jpg", "12_p1.png", "deep/7_p0_master1200.webp", "deep/8.GIF", "notes.txt", ".hidden.jpg")
    publish(place, *paths)
    summary = made(place, f"{place}/catalog.parquet")
    found = rows(f"{place}/catalog.parquet")
    assert [(row["illust_id"], row["page"]) for row in found] == [(7, 0), (8, 0), (12, 0), (12, 1)]
    entries = {entry.path: entry for entry in Folder(place).entries()}
    assert {row["uri"]: row["fingerprint"] for row in found} == {
        path: entries[path].etag for path in paths[:4]
    }
    contents = image_source(place, ()).read_many([row["uri"] for row in found])
    assert contents == [row["uri"].encode() for row in found]
    assert table(f"{place}/catalog.parquet").column("size").to_pylist() == [len(c) for c in contents]
    assert summary["left_out"] == {"text beside pictures": 1, "hidden": 1}
    assert summary["rows"] == {
        "pictures": 4, "new": 4, "changed": 0, "updated": 0, "removed": 0, "unchanged": 0
    }  # fmt: skip
    assert mismatches(CatalogSummary, summary) == []


def test_a_catalog_elsewhere_needs_an_image_root_and_says_so(place: str, tmp_path: Path) -> None:
    publish(place, "sub/1.jpg", "a:b.jpg")
    out = str(tmp_path / "elsewhere/out.parquet")
    summary = made(place, out)
    uris = [row["uri"] for row in rows(out)]
    assert uris == [f"{place}/sub/1.jpg", f"{place}/a:b.jpg"]
    words = summary["next"].split()
    root = words[words.index("--image-root") + 1]
    source = image_source(str(tmp_path / "elsewhere"), (root,))
    assert source.read_many(uris) == [b"sub/1.jpg", b"a:b.jpg"]


ODD = ("c:\\z.jpg", "data:,a.jpg", "file:b.jpg", "s3:c.jpg", "e f\t'\"%41#.jpg", "ü.jpg")


@pytest.mark.parametrize("below", ["", "in/"])
def test_every_uri_leads_to_its_object_however_it_is_called(place: str, below: str) -> None:
    """Relative where it can be, else by the full place; the catalog beside the pictures or above them."""
    names = [*ODD, "x://y.jpg" if place.startswith("s3") else "x:/y.jpg"]
    publish(f"{place}/{below}".rstrip("/"), *names)
    made(f"{place}/{below}".rstrip("/"), f"{place}/catalog.parquet", id="path")
    found = {f"{row['illust_id']}.jpg": row["uri"] for row in rows(f"{place}/catalog.parquet")}
    assert set(found) == set(names)
    assert image_source(place, ()).read_many(list(found.values())) == [name.encode() for name in found]
    assert found["ü.jpg"] == f"{below}ü.jpg"


def test_again_lists_only_what_changed(place: str) -> None:
    out = f"{place}/catalog.parquet"
    publish(f"{place}/art", *(f"{number}.jpg" for number in range(5)))
    made(f"{place}/art", out)
    before = Folder(place).entry("catalog.parquet")
    same = made(f"{place}/art", out)
    assert same["rows"] == {
        "pictures": 5, "new": 0, "changed": 0, "updated": 0, "removed": 0, "unchanged": 5
    }  # fmt: skip
    assert Folder(place).entry("catalog.parquet") == before
    Folder(f"{place}/art").publish("0.jpg", b"another", replace=True)
    Folder(f"{place}/art").delete(["1.jpg"])
    publish(f"{place}/art", "9.jpg")
    fingerprints = {row["illust_id"]: row["fingerprint"] for row in rows(out)}
    again = made(f"{place}/art", out)
    assert again["rows"] == {
        "pictures": 5, "new": 1, "changed": 1, "updated": 0, "removed": 1, "unchanged": 3
    }  # fmt: skip
    now = {row["illust_id"]: row["fingerprint"] for row in rows(out)}
    assert {number for number in now if fingerprints.get(number) != now[number]} == {0, 9}


def test_the_summary_is_beside_the_catalog_and_nothing_is_written_if_nothing_changed(tmp_path: Path) -> None:
    publish(str(tmp_path / "art"), "1.jpg")
    made(str(tmp_path / "art"), str(tmp_path / "one.parquet"))
    made(str(tmp_path / "art"), str(tmp_path / "many"))
    assert json.loads((tmp_path / "one.summary.json").read_text())["rows"]["new"] == 1
    assert json.loads((tmp_path / "many/summary.json").read_text())["rows"]["new"] == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    made(str(tmp_path / "art"), str(tmp_path / "one.parquet"))
    made(str(tmp_path / "art"), str(tmp_path / "many"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_of_parts_is_replaced_as_a_whole(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_module, "PART_ROWS", 2)
    publish(f"{place}/art", *(f"{number}.jpg" for number in range(5)))
    out = f"{place}/catalog"
    made(f"{place}/art", out)
    assert [entry.path for entry in Folder(out).entries(suffix=".parquet")] == [
        f"part-0000{number}.parquet" for number in range(3)
    ]
    assert [row["illust_id"] for row in rows(out)] == [0, 1, 2, 3, 4]
    Folder(f"{place}/art").delete(["0.jpg", "1.jpg", "2.jpg"])
    made(f"{place}/art", out)
    assert [row["illust_id"] for row in rows(out)] == [3, 4]


def test_a_catalog_that_a_killed_run_left_is_refused_and_written_anew(place: str) -> None:
    publish(f"{place}/art", "1.jpg", "2.jpg")
    out = f"{place}/catalog"
    made(f"{place}/art", out, label_from_folder="x")
    Folder(out).publish(BEING_WRITTEN, b"")
    with pytest.raises(DataError, match="is not whole: jobs.pseudo or jobs.catalog writes it"):
        open_catalog(out, Columns())
    made(f"{place}/art", out)
    assert [row["illust_id"] for row in rows(out)] == [1, 2]
    assert not Folder(out).is_file(BEING_WRITTEN)


# What is wrong, and what to do


def test_an_empty_place_is_told_by_its_kind(place: str, tmp_path: Path) -> None:
    words = "no object lies below .*aws s3 ls" if place.startswith("s3") else "does not exist"
    assert re.search(words, refusal(place, str(tmp_path / "out")))
    (tmp_path / "bare").mkdir()
    assert refusal(str(tmp_path / "bare"), str(tmp_path / "out")).endswith("bare is empty")
    (tmp_path / "1.jpg").write_bytes(b"x")
    assert "is a file; --images takes the folder" in refusal(str(tmp_path / "1.jpg"), str(tmp_path / "out"))


def test_a_place_without_pictures_says_what_is_there_and_what_would_take_it(place: str) -> None:
    publish(place, "a.mp4", "b.tar", "c.zip", "d.psd", "bare", "9_ugoira600x600.zip", "x.jpg.part")
    said = refusal(place, f"{place}/out")
    expected = ("1 video (.mp4 such as a.mp4)", "2 archive", "1 animation", "1 temporary")
    for words in (*expected, "--archives lists", "--suffix none takes"):
        assert words in said


def test_two_files_with_one_id_are_named_with_what_to_do(place: str) -> None:
    publish(place, "a/1_p0.jpg", "b/1_p0.png", "b/2.jpg")
    said = refusal(place, f"{place}/out")
    assert "a/1_p0.jpg and b/1_p0.png are both 1 page 0; --id path" in said
    assert "--same-id newest" in said
    summary = made(place, f"{place}/out", same_id="newest")
    assert summary["rows"]["pictures"] == 2
    by_path = made(place, f"{place}/out2", id="path")
    assert by_path["rows"]["pictures"] == 3
    publish(place, "a/1_p0.webp")
    assert "--suffix takes one of them" in refusal(place, f"{place}/out3", id="path")
    assert [row["uri"] for row in rows(f"{place}/out2")] == [
        f"{place}/{path}" for path in ("a/1_p0.jpg", "b/1_p0.png", "b/2.jpg")
    ]


def test_ids_that_are_numbers_stay_numbers(tmp_path: Path) -> None:
    art, out = str(tmp_path / "art"), str(tmp_path / "out.parquet")
    publish(art, "1.jpg", "2.jpg")
    made(art, out)
    publish(art, "cover.jpg")
    with pytest.raises(DataError, match=r"whole numbers so far, and 1 names .*cover\.jpg: .*--id number"):
        made(art, out)
    assert made(art, out, id="number")["left_out"] == {"no id in the name": 1}
    made(art, str(tmp_path / "text.parquet"))
    Folder(art).delete(["cover.jpg"])
    made(art, str(tmp_path / "text.parquet"))
    assert [row["illust_id"] for row in rows(str(tmp_path / "text.parquet"))] == ["1", "2"]


def test_a_catalog_of_another_hand_or_place_is_left_alone(tmp_path: Path) -> None:
    publish(str(tmp_path / "art"), "1.jpg")
    theirs = parquet_bytes(pa.table({"illust_id": [1], "uri": ["1.jpg"]}))
    (tmp_path / "own.parquet").write_bytes(theirs)
    with pytest.raises(DataError, match="was not made by jobs.catalog and is left alone"):
        made(str(tmp_path / "art"), str(tmp_path / "own.parquet"))
    assert (tmp_path / "own.parquet").read_bytes() == theirs
    made(str(tmp_path / "art"), str(tmp_path / "ours.parquet"))
    publish(str(tmp_path / "other"), "2.jpg")
    with pytest.raises(DataError, match="ours.parquet lists .*art, not .*other"):
        made(str(tmp_path / "other"), str(tmp_path / "ours.parquet"))


def test_names_that_are_no_utf_8_are_listed_by_a_uri_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    art = tmp_path / "art"
    art.mkdir()
    for name in (b"caf\xe9.jpg", b"7_p0.jpg"):
        with open(os.path.join(os.fsencode(art), name), "wb") as file:
            file.write(name)
    made(str(art), str(tmp_path / "out.parquet"))
    found = {row["illust_id"]: row["uri"] for row in rows(str(tmp_path / "out.parquet"))}
    assert set(found) == {"7", "caf\\xe9"}
    source = image_source(str(tmp_path), ())
    assert source.read_many([found["caf\\xe9"], found["7"]]) == [b"caf\xe9.jpg", b"7_p0.jpg"]
    assert "1 names are no UTF-8, such as caf\\xe9.jpg" in caplog.text
    assert "convmv" in caplog.text


def test_the_job_is_a_command(tmp_path: Path) -> None:
    publish(str(tmp_path / "art"), "1.jpg")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "jobs.catalog", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = run("--images", "art", "--out", "catalog.parquet")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["next"].startswith(f"python -m jobs.score --catalog {tmp_path}/catalog.parquet --model")
    wrong = run("--images", "none", "--out", "x.parquet")
    assert (wrong.returncode, wrong.stderr.count("jobs.catalog:")) == (2, 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"id_pattern": "("}, "no regular expression"),
        ({"id_pattern": r"\d+"}, r"expected a group \(\?P<id>"),
        ({"id_pattern": r"(?P<id>\d+)(?P<pg>\d)"}, "no other named one"),
        ({"label_from_folder": "uri"}, "cannot be called 'uri'"),
        ({"label_from_folder": "URI"}, "cannot be called 'URI'"),
        ({"tags_from_text": "file"}, "cannot be called 'file'"),
        ({"label_from_folder": "tags", "tags_from_text": "Tags"}, "cannot be called 'tags'"),
        *(({"label_from_folder": name}, f"cannot be called '{name}'") for name in ("Page", "file", "suffix")),
        ({"label_from_folder": "a", "tags_from_text": "A"}, "cannot be called 'a'"),
        ({"archives": True, "json_label": ("cls",)}, "cannot be called 'cls'"),
        ({"labels_key": "x"}, "--labels, which is not given"),
        ({"json_label": ("x",)}, "for --archives"),
        ({"archives": True, "out": "x.parquet"}, "is a folder"),
        ({"archives": True, "same_id": "newest"}, "for files"),
        ({"archives": True, "labels": "x.csv"}, "for files"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CatalogConfig(**{"images": "art", "out": "catalog", **settings})


def test_a_pattern_that_the_engine_does_not_take_is_told(tmp_path: Path) -> None:
    publish(str(tmp_path / "art"), "1.jpg")
    said = refusal(str(tmp_path / "art"), str(tmp_path / "out"), id_pattern=r"(?<=x)(?P<id>\d+)")
    assert "RE2, which has neither lookaround" in said


def test_a_suffix_that_can_be_none_is_told(tmp_path: Path) -> None:
    publish(str(tmp_path / "art"), "bare", "1.jpg", "2.JPG", "x.heic")
    assert "expected one such as .jpg" in refusal(
        str(tmp_path / "art"), str(tmp_path / "out"), suffix=("a/b",)
    )
    made(str(tmp_path / "art"), str(tmp_path / "out.parquet"), suffix=("none", ".heic"))
    assert [row["uri"] for row in rows(str(tmp_path / "out.parquet"))] == [
        "art/bare",
        "art/x.heic",
    ]


def test_more_pictures_than_a_file_holds_want_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_module, "MAX_FILE_ROWS", 1)
    publish(str(tmp_path / "art"), "1.jpg", "2.jpg")
    with pytest.raises(ConfigError, match=r"2 pictures are too many for one file .*give a folder .*/out$"):
        made(str(tmp_path / "art"), str(tmp_path / "out.parquet"))
    assert made(str(tmp_path / "art"), str(tmp_path / "out"))["rows"]["pictures"] == 2


def test_pictures_are_what_is_decoded_here(tmp_path: Path) -> None:
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        (tmp_path / f"{form}.{form.lower()}").write_bytes(encode(flat((1, 2, 3)), form))
    assert made(str(tmp_path), str(tmp_path / "out.parquet"))["rows"]["pictures"] == 7
