"""The catalog as users have it: columns mapped or found, every refusal naming what is there and what mends it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog import Catalog, Columns, open_catalog
from pix2score.errors import DataError
from pix2score.storage import Folder
from tests.builders import write_catalog

PLAIN = {"illust_id": [1, 2], "uri": ["a.png", "b.png"]}


def rows(catalog: Catalog) -> list[dict[str, Any]]:
    return pa.Table.from_batches(catalog.batches(), schema=catalog.rows_schema()).to_pylist()


def test_a_single_file_and_its_folder_are_the_same_catalog(place: str) -> None:
    write_catalog(place, PLAIN)
    as_folder, as_file = open_catalog(place, Columns()), open_catalog(f"{place}/catalog.parquet", Columns())
    assert rows(as_folder) == rows(as_file) == [{"illust_id": 1, "uri": "a.png"}, {"illust_id": 2, "uri": "b.png"}]
    assert as_folder.folder.uri == as_file.folder.uri == Folder(place).uri
    assert as_folder.files == as_file.files
    assert [(f.path, f.size > 0, f.etag != "") for f in as_file.files] == [("catalog.parquet", True, True)]


def test_several_files_are_read_in_the_order_of_their_names(place: str) -> None:
    write_catalog(place, {"illust_id": [3], "uri": ["c"]}, "b.parquet")
    write_catalog(place, PLAIN, "a.parquet")
    Folder(place).publish("README.txt", b"not a catalog")
    Folder(place).publish("images/1.png", b"an image")
    assert [row["illust_id"] for row in rows(open_catalog(place, Columns()))] == [1, 2, 3]


def test_subfolders_are_read_only_if_the_top_has_no_parquet_file(place: str) -> None:
    write_catalog(place, PLAIN, "day=1/a.parquet")
    write_catalog(place, PLAIN, "_temporary/b.parquet")
    write_catalog(place, PLAIN, ".hidden/c.parquet")
    assert [f.path for f in open_catalog(place, Columns()).files] == ["day=1/a.parquet"]
    write_catalog(place, PLAIN, "top.parquet")
    assert [f.path for f in open_catalog(place, Columns()).files] == ["top.parquet"]


def test_nothing_there_is_a_data_error_naming_the_place(place: str) -> None:
    with pytest.raises(DataError, match=f"no catalog at {place}"):
        open_catalog(place, Columns())
    with pytest.raises(DataError, match=r"no catalog at .*absent\.parquet"):
        open_catalog(f"{place}/absent.parquet", Columns())


def test_a_file_that_is_not_parquet_is_named(place: str) -> None:
    Folder(place).publish("catalog.parquet", b"id,uri\n1,a.png\n" * 10)
    with pytest.raises(DataError, match=r"catalog\.parquet is not a Parquet file"):
        open_catalog(place, Columns())


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_broken_parquet_file_is_named(place: str, data: bytes) -> None:
    Folder(place).publish("catalog.parquet", data)
    with pytest.raises(DataError, match=r"catalog\.parquet is not a Parquet file"):
        open_catalog(place, Columns())


def test_a_file_with_a_damaged_page_is_named(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": list(range(5000)), "uri": [f"{i * 7919}.png" for i in range(5000)]})
    data = bytearray(Folder(place).read("catalog.parquet"))
    data[4:60] = bytes(b ^ 0xFF for b in data[4:60])
    Folder(place).publish("catalog.parquet", bytes(data), replace=True)
    with pytest.raises(DataError, match=r"catalog\.parquet is damaged"):
        rows(open_catalog(place, Columns()))


def test_other_column_names_are_mapped(tmp_path: Any) -> None:
    table = {
        "work": [1],
        "p": [3],
        "path": ["a"],
        "who": [9],
        "fold": ["val"],
        "md5": ["x"],
        "changed": [5],
        "page": [7],
        "uri": ["no"],
    }
    place = write_catalog(str(tmp_path), table)
    columns = Columns(id="work", page="p", uri="path", group="who", split="fold", fingerprint="md5", updated_at="changed")
    catalog = open_catalog(place, columns)
    assert catalog.fingerprint_kind == "md5"
    assert rows(catalog) == [
        {"illust_id": 1, "page": 3, "uri": "a", "group": 9, "split": "val", "fingerprint": "x", "updated_at": 5}
    ]


def test_usual_column_names_are_found_without_asking(tmp_path: Any) -> None:
    table = {"illust_id": [1], "page": [0], "uri": ["a"], "artist_id": [9], "etag": ["e"], "updated_at": [5], "split": ["val"]}
    columns = open_catalog(write_catalog(str(tmp_path), table), Columns()).columns
    assert columns == Columns(
        id="illust_id", page="page", uri="uri", group="artist_id", fingerprint="etag", updated_at="updated_at", split=None
    )


def test_a_fingerprint_column_goes_before_an_etag(tmp_path: Any) -> None:
    catalog = open_catalog(write_catalog(str(tmp_path), {**PLAIN, "etag": ["e", "f"], "fingerprint": ["x", "y"]}), Columns())
    assert catalog.fingerprint_kind == "fingerprint"


def test_without_a_fingerprint_the_uri_is_one(tmp_path: Any) -> None:
    assert open_catalog(write_catalog(str(tmp_path), PLAIN), Columns()).fingerprint_kind == "uri"


@pytest.mark.parametrize(
    ("columns", "labels", "mend"),
    [
        (Columns(id="work"), (), "--columns.id"),
        (Columns(uri="path"), (), "--columns.uri"),
        (Columns(updated_at="when"), (), "--columns.updated_at"),
        (Columns(), ("bookmarks",), r"\[\[heads\]\]"),
    ],
)
def test_a_missing_column_is_named_with_those_present_and_what_maps_another(
    tmp_path: Any, columns: Columns, labels: tuple[str, ...], mend: str
) -> None:
    place = write_catalog(str(tmp_path), PLAIN)
    with pytest.raises(DataError, match=f"it has illust_id, uri; .*{mend}"):
        open_catalog(place, columns, labels)


def test_a_near_name_is_suggested(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {"illust_idx": [1], "uri": ["a"]})
    with pytest.raises(DataError, match=r"'illust_id' \(did you mean illust_idx\?\)"):
        open_catalog(place, Columns())


def test_a_catalog_without_images_names_both_ways_to_map_them(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1], "url": ["a"]})
    with pytest.raises(DataError, match=r"--columns\.uri.*--columns\.image.*illust_id, url"):
        open_catalog(place, Columns())


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"illust_id": [1.5], "uri": ["a"]}, "illust_id is double, expected an integer or a string"),
        ({"illust_id": [1], "uri": [5]}, "uri is int64, expected a string"),
        ({"illust_id": [1], "uri": ["a"], "page": ["one"]}, "page is string, expected an integer"),
        ({"illust_id": [1], "image": ["text"]}, "image is string, expected bytes"),
    ],
)
def test_a_column_of_a_wrong_type_is_named_with_the_expected_one(tmp_path: Any, table: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        open_catalog(write_catalog(str(tmp_path), table), Columns())


def test_a_label_that_cannot_be_a_number_is_named(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {**PLAIN, "bookmarks": [[1], [2]]})
    with pytest.raises(DataError, match="bookmarks is list.*expected a number"):
        open_catalog(place, Columns(), ["bookmarks"])


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["x", "y"]),
        pa.array(["x", "y"], pa.large_string()),
        pa.array(["x", "y"]).dictionary_encode(),
        pa.array(["x", "y"], pa.string_view()),
    ],
    ids=["string", "large", "dictionary", "view"],
)
def test_ids_may_be_text_of_any_arrow_kind(tmp_path: Any, ids: pa.Array) -> None:
    catalog = open_catalog(write_catalog(str(tmp_path), {"illust_id": ids, "uri": ids}), Columns())
    assert catalog.id_type == pa.string()
    assert rows(catalog) == [{"illust_id": "x", "uri": "x"}, {"illust_id": "y", "uri": "y"}]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([5, 2**62]),
        pa.array([5, 2**62], pa.uint64()),
        pa.array([5, 2**62]).dictionary_encode(),
    ],
    ids=["int64", "uint64", "dictionary"],
)
def test_ids_may_be_integers_of_any_width(tmp_path: Any, ids: pa.Array) -> None:
    catalog = open_catalog(write_catalog(str(tmp_path), {"illust_id": ids, "uri": ["a", "b"]}), Columns())
    assert catalog.id_type == pa.int64()
    assert [row["illust_id"] for row in rows(catalog)] == [5, 2**62]


def test_a_later_file_without_a_column_is_named(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {**PLAIN, "etag": ["e", "f"]}, "a.parquet")
    write_catalog(place, PLAIN, "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet lacks column etag"):
        rows(open_catalog(place, Columns()))


def test_a_later_file_of_another_type_is_named(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), PLAIN, "a.parquet")
    write_catalog(place, {"illust_id": ["x"], "uri": ["c"]}, "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: column illust_id cannot be read as int64"):
        rows(open_catalog(place, Columns()))


def test_a_narrower_integer_in_a_later_file_is_fine(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), PLAIN, "a.parquet")
    write_catalog(place, {"illust_id": pa.array([3], pa.int16()), "uri": ["c"]}, "b.parquet")
    assert [row["illust_id"] for row in rows(open_catalog(place, Columns()))] == [1, 2, 3]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_embedded_images_are_located_and_hashed(tmp_path: Any, kind: pa.DataType) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1, 2], "image": pa.array([b"one", None], kind)}, "a.parquet")
    write_catalog(place, {"illust_id": [3], "image": pa.array([b"three"], kind)}, "b.parquet")
    catalog = open_catalog(place, Columns())
    assert (catalog.embedded, catalog.fingerprint_kind) == (True, "sha256")
    assert rows(catalog) == [
        {"illust_id": 1, "file": "a.parquet", "row": 0, "sha256": hashlib.sha256(b"one").hexdigest()},
        {"illust_id": 2, "file": "a.parquet", "row": 1, "sha256": None},
        {"illust_id": 3, "file": "b.parquet", "row": 0, "sha256": hashlib.sha256(b"three").hexdigest()},
    ]


def test_rows_of_an_embedding_catalog_keep_counting_over_batches(tmp_path: Any) -> None:
    images = pa.array([b"%d" % i for i in range(600)])
    catalog = open_catalog(write_catalog(str(tmp_path), {"illust_id": list(range(600)), "image": images}), Columns())
    assert all(row["row"] == row["illust_id"] for row in rows(catalog))


def test_images_with_a_fingerprint_column_are_not_hashed(tmp_path: Any) -> None:
    table = {"illust_id": [1], "image": pa.array([b"one"]), "etag": ["e"]}
    catalog = open_catalog(write_catalog(str(tmp_path), table), Columns())
    assert catalog.fingerprint_kind == "etag"
    assert rows(catalog)[0]["sha256"] is None


def test_an_asked_image_column_goes_before_a_found_uri(tmp_path: Any) -> None:
    table = {**PLAIN, "image": pa.array([b"1", b"2"])}
    place = write_catalog(str(tmp_path), table)
    assert not open_catalog(place, Columns()).embedded
    assert open_catalog(place, Columns(image="image")).embedded


def test_a_column_that_begins_in_a_later_file_is_refused_rather_than_lost(tmp_path: Path) -> None:
    pq.write_table(pa.table({"illust_id": [1], "uri": ["a.png"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"illust_id": [7, 7], "page": [0, 1], "uri": ["b.png", "c.png"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has column page, which the first file lacks"):
        list(open_catalog(str(tmp_path), Columns()).batches())


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array(["a"]), pa.array(["b"])], names=["illust_id", "uri", "uri"])
    pq.write_table(table, tmp_path / "catalog.parquet")
    with pytest.raises(DataError, match="more than one column uri"):
        open_catalog(str(tmp_path), Columns())


def test_a_file_that_changes_after_opening_is_noticed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"illust_id": [1], "uri": ["a.png"]}), tmp_path / "catalog.parquet")
    catalog = open_catalog(str(tmp_path), Columns())
    catalog.check_unchanged()
    pq.write_table(pa.table({"illust_id": [1, 2], "uri": ["a.png", "b.png"]}), tmp_path / "catalog.parquet")
    with pytest.raises(DataError, match="changed while it was read"):
        catalog.check_unchanged()
