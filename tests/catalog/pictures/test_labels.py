"""Labels of pictures: from folders, from a table, from texts beside them."""

from __future__ import annotations

import gzip
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.config import OWN_COLUMNS, CatalogConfig
from pix2score.catalog.job import catalog
from pix2score.catalog.pictures.texts import tags_of
from pix2score.catalog.several import open_catalogs
from pix2score.errors import ConfigError, DataError
from pix2score.heads.classes import ClassesHead
from pix2score.heads.tags import TagsHead
from pix2score.storage.folder import Folder
from pix2score.summaries import CatalogSummary


def publish(place: str, *paths: str) -> None:
    for path in paths:
        Folder(place).publish(path, path.encode(), replace=True)


def labelled(place: str, **settings: Any) -> tuple[CatalogSummary, dict[Any, dict[str, Any]]]:
    """The summary, and the rows by path below the pictures."""
    out = f"{place}/catalog.parquet"
    summary = catalog(CatalogConfig(images=f"{place}/art", out=out, **settings))
    rows = pq.read_table(Folder(place).open("catalog.parquet")).to_pylist()
    return summary, {row["uri"].removeprefix("art/"): row for row in rows}


def test_the_first_folder_is_a_label_that_a_head_reads(place: str) -> None:
    publish(f"{place}/art", "good/1.jpg", "good/deep/2.jpg", "bad/3.jpg", "4.jpg")
    summary, rows = labelled(place, label_from_folder="verdict")
    assert {path: row["verdict"] for path, row in rows.items()} == {
        "good/1.jpg": "good", "good/deep/2.jpg": "good", "bad/3.jpg": "bad", "4.jpg": None
    }  # fmt: skip
    assert summary["labels"] == {"folder": {"labelled": 3, "unlabelled": 1, "values": 2}}
    head = ClassesHead(name="verdict", column="verdict")
    opened = open_catalog(f"{place}/catalog.parquet", Columns(), [head])
    assert opened.labels == ("verdict",)


CSV = "file,likes,taste\n1.jpg,10,good\n2_p0.png,20,bad\n404.jpg,1,x\n"
TABLES = {
    "labels.csv": CSV.encode(),
    "labels.tsv": CSV.replace(",", "\t").encode(),
    "labels.jsonl": b"".join(
        json.dumps(dict(zip(("file", "likes", "taste"), line, strict=True))).encode() + b"\n"
        for line in (("1.jpg", 10, "good"), ("2_p0.png", 20, "bad"), ("404.jpg", 1, "x"))
    ),
}


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.mark.parametrize("name", [*TABLES, "labels.parquet"])
def test_a_table_is_joined_by_file_name(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "deep/1.jpg", "2_p0.png", "3.jpg")
    data = TABLES.get(name) or parquet(
        file=["1.jpg", "2_p0.png", "404.jpg"], likes=[10, 20, 1], taste=["good", "bad", "x"]
    )
    Folder(place).publish(name, data)
    caplog.set_level("INFO")
    summary, rows = labelled(place, labels=f"{place}/{name}")
    assert {path: (row["likes"], row["taste"]) for path, row in rows.items()} == {
        "deep/1.jpg": (10, "good"), "2_p0.png": (20, "bad"), "3.jpg": (None, None)
    }  # fmt: skip
    assert summary["labels"] == {"table": {"labelled": 2, "unlabelled": 1, "rows_without_picture": 1}}
    assert "1 rows name no picture here, such as '404.jpg'" in caplog.text
    assert "1 pictures have none, such as 3.jpg" in caplog.text


@pytest.mark.parametrize(
    ("keys", "way"),
    [
        (["7", "8"], "id"),
        (["deep/7_p0.jpg", "./8_p1.jpg"], "path"),
        (["7_p0.jpg", "8_p1.jpg"], "file name"),
        (["7_p0", "8_p1"], "file name without suffix"),
    ],
)
def test_the_way_that_fits_is_found(
    tmp_path: Path, keys: list[str], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "deep/7_p0.jpg", "8_p1.jpg")
    Folder(place).publish("labels.csv", f"which,n\n{keys[0]},1\n{keys[1]},2\n".encode())
    caplog.set_level("INFO")
    _, rows = labelled(place, labels=f"{place}/labels.csv", labels_key="which")
    assert {path: row["n"] for path, row in rows.items()} == {"deep/7_p0.jpg": 1, "8_p1.jpg": 2}
    assert f", by {way}: 2 pictures" in caplog.text


def test_ids_are_text_in_the_join_and_pages_count(tmp_path: Path) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "007_p0.jpg", "007_p1.jpg", "8_p0.jpg", "8_p1.jpg")
    Folder(place).publish("labels.csv", b"id,page,n\n007,0,1\n007,1,2\n8,,3\n")
    _, rows = labelled(place, labels=f"{place}/labels.csv")
    assert {path: row["n"] for path, row in rows.items()} == {
        "007_p0.jpg": 1, "007_p1.jpg": 2, "8_p0.jpg": 3, "8_p1.jpg": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data", "settings", "error", "words"),
    [
        ("l.csv", b"who,n\n1,1\n", {}, ConfigError, "no column that names the picture; --labels-key"),
        ("l.csv", b"id,n\n1,1\n", {"labels_key": "x"}, ConfigError, "has no column 'x'.*it has id, n"),
        ("l.csv", b"id,n\n404,1\n", {}, DataError, "names no picture.*'404'.*'1.jpg' with id '1'"),
        (
            "l.csv",
            b"id,n\n1,1\n1,2\n",
            {},
            DataError,
            "several different rows name one picture, 1 times.*1.jpg",
        ),
        ("l.csv", b"id\n1\n", {}, DataError, "no column of labels, only id"),
        ("l.xlsx", b"PK", {}, ConfigError, "expected a file .csv"),
        ("l.jsonl", b"{", {}, DataError, "cannot be read as jsonl"),
        ("l.parquet", b"{", {}, DataError, "cannot be read as parquet"),
        ("none.csv", None, {}, DataError, "no such file"),
        (".", None, {}, ConfigError, "expected a file .csv"),
        ("l.csv", b"id,n\n", {}, DataError, "no row has a value in column id"),
        ("l.csv", b"", {}, DataError, "is empty"),
        ("l.csv", b"id,n\n1,2,3\n", {}, DataError, "l.csv cannot be read as csv: line 2 has 3 fields"),
        ("l.csv", b"id,n\n1,\xe9\n", {}, DataError, "line 2 is not UTF-8"),
        ("l.tsv", b'id\tn\n1\t"x\n', {}, DataError, "line 2: unexpected end of data"),
        ("l.csv", b"id,n,n\n1,2,3\n", {}, DataError, "more than one column n"),
        ("l.csv", b"id,n,N\n1,2,3\n", {}, DataError, "n, N differ in upper and lower case alone"),
        ("l.json", b'{"id": 1,', {}, DataError, "l.json cannot be read as json: line 1 is not JSON"),
    ],
)
def test_a_table_that_does_not_fit_is_told(
    tmp_path: Path,
    name: str,
    data: bytes | None,
    settings: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "1.jpg", "2.jpg")
    if data is not None:
        Folder(place).publish(name, data)
    with pytest.raises(error, match=words) as caught:
        labelled(place, labels=f"{place}/{name}", **settings)
    assert "\n" not in str(caught.value)
    assert "/pix2score-" not in str(caught.value)  # where it was copied to
    assert not (tmp_path / "catalog.parquet").exists()


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    publish(f"{tmp_path}/art", "1.jpg")
    (tmp_path / "l.csv").mkdir()
    with pytest.raises(DataError, match="l.csv: no such file"):
        labelled(str(tmp_path), labels=f"{tmp_path}/l.csv")


def test_rows_that_are_alike_count_once_and_columns_of_the_catalog_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "1.jpg")
    Folder(place).publish("l.jsonl", 2 * b'{"id": 1, "size": 9, "n": 5, "deep": {"a": 1}}\n')
    _, rows = labelled(place, labels=f"{place}/l.jsonl")
    assert (rows["1.jpg"]["n"], rows["1.jpg"]["size"]) == (5, 5)
    assert "deep" not in rows["1.jpg"]
    assert "left out, as they are nested or the catalog has a column of that name: size, deep" in caplog.text


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.json", "l.parquet", "l.csv.gz", "l.csv.zst"])
def test_no_label_is_lost_or_renamed_by_what_it_is_called(tmp_path: Path, name: str) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "good/1.jpg")
    row = {"id": "1", "match": "m", "matched": 5, "tags": "t", "beside": "b", "Size": 9, "File": "f"}
    lines = [",".join(row), ",".join(map(str, row.values()))]
    text = "\n".join(lines).encode()
    contents = {
        "l.csv": text,
        "l.csv.gz": gzip.compress(text),
        "l.csv.zst": pa.compress(text, codec="zstd", asbytes=True),
        "l.jsonl": json.dumps(row).encode(),
        "l.json": json.dumps([row], indent=2).encode(),
        "l.parquet": parquet(**{name: [value] for name, value in row.items()}),
    }
    Folder(f"{place}/art").publish("good/1.txt", b"a,b")
    Folder(place).publish(name, contents[name])
    _, rows = labelled(place, labels=f"{place}/{name}", label_from_folder="first", tags_from_text="text")
    labels = {key: value for key, value in rows["good/1.jpg"].items() if key not in OWN_COLUMNS}
    assert labels == {
        "first": "good", "match": "m", "matched": 5, "tags": "t", "beside": "b", "text": ["a", "b"]
    }  # fmt: skip


def test_a_label_of_the_table_does_not_take_the_name_of_tags(tmp_path: Path) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "1.jpg")
    Folder(f"{place}/art").publish("1.txt", b"a,b")
    Folder(place).publish("l.csv", b"id,Tags,n\n1,x,2\n")
    _, rows = labelled(place, labels=f"{place}/l.csv", tags_from_text="tags")
    assert (rows["1.jpg"]["tags"], rows["1.jpg"]["n"], "Tags" in rows["1.jpg"]) == (["a", "b"], 2, False)


@pytest.mark.parametrize("name", ["l.jsonl", "l.json"])
def test_ids_and_labels_of_mixed_types_are_what_they_are_written_as(tmp_path: Path, name: str) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "1.jpg", "007.jpg", "18446744073709551616.jpg")
    found = [{"id": 1, "n": 1}, {"id": "007", "n": "x"}, {"id": 2**64, "n": None}]
    text = json.dumps(found) if name == "l.json" else "\n".join(map(json.dumps, found))
    Folder(place).publish(name, text.encode())
    summary, rows = labelled(place, labels=f"{place}/{name}")
    assert {path: row["n"] for path, row in rows.items()} == {
        "1.jpg": "1", "007.jpg": "x", "18446744073709551616.jpg": None
    }  # fmt: skip
    assert summary["labels"]["table"]["rows_without_picture"] == 0


def test_letters_with_their_accents_apart_are_the_same_names(tmp_path: Path) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", unicodedata.normalize("NFD", "é.jpg"), "2.jpg")
    Folder(place).publish("l.csv", "file,n\né.jpg,1\n2.jpg,2\n3.jpg,3\n".encode())
    summary, rows = labelled(place, labels=f"{place}/l.csv")
    assert sorted(row["n"] for row in rows.values()) == [1, 2]
    assert summary["labels"]["table"] == {"labelled": 2, "unlabelled": 0, "rows_without_picture": 1}


def test_texts_beside_pictures_are_tags_that_a_head_reads(place: str) -> None:
    art = Folder(f"{place}/art")
    publish(art.uri, "1.jpg", "2.jpg", "deep/3.jpg", "4.jpg")
    art.publish("1.txt", "\ufeffcat, long hair ,cat,\r\nüber".encode())
    art.publish("2.jpg.txt", b"")
    art.publish("deep/3.txt", b"owl")
    summary, rows = labelled(place, tags_from_text="tags")
    assert {path: row["tags"] for path, row in rows.items()} == {
        "1.jpg": ["cat", "long hair", "über"], "2.jpg": [], "deep/3.jpg": ["owl"], "4.jpg": None
    }  # fmt: skip
    assert summary["labels"] == {"text": {"labelled": 3, "unlabelled": 1}}
    head = TagsHead(name="tag", column="tags", min_images=1)
    members = open_catalogs([f"{place}/catalog.parquet"], Columns(), [head], {}).members
    assert members[0].schema.field("tags").type.value_type == pa.string()


def test_another_label_is_an_update_and_not_another_picture(place: str) -> None:
    publish(f"{place}/art", "1.jpg", "2.jpg")
    Folder(place).publish("l.csv", b"id,n\n1,1\n2,2\n")
    labelled(place, labels=f"{place}/l.csv")
    Folder(place).publish("l.csv", b"id,n\n1,1\n2,3\n", replace=True)
    summary, rows = labelled(place, labels=f"{place}/l.csv")
    assert (summary["rows"]["updated"], summary["rows"]["changed"], summary["rows"]["unchanged"]) == (1, 0, 1)
    assert rows["2.jpg"]["n"] == 3


def test_a_column_may_have_another_type_another_night(tmp_path: Path) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "1.jpg", "2.jpg")
    Folder(f"{place}/art").publish("1.txt", b"cat")
    for table, values in (("1,1\n2,2", [1, 2]), ("1,1\n2,x", ["1", "x"]), ("1,2020-01-01\n2,", None)):
        Folder(place).publish("l.csv", f"id,tags\n{table}\n".encode(), replace=True)
        summary, rows = labelled(place, labels=f"{place}/l.csv")
        assert values is None or [row["tags"] for row in rows.values()] == values
    assert summary["rows"]["updated"] == 2
    summary, rows = labelled(place, tags_from_text="tags")
    assert [row["tags"] for row in rows.values()] == [["cat"], None]
    assert (summary["rows"]["updated"], summary["rows"]["unchanged"]) == (1, 1)


def test_columns_of_a_table_may_have_any_name_that_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = str(tmp_path)
    publish(f"{place}/art", "1.jpg")
    Folder(f"{place}/art").publish("1.txt", b"cat")
    names = ("match", "matched", "text_path", "of", 'a"b', "Tags", "Verdict", "URI")
    row = ",".join(str(number) for number in range(10, 10 + len(names)))
    header = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    Folder(place).publish("l.csv", f"id,{header}\n1,{row}\n".encode())
    for _ in range(2):
        summary, rows = labelled(
            place, labels=f"{place}/l.csv", tags_from_text="tags", label_from_folder="verdict"
        )
        assert {name: value for name, value in rows["1.jpg"].items() if name in {*names, "tags"}} == {
            "match": 10, "matched": 11, "text_path": 12, "of": 13, 'a"b': 14, "tags": ["cat"]
        }  # fmt: skip
    assert summary["rows"]["unchanged"] == 1
    assert "the catalog has a column of that name: Tags, Verdict, URI" in caplog.text


def test_tags_are_what_stands_between_commas() -> None:
    assert tags_of(b"1girl, solo,  long hair ,,solo\n") == ["1girl", "solo", "long hair"]
    assert tags_of(b"\xff, b") == ["\ufffd", "b"]
