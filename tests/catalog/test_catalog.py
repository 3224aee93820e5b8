"""The catalog as users have it: columns mapped or found, every refusal naming what is there and what mends
it."""

from __future__ import annotations

import decimal
import hashlib
import os
import shutil
import uuid
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import aiobotocore.client
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.read import image_values
from pix2score.catalog.rows import catalog_rows
from pix2score.errors import DataError
from pix2score.heads.ordered import OrderedHead
from pix2score.storage.folder import Folder
from tests.support.builders import write_catalog

PLAIN = {"illust_id": [1, 2], "uri": ["a.png", "b.png"]}
BOOKMARK = OrderedHead(name="bookmark", column="bookmarks", edges=(10, 30))
ARTIST = OrderedHead(name="artist", column="artist_id", edges=(10, 30))


def rows(catalog: Catalog) -> list[dict[str, Any]]:
    return pa.Table.from_batches(catalog.batches(), schema=catalog.rows_schema()).to_pylist()


def test_a_single_file_and_its_folder_are_the_same_catalog(place: str) -> None:
    write_catalog(place, PLAIN)
    as_folder, as_file = open_catalog(place, Columns()), open_catalog(f"{place}/catalog.parquet", Columns())
    assert (
        rows(as_folder)
        == rows(as_file)
        == [{"illust_id": 1, "uri": "a.png"}, {"illust_id": 2, "uri": "b.png"}]
    )
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
    write_catalog(place, PLAIN, "_old/b.parquet")
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
    place = write_catalog(
        str(tmp_path), {"illust_id": list(range(5000)), "uri": [f"{i * 7919}.png" for i in range(5000)]}
    )
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
    columns = Columns(
        id="work", page="p", uri="path", group="who", split="fold", fingerprint="md5", updated_at="changed"
    )
    catalog = open_catalog(place, columns)
    assert catalog.fingerprint_kind == "md5"
    assert rows(catalog) == [
        {
            "illust_id": 1,
            "page": 3,
            "uri": "a",
            "group": 9,
            "split": "val",
            "fingerprint": "x",
            "updated_at": 5,
        }
    ]


BEFORE = {"id": "work", "page": "p", "uri": "path", "image": None, "fingerprint": "md5", "group": "who"}


def asked(place: str, columns: Columns) -> Columns:
    return open_catalog(place, columns, before=BEFORE).asked


def test_columns_without_a_usual_name_are_mapped_as_before(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {"work": [1], "p": [3], "path": ["a"], "md5": ["x"]})
    assert asked(place, Columns()) == Columns(id="work", page="p", uri="path", fingerprint="md5")
    assert rows(open_catalog(place, Columns(), before=BEFORE))[0]["uri"] == "a"
    with pytest.raises(DataError, match="has no column 'illust_id'"):
        open_catalog(place, Columns())


def test_what_is_asked_for_or_has_its_usual_name_goes_before_how_it_was(tmp_path: Any) -> None:
    table = {"illust_id": [1], "work": [2], "path": ["a"], "image": [b"x"], "etag": ["y"], "md5": ["x"]}
    place = write_catalog(str(tmp_path / "usual"), table)
    assert asked(place, Columns()) == Columns()
    other = write_catalog(str(tmp_path / "other"), {"work": [1], "number": [2], "path": ["a"], "file": ["b"]})
    assert asked(other, Columns(id="number", uri="file")) == Columns(id="number", uri="file")
    split_too = write_catalog(
        str(tmp_path / "split"), {"work": [1], "uri": ["a"], "who": [[1]], "md5": ["x"]}
    )
    assert asked(split_too, Columns()) == Columns(id="work", fingerprint="md5"), "score splits nothing"
    bytes_too = write_catalog(str(tmp_path / "bytes"), {"work": [1], "path": ["a"], "picture": [b"x"]})
    assert asked(bytes_too, Columns(image="picture")) == Columns(id="work", image="picture")


def test_a_catalog_that_was_read_before_is_read_as_before(tmp_path: Any) -> None:
    """Its keys and fingerprints must not change because a model knows more of them."""
    place = write_catalog(str(tmp_path), {"illust_id": [1], "uri": ["a"], "p": [3], "md5": ["x"]})
    assert asked(place, Columns()) == Columns()


def test_usual_column_names_are_found_without_asking(tmp_path: Any) -> None:
    table = {
        "illust_id": [1],
        "page": [0],
        "uri": ["a"],
        "artist_id": [9],
        "etag": ["e"],
        "updated_at": [5],
        "split": ["val"],
    }
    columns = open_catalog(write_catalog(str(tmp_path), table), Columns()).columns
    assert columns == Columns(
        id="illust_id",
        page="page",
        uri="uri",
        group="artist_id",
        fingerprint="etag",
        updated_at="updated_at",
        split=None,
    )


def test_a_fingerprint_column_goes_before_an_etag(tmp_path: Any) -> None:
    catalog = open_catalog(
        write_catalog(str(tmp_path), {**PLAIN, "etag": ["e", "f"], "fingerprint": ["x", "y"]}), Columns()
    )
    assert catalog.fingerprint_kind == "fingerprint"


def test_without_a_fingerprint_the_uri_is_one(tmp_path: Any) -> None:
    assert open_catalog(write_catalog(str(tmp_path), PLAIN), Columns()).fingerprint_kind == "uri"


@pytest.mark.parametrize(
    ("columns", "heads", "mend"),
    [
        (Columns(id="work"), (), "--columns.id"),
        (Columns(uri="path"), (), "--columns.uri"),
        (Columns(updated_at="when"), (), "--columns.updated_at"),
        (Columns(), (BOOKMARK,), r"\[\[heads\]\]"),
    ],
)
def test_a_missing_column_is_named_with_those_present_and_what_maps_another(
    tmp_path: Any, columns: Columns, heads: tuple[OrderedHead, ...], mend: str
) -> None:
    place = write_catalog(str(tmp_path), PLAIN)
    with pytest.raises(DataError, match=f"it has illust_id, uri; .*{mend}"):
        open_catalog(place, columns, heads)


def test_a_near_name_is_suggested(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {"illust_idx": [1], "uri": ["a"]})
    with pytest.raises(DataError, match=r"'illust_id' \(did you mean illust_idx\?\)"):
        open_catalog(place, Columns())


def test_a_name_in_other_letters_is_suggested(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {"ILLUST_ID": [1], "uri": ["a"]})
    with pytest.raises(DataError, match=r"'illust_id' \(did you mean ILLUST_ID\?\)"):
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
        ({"illust_id": [1], "uri": [["a"]]}, "uri is list.*expected a string"),
        ({"illust_id": [True], "uri": ["a"]}, "illust_id is bool, expected an integer or a string"),
        ({"illust_id": [1], "image": ["text"]}, "image is string, expected bytes"),
    ],
)
def test_a_column_of_a_wrong_type_is_named_with_the_expected_one(
    tmp_path: Any, table: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        open_catalog(write_catalog(str(tmp_path), table), Columns())


def test_a_label_that_cannot_be_a_number_is_named(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {**PLAIN, "bookmarks": [[1], [2]]})
    with pytest.raises(DataError, match="bookmarks is list.*expected a number"):
        open_catalog(place, Columns(), [BOOKMARK])


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
    place = write_catalog(
        str(tmp_path), {"illust_id": [1, 2], "image": pa.array([b"one", None], kind)}, "a.parquet"
    )
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
    catalog = open_catalog(
        write_catalog(str(tmp_path), {"illust_id": list(range(600)), "image": images}), Columns()
    )
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
    pq.write_table(
        pa.table({"illust_id": [7, 7], "page": [0, 1], "uri": ["b.png", "c.png"]}), tmp_path / "b.parquet"
    )
    with pytest.raises(DataError, match=r"b\.parquet has column page, which the first file lacks"):
        list(open_catalog(str(tmp_path), Columns()).batches())


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array([1]), pa.array(["a"]), pa.array(["b"])], names=["illust_id", "uri", "uri"]
    )
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


# Columns in the path of a file, as Hive, Spark and pandas write partitions.


def test_partition_columns_are_columns(place: str) -> None:
    write_catalog(
        place, {"illust_id": [1, 2], "uri": ["a", "b"]}, "artist_id=7/split=val/day=2026-01-01/p.parquet"
    )
    write_catalog(
        place,
        {"illust_id": [3], "uri": ["c"]},
        "artist_id=__HIVE_DEFAULT_PARTITION__/split=a%2Fb/day=x/p.parquet",
    )
    catalog = open_catalog(place, Columns(split="split", fingerprint="day"), [ARTIST])
    assert (catalog.columns.group, catalog.fingerprint_kind) == ("artist_id", "day")
    first = {"group": 7, "split": "val", "fingerprint": "2026-01-01", "label_0": 7}
    assert sorted(rows(catalog), key=lambda row: row["illust_id"]) == [
        {"illust_id": 1, "uri": "a", **first},
        {"illust_id": 2, "uri": "b", **first},
        {"illust_id": 3, "uri": "c", "group": None, "split": "a/b", "fingerprint": "x", "label_0": None},
    ]


def test_even_ids_and_pages_may_stand_in_the_path(tmp_path: Path) -> None:
    for work, page in ((5, 0), (5, 1), (-6, 0)):
        write_catalog(str(tmp_path), {"uri": ["a"]}, f"illust_id={work}/page={page}/p.parquet")
    found = rows(open_catalog(str(tmp_path), Columns()))
    assert {(row["illust_id"], row["page"]) for row in found} == {(5, 0), (5, 1), (-6, 0)}


def test_partition_values_that_are_not_all_whole_numbers_are_texts(tmp_path: Path) -> None:
    for value in ("1", "99999999999999999999"):
        write_catalog(
            str(tmp_path), {"illust_id": [int(value[0])], "uri": ["a"]}, f"artist_id={value}/p.parquet"
        )
    assert {row["group"] for row in rows(open_catalog(str(tmp_path), Columns()))} == {
        "1",
        "99999999999999999999",
    }


def test_a_column_of_the_file_goes_before_one_of_its_path(tmp_path: Path) -> None:
    write_catalog(str(tmp_path), {**PLAIN, "artist_id": [8, 9]}, "artist_id=7/p.parquet")
    assert [row["group"] for row in rows(open_catalog(str(tmp_path), Columns()))] == [8, 9]


def test_a_partition_column_that_some_files_lack_is_named(tmp_path: Path) -> None:
    write_catalog(str(tmp_path), PLAIN, "artist_id=7/p.parquet")
    write_catalog(str(tmp_path), PLAIN, "rest/p.parquet")
    with pytest.raises(DataError, match=r"rest/p\.parquet lacks column artist_id"):
        open_catalog(str(tmp_path), Columns())


# Types that writers choose.


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([decimal.Decimal(5), decimal.Decimal(2**62)], pa.decimal128(20, 0)), [5, 2**62]),
        (pa.array([b"ab", b"\xff\x00"]), ["ab", "ff00"]),
        (pa.array([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
        (pa.array([b"ab", b"cd"]).dictionary_encode(), ["ab", "cd"]),
        (
            pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2**127 + 9).bytes], pa.uuid()),
            [str(uuid.UUID(int=1)), str(uuid.UUID(int=2**127 + 9))],
        ),
    ],
    ids=["decimal", "bytes", "fixed", "dictionary of bytes", "uuid"],
)
def test_ids_are_read_by_their_values(tmp_path: Any, ids: pa.Array, expected: list[Any]) -> None:
    catalog = open_catalog(write_catalog(str(tmp_path), {"illust_id": ids, "uri": ["a", "b"]}), Columns())
    assert [row["illust_id"] for row in rows(catalog)] == expected


@pytest.mark.parametrize("kind", [pa.uint64(), pa.decimal128(20, 0)])
def test_an_id_beyond_int64_is_named_with_its_row(tmp_path: Any, kind: pa.DataType) -> None:
    ids = pa.array([decimal.Decimal(1), decimal.Decimal(2**63)], pa.decimal128(20, 0)).cast(kind)
    place = write_catalog(str(tmp_path), {"illust_id": ids, "uri": ["a", "b"]})
    with pytest.raises(
        DataError, match=r"illust_id cannot be read as int64: row 1 holds 9223372036854775808"
    ):
        rows(open_catalog(place, Columns()))


def test_float_ids_are_refused_with_the_reason_and_a_cast(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1.0, None], "uri": ["a", "b"]})
    with pytest.raises(
        DataError, match=r"illust_id is double, .*beyond 2\^53 are rounded already.*Int64.*CAST"
    ):
        open_catalog(place, Columns())


def test_files_may_differ_in_how_they_write_the_same_values(tmp_path: Any) -> None:
    first = {
        "illust_id": [1],
        "uri": ["a"],
        "artist_id": [7],
        "etag": ["e"],
        "bookmarks": [5],
        "updated_at": [1],
    }
    files = [
        first,
        {
            **first,
            "illust_id": pa.array([2], pa.int32()),
            "uri": pa.array(["b"], pa.large_string()),
            "artist_id": [7.0],
        },
        {
            **first,
            "illust_id": pa.array([3], pa.decimal128(20, 0)),
            "artist_id": ["7"],
            "bookmarks": [2.5],
            "updated_at": ["2"],
        },
        {
            **first,
            "illust_id": [4],
            "etag": pa.array(["e"]).dictionary_encode(),
            "artist_id": pa.nulls(1),
            "bookmarks": pa.nulls(1),
        },
    ]
    for number, table in enumerate(files):
        write_catalog(str(tmp_path), table, f"{number}.parquet")
    catalog = open_catalog(str(tmp_path), Columns(), [BOOKMARK])
    assert [(r["illust_id"], r["group"], r["fingerprint"], r["label_0"]) for r in rows(catalog)] == [
        (1, "7", "e", 5.0),
        (2, "7", "e", 5.0),
        (3, "7", "e", 2.5),
        (4, None, "e", None),
    ]


def test_files_without_rows_do_not_decide_types_or_columns(tmp_path: Any) -> None:
    write_catalog(
        str(tmp_path), {"illust_id": pa.nulls(0), "uri": pa.nulls(0), "etag": pa.nulls(0)}, "a.parquet"
    )
    write_catalog(str(tmp_path), {"illust_id": ["x"], "uri": ["c"]}, "b.parquet")
    catalog = open_catalog(str(tmp_path), Columns())
    assert (catalog.id_type, catalog.fingerprint_kind) == (pa.string(), "uri")
    assert [row["illust_id"] for row in rows(catalog)] == ["x"]


def test_a_label_that_some_files_lack_is_missing_there_with_a_word(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write_catalog(str(tmp_path), {"illust_id": [1], "uri": ["a"], "bookmarks": [5]}, "a.parquet")
    write_catalog(str(tmp_path), {"illust_id": [2], "uri": ["b"]}, "b.parquet")
    assert [row["label_0"] for row in rows(open_catalog(str(tmp_path), Columns(), [BOOKMARK]))] == [
        5,
        None,
    ]
    assert "column bookmarks is missing in 1 files, such as b.parquet" in caplog.text


def test_old_timestamps_of_spark_keep_the_year_9999(tmp_path: Path) -> None:
    times = pa.array([datetime(9999, 12, 31)], pa.timestamp("us"))
    table = pa.table({"illust_id": [1], "uri": ["a"], "updated_at": times})
    pq.write_table(table, tmp_path / "c.parquet", use_deprecated_int96_timestamps=True)
    assert rows(open_catalog(str(tmp_path), Columns()))[0]["updated_at"] == datetime(9999, 12, 31)


# Columns of another meaning.

PICTURES = pa.array(
    [{"bytes": b"one", "path": "1.png"}, {"bytes": None, "path": "2.png"}, None],
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
)


@pytest.mark.parametrize("asked", [None, "image", "image.bytes"])
def test_images_in_a_struct_of_bytes_and_path_are_read(tmp_path: Any, asked: str | None) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1, 2, 3], "image": PICTURES})
    catalog = open_catalog(place, Columns(image=asked))
    assert catalog.image_path == "image.bytes"
    assert [row["sha256"] for row in rows(catalog)] == [hashlib.sha256(b"one").hexdigest(), None, None]
    with pq.ParquetFile(f"{place}/catalog.parquet") as file:
        (batch,) = file.iter_batches(columns=[catalog.image_path])
    assert image_values(batch.column(0)).equals(pa.array([b"one", None, None], pa.large_binary()))


def test_the_path_beside_embedded_bytes_may_be_the_uri(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1, 2, 3], "image": PICTURES})
    catalog = open_catalog(place, Columns(uri="image.path"))
    assert [row["uri"] for row in rows(catalog)] == ["1.png", "2.png", None]


def test_flat_image_columns_have_their_own_name_as_path(tmp_path: Any) -> None:
    table = {"illust_id": [1], "image": pa.array([b"a"]), "image.bytes": pa.array([b"b"]).dictionary_encode()}
    place = write_catalog(str(tmp_path), table)
    for name, content in (("image", b"a"), ("image.bytes", b"b")):
        catalog = open_catalog(place, Columns(image=name))
        assert catalog.image_path == name
        assert rows(catalog)[0]["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "image", [PICTURES, pa.array(["x", "y", "z"]), pa.array([[1], [2], [3]])], ids=["struct", "text", "list"]
)
def test_a_column_image_beside_a_uri_is_nobodys_business(tmp_path: Any, image: pa.Array) -> None:
    table = {"illust_id": [1, 2, 3], "uri": ["a", "b", "c"], "path": ["d", "e", "f"], "image": image}
    place = write_catalog(str(tmp_path), table)
    assert [row["uri"] for row in rows(open_catalog(place, Columns()))] == ["a", "b", "c"]
    assert [row["uri"] for row in rows(open_catalog(place, Columns(uri="path")))] == ["d", "e", "f"]


def test_a_column_called_image_may_be_the_uri(tmp_path: Any) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1], "image": ["a.png"]})
    assert [row["uri"] for row in rows(open_catalog(place, Columns(uri="image")))] == ["a.png"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (pa.array(["a.png"]), r"image is string, expected bytes.*--columns\.uri image is for them"),
        (
            pa.array([{"data": b"x", "n": 1}]),
            r"expected bytes, or a struct with a field bytes; image\.data holds bytes",
        ),
        (pa.array([[b"x"]]), r"image is list.*expected bytes"),
    ],
)
def test_an_image_column_without_bytes_is_refused_with_what_it_may_be(
    tmp_path: Any, image: pa.Array, words: str
) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1], "image": image})
    for asked in (None, "image"):
        with pytest.raises(DataError, match=words):
            open_catalog(place, Columns(image=asked))


def test_a_text_called_page_that_is_no_number_is_left_aside_with_a_word(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    place = write_catalog(
        str(tmp_path), {**PLAIN, "page": ["https://example.org/1", "https://example.org/2"]}
    )
    assert open_catalog(place, Columns()).columns.page is None
    assert "column page is string, not a page number" in caplog.text
    for texts in (["0", "1"], ["p0", None]):
        assert (
            open_catalog(write_catalog(str(tmp_path), {**PLAIN, "page": texts}), Columns()).columns.page
            == "page"
        )


def texts_of(raw: bytes) -> pa.Array:
    """A text of each byte, whether it is UTF-8 or not."""
    starts = pa.array(range(len(raw) + 1), pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), len(raw), [None, starts, pa.py_buffer(raw)])


@pytest.mark.parametrize("column", ["illust_id", "uri", "artist_id", "etag"])
def test_a_text_that_is_no_utf8_is_named_with_its_file_column_and_row(tmp_path: Any, column: str) -> None:
    bad = texts_of(b"a\xffb")
    fine = {"illust_id": [1, 2, 3], "uri": ["a", "b", "c"]}
    for array in (bad, pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), bad)):
        pq.write_table(pa.table({**fine, column: array}), tmp_path / "a.parquet")
        with pytest.raises(
            DataError, match=rf"a\.parquet: column {column} .*: row 1 holds b'\\xff', .*no UTF-8"
        ):
            rows(open_catalog(str(tmp_path), Columns()))


def test_whole_numbers_that_a_path_has_as_floats_are_the_numbers(tmp_path: Path) -> None:
    for i, value in enumerate(("7.0", "-3.0", "__HIVE_DEFAULT_PARTITION__", "12")):
        write_catalog(str(tmp_path), {"illust_id": [i], "uri": ["a"]}, f"artist_id={value}/p.parquet")
    assert {row["group"] for row in rows(open_catalog(str(tmp_path), Columns()))} == {7, -3, None, 12}
    write_catalog(str(tmp_path), {"illust_id": [9], "uri": ["a"]}, "artist_id=7.5/p.parquet")
    groups = {row["group"] for row in rows(open_catalog(str(tmp_path), Columns()))}
    assert groups == {"7", "-3", None, "12", "7.5"}  # what came beside them moves nobody to another split


def test_folders_whose_names_are_no_utf8_are_read_and_one_of_images_is_named(tmp_path: Path) -> None:
    for i, value in enumerate((b"\xe9", b"%E8")):
        (tmp_path / str(i)).mkdir()
        write_catalog(str(tmp_path / str(i)), {"illust_id": [i], "uri": ["a"]})
        os.rename(tmp_path / str(i), os.path.join(os.fsencode(tmp_path), b"artist_id=" + value))
    assert {row["group"] for row in rows(open_catalog(str(tmp_path), Columns()))} == {"\\xe9", "\\xe8"}
    shutil.rmtree(tmp_path / "artist_id=%E8")
    odd = os.path.join(os.fsencode(tmp_path), b"artist_id=\xe9", b"catalog.parquet")
    for table in ({"illust_id": [1], "image": [b"a"]}, {"illust_id": [1], "image": [b"a"], "etag": ["x"]}):
        with open(odd, "wb") as file:
            pq.write_table(pa.table(table), file)
        with pytest.raises(DataError, match=r"e9.*holds images, and its name is no UTF-8"):
            rows(open_catalog(str(tmp_path), Columns()))


def test_an_encrypted_file_and_one_of_other_integers_are_not_called_no_parquet(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    pl.DataFrame({"illust_id": [1], "uri": ["a"]}).cast({"illust_id": pl.Int128}).write_parquet(
        tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match=r"a\.parquet cannot be read here: Integers with more than 64 bits"):
        open_catalog(str(tmp_path), Columns())


@pytest.mark.parametrize("page", ["cover", "2**40"])
def test_a_page_among_others_that_is_none_is_named_in_a_line(tmp_path: Any, page: str) -> None:
    pages = [0, 1, 2**40] if page == "2**40" else ["p0", "1", page]
    place = write_catalog(str(tmp_path), {"illust_id": [1, 1, 1], "uri": ["a", "b", "c"], "page": pages})
    with (
        pytest.raises(DataError, match="a page is not a 32-bit number.*(cover|1099511627776)") as caught,
        catalog_rows(open_catalog(place, Columns()), PlanCounts()),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_blank_page_among_page_numbers_is_none(tmp_path: Any) -> None:
    columns = {"illust_id": [1, 1, 2, 3], "uri": list("abcd"), "page": ["p0", "p1", "", " "]}
    counts = PlanCounts()
    with catalog_rows(open_catalog(write_catalog(str(tmp_path), columns), Columns()), counts) as connection:
        found = connection.execute("SELECT illust_id, page FROM keyed ORDER BY ALL").fetchall()
    assert found == [(1, 0), (1, 1), (2, 0), (3, 0)]
    assert counts.duplicate_key == 0


# Many files, and large images.


def test_small_files_on_s3_take_one_request_to_open_and_one_to_read(
    s3_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 40
    for i in range(number):
        write_catalog(s3_place, {"illust_id": [i], "uri": [f"{i}.png"]}, f"{i:03}.parquet")
    calls: list[str] = []
    original = aiobotocore.client.AioBaseClient._make_api_call

    async def counted(self: Any, name: str, arguments: Any) -> Any:
        calls.append(name)
        return await original(self, name, arguments)

    monkeypatch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", counted)
    catalog = open_catalog(s3_place, Columns())
    found = [row["illust_id"] for row in rows(catalog)]
    catalog.check_unchanged()
    assert found == list(range(number))
    assert calls.count("GetObject") == 2 * number
    assert len(calls) - 2 * number < 30, Counter(calls)


def test_a_file_that_is_gone_when_it_is_read_is_named(place: str) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_catalog(place, PLAIN, name)
    catalog = open_catalog(place, Columns())
    Folder(place).delete(["b.parquet"])
    with pytest.raises(DataError, match=r"b\.parquet is gone since the catalog was opened"):
        rows(catalog)


def test_large_embedded_images_are_hashed_in_small_batches(tmp_path: Path) -> None:
    images = pa.array([bytes([i]) * 2**22 for i in range(12)], pa.large_binary())
    pq.write_table(
        pa.table({"illust_id": range(12), "image": images}), tmp_path / "c.parquet", compression="zstd"
    )
    catalog = open_catalog(str(tmp_path), Columns())
    batches = list(catalog.batches())
    assert max(batch.num_rows for batch in batches) <= 2
    assert [row["row"] for batch in batches for row in batch.to_pylist()] == list(range(12))


def test_whole_numbers_keep_every_digit_beside_a_file_of_floats(tmp_path: Any) -> None:
    write_catalog(str(tmp_path), {"illust_id": [1], "uri": ["a"], "artist_id": [2**60 + 1]}, "a.parquet")
    write_catalog(str(tmp_path), {"illust_id": [2], "uri": ["b"], "artist_id": [7.0]}, "b.parquet")
    assert [row["group"] for row in rows(open_catalog(str(tmp_path), Columns()))] == [str(2**60 + 1), "7"]
