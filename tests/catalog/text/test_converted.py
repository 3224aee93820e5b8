"""CSV and JSON lines are catalogs: ids, paths and fingerprints as written, what is wrong by its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.catalog.shares import sample_keys, shares
from pix2score.catalog.text import converted, csv_rows, lines
from pix2score.errors import DataError
from pix2score.heads.ordered import OrderedHead
from pix2score.storage.folder import Folder
from tests.support.builders import write_catalog

HEAD = OrderedHead(name="likes", column="likes", edges=(10, 30))


def opened(place: str, name: str, text: str | bytes, **options: Any) -> Catalog:
    data = text.encode() if isinstance(text, str) else text
    content = gzip.compress(data) if name.endswith(".gz") else data
    Folder(place).publish(name, content, replace=True)
    return open_catalog(f"{place}/{name}", Columns(), **options)


def rows(catalog: Catalog) -> list[dict[str, Any]]:
    return [row for batch in catalog.batches() for row in batch.to_pylist()]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.CSV"])
def test_a_csv_is_a_catalog_on_disk_and_on_s3(place: str, name: str) -> None:
    text = '\ufeffillust_id,uri,page,likes\r\n7,"a, ""b"".png",1,12\r\n8,c.png,,\r\n'
    catalog = opened(place, name, text, heads=[HEAD])
    assert rows(catalog) == [
        {"illust_id": 7, "page": "1", "uri": 'a, "b".png', "label_0": 12},
        {"illust_id": 8, "page": None, "uri": "c.png", "label_0": None},
    ]
    assert catalog.pin()["place"] == f"{place}/{name}"
    assert [entry.path for entry in catalog.files] == [name]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_header_says_what_parts_fields(tmp_path: Path, delimiter: str) -> None:
    text = "\n".join(delimiter.join(parts) for parts in (("illust_id", "uri"), ("1", "a.png")))
    assert rows(opened(str(tmp_path), "a.csv", text)) == [{"illust_id": 1, "uri": "a.png"}]


def test_ids_are_numbers_only_if_each_is_written_as_one(tmp_path: Path) -> None:
    for ids, wanted in (
        (["1", "-20", "0"], [1, -20, 0]),
        (["1", "007"], ["1", "007"]),
        (["9223372036854775807"], [2**63 - 1]),
        (["9223372036854775808", "3"], ["9223372036854775808", "3"]),
        (["1.0"], ["1.0"]),
        (["12e5", "7"], ["12e5", "7"]),
        (["true"], ["true"]),
        (["2026-01-01"], ["2026-01-01"]),
    ):
        text = "illust_id,uri\n" + "".join(f"{one},a\n" for one in ids)
        found = [row["illust_id"] for row in rows(opened(str(tmp_path), "a.csv", text))]
        assert found == wanted


def test_fingerprints_groups_and_uris_stay_as_written(tmp_path: Path) -> None:
    text = "illust_id,uri,etag,artist_id,updated_at\n1,007,1.10,00,2026-01-01\n2,8,1e5,1,2026-01-02\n"
    first, second = rows(opened(str(tmp_path), "a.csv", text))
    assert first == {
        "illust_id": 1,
        "uri": "007",
        "group": "00",
        "fingerprint": "1.10",
        "updated_at": "2026-01-01",
    }
    assert second["fingerprint"] == "1e5"


def test_labels_are_the_numbers_that_arrow_reads(tmp_path: Path) -> None:
    for texts, kind in (("5,007", pa.float64()), ("5,6", pa.int64()), ("5,0.5", pa.float64()), (",", None)):
        one, two = texts.split(",")
        catalog = opened(str(tmp_path), "a.csv", f"illust_id,uri,likes\n1,a,{one}\n2,b,{two}\n", heads=[HEAD])
        labels = [row["label_0"] for row in rows(catalog)]
        assert labels == [float(one) if one else None, float(two) if two else None]
        assert kind is None or catalog.schema.field("likes").type == kind


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")), st.text("0129")
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_text_that_a_writer_quotes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, str]]
) -> None:
    place = str(tmp_path_factory.getbasetemp())
    quoted = "".join('{},"{}"\n'.format(json.dumps(key), uri.replace('"', '""')) for uri, key in values)
    found = rows(opened(place, "quoted.csv", f'"illust_id","uri"\n{quoted}'))
    assert [row["uri"] for row in found] == [uri or None for uri, _ in values]
    ids = [row["illust_id"] for row in found]
    assert [None if one is None else str(one) for one in ids] == [key or None for _, key in values]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"illust_id,uri\n1,a\n2\n", r"a\.csv: line 3 has 1 fields, the header has 2"),
        (b"illust_id,uri\n1,a,b\n", r"line 2 has 3 fields"),
        (b'illust_id,uri\n1,"a\nb"\n2,c,d\n', r"line 4 has 3 fields"),
        (b'illust_id,uri\n1,"a\n', r"line 2: unexpected end of data"),
        (b"illust_id,uri\n1,a\n2,\xff\n", r"line 3 is not UTF-8"),
        (b"", r"is empty"),
        (b"illust_id,illust_id\n1,2\n", r"more than one column illust_id"),
    ],
)
def test_what_is_wrong_in_a_csv_is_named_by_its_line(tmp_path: Path, text: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        opened(str(tmp_path), "a.csv", text)


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b"illust_id,uri\n" + b"1,a\n" * 10_000)
    Folder(str(tmp_path)).publish("a.csv.gz", whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.csv\.gz: damaged behind line"):
        open_catalog(f"{tmp_path}/a.csv.gz", Columns())


def test_json_lines_keep_their_types_and_what_fits_none_is_text(place: str) -> None:
    some = [
        {"illust_id": 7, "uri": "a", "likes": 3, "tags": ["x"], "mixed": 1, "large": 2**70},
        {"illust_id": 8, "uri": "b", "likes": 2.5, "tags": [], "mixed": "1.10", "large": 5},
        {"illust_id": 9, "uri": "c"},
    ]
    text = "".join(json.dumps(row) + "\n\n" for row in some)
    catalog = opened(place, "a.jsonl", text, others=["likes", "tags", "mixed", "large"])
    first, second, third = rows(catalog)
    assert (first["illust_id"], first["label_0"], first["label_1"]) == (7, 3.0, ["x"])
    assert (first["label_2"], second["label_2"]) == ("1", "1.10")
    assert (first["label_3"], second["label_3"]) == (str(2**70), "5")
    assert third == {"illust_id": 9, "uri": "c", "label_0": None, "label_1": None, "label_2": None} | {
        "label_3": None
    }


def test_ids_of_json_lines_are_exact(tmp_path: Path) -> None:
    for ids in ([2**53 + 1, 2**63 - 1], ["007", "8"]):
        text = "".join(json.dumps({"illust_id": one, "uri": "a"}) + "\n" for one in ids)
        assert [row["illust_id"] for row in rows(opened(str(tmp_path), "a.jsonl", text))] == ids
    text = '{"illust_id": 18446744073709551615, "uri": "a"}\n{"illust_id": 3, "uri": "b"}\n'
    found = rows(opened(str(tmp_path), "a.jsonl", text))
    assert [row["illust_id"] for row in found] == ["18446744073709551615", "3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"illust_id": 1}\n{"illust_id": 2,\n', r"a\.jsonl: line 2 is not JSON: .* at character"),
        ("[1]\n", r"line 1 is no JSON object"),
        ("", r"a\.jsonl is empty: expected a JSON object a line"),
        ("\n \n", r"a\.jsonl is empty"),
        ('{"illust_id": 1}\n{"illust_id": 2, "tags": ["\\ud800"]}\n', r"line 2 holds half of a character"),
        ('{"illust_id": 1, "\\udc00": 1}\n', r"line 1 holds half of a character"),
        ('{"illust_id": 1}\n' + "[" * 100_000 + "\n", r"a\.jsonl: line 2 is too deeply nested"),
        ('{"illust_id": 1, "uri": "a"}\n{"illust_id": 2.5, "uri": "b"}\n', r"illust_id is double, expected"),
    ],
)
def test_what_is_wrong_in_json_lines_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        opened(str(tmp_path), "a.jsonl", text)


def test_what_parquet_has_no_type_for_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep: Any = {"a": 1}
    for _ in range(200):
        deep = {"a": deep}
    row = {
        "illust_id": 1,
        "uri": "a",
        "none": {},
        "inner": [{"none": {}}],
        "deep": deep,
        "pair": "\U0001f600",
    }
    found = opened(str(tmp_path), "a.jsonl", json.dumps(row), others=["none", "inner", "deep", "pair"])
    labels = [rows(found)[0][f"label_{i}"] for i in range(4)]
    assert [json.loads(label) for label in labels[:3]] == [row["none"], row["inner"], row["deep"]]
    assert labels[3] == row["pair"]


@pytest.mark.parametrize("block_rows", [1, 9])
def test_values_of_several_shapes_are_text_wherever_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    monkeypatch.setattr("pix2score.catalog.text.json_rows.BLOCK_ROWS", block_rows)
    values = [3, ["a", "b"], None, {"x": 1}, "plain", [1]]
    text = "".join(
        json.dumps({"illust_id": i, "uri": "a", "v": v, "l": ["t"] if i else [1]}) + "\n"
        for i, v in enumerate(values)
    )
    found = rows(opened(str(tmp_path), "a.jsonl", text, others=["v", "l"]))
    assert [row["label_0"] for row in found] == ["3", '["a", "b"]', None, '{"x": 1}', "plain", "[1]"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_types_are_those_of_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(csv_rows, "BLOCK_ROWS", 2)
    monkeypatch.setattr("pix2score.catalog.text.json_rows.BLOCK_ROWS", 2)
    ids, likes = ["1", "2", "3", "04", "5"], ["1", "2", "3", "", "4.5"]
    if form == "csv":
        text = "illust_id,uri,likes\n" + "".join(f"{i},a,{n}\n" for i, n in zip(ids, likes, strict=True))
    else:
        some = [
            {"illust_id": i if i == "04" else int(i), "uri": "a", "likes": json.loads(n or "null")}
            for i, n in zip(ids, likes, strict=True)
        ]
        text = "".join(json.dumps(row) + "\n" for row in some)
    found = rows(opened(str(tmp_path), f"a.{form}", text, heads=[HEAD]))
    assert [row["illust_id"] for row in found] == ids
    assert [row["label_0"] for row in found] == [1, 2, 3, None, 4.5]


def test_a_folder_of_csv_files_is_one_catalog_and_its_ids_are_of_one_kind(tmp_path: Path) -> None:
    Folder(str(tmp_path)).publish("a.csv", b"illust_id,uri\n1,a\n")
    Folder(str(tmp_path)).publish("b.csv", b"illust_id,uri\n02,b\n")
    catalog = open_catalog(str(tmp_path), Columns())
    assert [row["illust_id"] for row in rows(catalog)] == ["1", "02"]
    Folder(str(tmp_path)).publish("c.jsonl", b'{"illust_id": 1}\n')
    with pytest.raises(DataError, match=r"holds CSV \(a\.csv\) and JSON lines \(c\.jsonl\): give one"):
        open_catalog(str(tmp_path), Columns())
    write_catalog(str(tmp_path), {"illust_id": [5], "uri": ["x"]})
    assert [row["illust_id"] for row in rows(open_catalog(str(tmp_path), Columns()))] == [5]


def test_text_beside_a_catalog_that_is_not_whole_is_no_catalog(tmp_path: Path) -> None:
    Folder(str(tmp_path)).publish("notes.csv", b"illust_id,uri\n1,a\n")
    (tmp_path / "_temporary").mkdir()
    with pytest.raises(DataError, match="is still being written"):
        open_catalog(str(tmp_path), Columns())


def test_too_much_text_is_refused_with_how_to_convert_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (lines, converted):
        monkeypatch.setattr(module, "MAX_BYTES", 40)
    assert rows(opened(str(tmp_path), "a.csv", "illust_id,uri\n1,a\n"))
    for name in ("b.csv", "b.csv.gz", "b.jsonl"):
        line = '{"illust_id": 1}\n' if "json" in name else "1,a\n"
        with pytest.raises(DataError, match=r"as Parquet a catalog of any size is read: python -c .*COPY"):
            opened(str(tmp_path), name, "illust_id,uri\n" * (name != "b.jsonl") + line * 20)


def test_shares_of_a_csv_are_its_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "BLOCK_ROWS", 10)
    text = "illust_id,uri\n" + "".join(f"{i},a\n" for i in range(95))
    catalog = opened(str(tmp_path), "a.csv", text)
    parts = shares(catalog, 20, 95)
    assert len(parts) > 2
    found = [row["illust_id"] for part in parts for b in catalog.batches(part) for row in b.to_pylist()]
    assert found == list(range(95))
    assert sample_keys(catalog, parts[0], 5)[0].num_rows == 5


def test_a_file_is_converted_once_for_each_content(tmp_path: Path) -> None:
    catalog = opened(str(tmp_path), "a.csv", "illust_id,uri\n1,a\n")
    before = dict(converted._done)
    assert len(rows(catalog)) == len(rows(catalog)) == 1
    assert converted._done == before
    assert len(rows(opened(str(tmp_path), "a.csv", "illust_id,uri\n1,a\n2,b\n"))) == 2
