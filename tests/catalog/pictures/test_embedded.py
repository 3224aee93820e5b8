"""Archives become a catalog that holds their pictures, and only new archives are read again."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.contents import ImageRows
from pix2score.catalog.guards import BEING_WRITTEN
from pix2score.catalog.job import catalog
from pix2score.catalog.pictures import embedded
from pix2score.errors import DataError
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.tags import TagsHead
from pix2score.images.source import image_source
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet
from pix2score.summaries import CatalogSummary
from tests.catalog.pictures.test_archive import JPEG, tar, zipped
from tests.test_summaries import mismatches

LIKES = OrderedHead(name="likes", column="likes", edges=(1, 2))
TAGS = TagsHead(name="tag", column="tags", min_images=1)


def shard(first: int, number: int) -> bytes:
    """A shard of WebDataset."""
    return tar(
        *(
            member
            for i in range(first, first + number)
            for member in (
                (f"{i:04}.jpg", JPEG + bytes([i])),
                (f"{i:04}.json", json.dumps({"likes": i, "more": {"a": 1}}).encode()),
                (f"{i:04}.txt", b"cat, owl"),
                (f"{i:04}.cls", str(i % 3).encode()),
            )
        )
    )


def made(place: str, **settings: Any) -> CatalogSummary:
    return catalog(CatalogConfig(images=f"{place}/shards", out=f"{place}/catalog", archives=True, **settings))


def contents(place: str) -> dict[Any, Any]:
    """The pictures by id and page, as score reads them."""
    opened = open_catalog(f"{place}/catalog", Columns())
    rows = pa.concat_tables([pa.table(batch) for batch in opened.batches()])
    read = ImageRows.of(opened, image_source(opened.folder.uri, ())).contents(rows)
    pages = rows.column("page").to_pylist()
    return dict(zip(zip(rows.column("illust_id").to_pylist(), pages, strict=True), read, strict=True))


def test_shards_become_a_catalog_with_pictures_and_labels(place: str) -> None:
    shards = Folder(f"{place}/shards")
    shards.publish("a/0.tar", shard(0, 3))
    shards.publish("1.zip", zipped(("77_p1.jpg", JPEG + b"z")))
    shards.publish("loose.jpg", JPEG)
    summary = made(place, tags_from_text="tags", json_label=("likes",))
    assert contents(place) == {
        **{(f"000{i}", 0): JPEG + bytes([i]) for i in range(3)}, ("77", 1): JPEG + b"z"
    }  # fmt: skip
    assert mismatches(CatalogSummary, summary) == []
    assert (summary["rows"]["new"], summary["archives"]["read"]) == (4, 2)
    assert summary["left_out"] == {"picture outside archives": 1}
    assert "--image-root" not in summary["next"]
    opened = open_catalog(f"{place}/catalog", Columns(), [LIKES, TAGS])
    labels = pa.concat_tables([pa.table(batch) for batch in opened.batches()]).to_pylist()
    found = {row["illust_id"]: (row["label_0"], row["label_1"]) for row in labels}
    assert found == {**{f"000{i}": (i, ["cat", "owl"]) for i in range(3)}, "77": (None, None)}
    assert opened.fingerprint_kind == "fingerprint"


def test_only_archives_that_changed_are_read_again(place: str) -> None:
    shards = Folder(f"{place}/shards")
    for number in range(3):
        shards.publish(f"{number}.tar", shard(10 * number, 4))
    made(place)
    before = {entry.path: entry for entry in Folder(f"{place}/catalog").entries(suffix=".parquet")}
    assert made(place)["archives"] == {"read": 0, "kept": 3, "damaged": {}}
    shards.publish("1.tar", shard(10, 5), replace=True)
    shards.delete(["2.tar"])
    again = made(place)
    assert again["archives"]["read"] == 1
    assert again["rows"] == {
        "pictures": 9, "new": 1, "changed": 0, "updated": 0, "removed": 4, "unchanged": 8
    }  # fmt: skip
    after = {entry.path: entry for entry in Folder(f"{place}/catalog").entries(suffix=".parquet")}
    assert len(after.keys() & before.keys()) == 1
    assert all(after[path] == before[path] for path in after.keys() & before.keys())
    assert len(contents(place)) == 9


def test_an_archive_that_comes_beside_others_is_counted_as_new(place: str) -> None:
    shards = Folder(f"{place}/shards")
    shards.publish("0.tar", shard(0, 2))
    made(place, id="number")
    shards.publish("1.tar", shard(10, 3))
    summary = made(place, id="number")
    assert summary["rows"] == {
        "pictures": 5, "new": 3, "changed": 0, "updated": 0, "removed": 0, "unchanged": 2
    }  # fmt: skip
    assert set(contents(place)) == {(number, 0) for number in (0, 1, 10, 11, 12)}


def test_parts_and_row_groups_are_bounded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PART_BYTES", 10 * len(JPEG))
    monkeypatch.setattr(embedded, "GROUP_ROWS", 3)
    Folder(f"{tmp_path}/shards").publish("0.tar", shard(0, 25))
    made(str(tmp_path))
    folder = Folder(f"{tmp_path}/catalog")
    names = [entry.path for entry in folder.entries(suffix=".parquet")]
    assert [name[22:] for name in names] == ["00000.parquet", "00001.parquet", "00002-end.parquet"]
    with open_parquet(folder, names[0]) as file:
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    assert (sum(groups), max(groups)) == (10, 3)
    assert len(contents(str(tmp_path))) == 25


def test_a_damaged_archive_is_left_out_as_a_whole_and_named(
    place: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "PART_BYTES", len(JPEG))
    shards = Folder(f"{place}/shards")
    shards.publish("good.tar", shard(0, 2))
    shards.publish("cut.tar", shard(10, 5)[:9000])
    summary = made(place)
    assert set(contents(place)) == {("0000", 0), ("0001", 0)}
    assert set(summary["archives"]["damaged"]) == {"cut.tar"}
    assert summary["left_out"]["damaged archive"] == 1
    assert "cut.tar is damaged and left out: unexpected end of data; write it anew" in caplog.text
    shards.publish("cut.tar", shard(10, 5), replace=True)
    assert made(place)["rows"]["new"] == 5


def test_equal_names_in_two_shards_are_named_and_the_catalog_stays(place: str) -> None:
    shards = Folder(f"{place}/shards")
    shards.publish("0.tar", shard(0, 2))
    made(place)
    before = Folder(f"{place}/catalog").entries()
    shards.publish("1.tar", shard(1, 2))
    with pytest.raises(DataError, match="0.tar/0001.jpg and 1.tar/0001.jpg are both 0001 page 0; --id path"):
        made(place)
    left = [entry for entry in Folder(f"{place}/catalog").entries() if entry.path != "summary.json"]
    assert left == [entry for entry in before if entry.path != "summary.json"]
    assert made(place, id="path")["rows"]["pictures"] == 4


def test_a_name_that_an_archive_has_twice_is_told(tmp_path: Any) -> None:
    Folder(f"{tmp_path}/shards").publish("0.tar", tar(("1.jpg", JPEG), ("1.jpg", JPEG + b"x")))
    with pytest.raises(DataError, match="0.tar/1.jpg and 0.tar/1.jpg are both .* one name twice"):
        made(str(tmp_path), id="path")


def test_archives_without_a_picture_are_told(tmp_path: Any) -> None:
    Folder(f"{tmp_path}/shards").publish("0.zip", zipped())
    with pytest.raises(DataError, match="there are 1 archive without a picture .such as 0.zip"):
        made(str(tmp_path))
    Folder(f"{tmp_path}/shards").publish("1.tar", shard(0, 1))
    assert made(str(tmp_path))["left_out"] == {"archive without a picture": 1}


def test_parts_of_a_killed_run_are_used_and_finished(place: str) -> None:
    shards, out = Folder(f"{place}/shards"), Folder(f"{place}/catalog")
    shards.publish("0.tar", shard(0, 2))
    shards.publish("1.tar", shard(10, 2))
    made(place)
    parts = [entry.path for entry in out.entries(suffix=".parquet")]
    data = out.read(parts[0])
    out.delete([parts[0]])
    out.publish(parts[0].replace("-end", ""), data)  # its last part is missing
    out.publish(BEING_WRITTEN, b"")
    summary = made(place)
    assert (summary["archives"]["read"], summary["archives"]["kept"]) == (1, 1)
    assert len(contents(place)) == 4
    assert [entry.path for entry in out.entries(suffix=".parquet")] == parts


def test_one_place_holds_files_or_archives(tmp_path: Any) -> None:
    place = str(tmp_path)
    Folder(f"{place}/shards").publish("0.tar", shard(0, 2))
    Folder(f"{place}/shards").publish("1.jpg", JPEG)
    made(place)
    for first in (True, False):
        out = f"{place}/{first}"
        catalog(CatalogConfig(images=f"{place}/shards", out=out, archives=first))
        with pytest.raises(DataError, match="lists (files|pictures inside archives), not .*--archives want"):
            catalog(CatalogConfig(images=f"{place}/shards", out=out, archives=not first))


def test_a_place_without_archives_says_so(tmp_path: Any) -> None:
    Folder(f"{tmp_path}/shards").publish("1.jpg", JPEG)
    Folder(f"{tmp_path}/shards").publish("2.7z", b"7z")
    with pytest.raises(DataError, match="1 archive of a kind that is not read .*1 picture outside archives"):
        made(str(tmp_path))


def test_labels_of_several_types_are_text(tmp_path: Any) -> None:
    members = [(f"{i}.jpg", JPEG) for i in range(3)]
    notes = [("0.json", b'{"a": 1}'), ("1.json", b'{"a": "x"}'), ("2.json", b"[broken")]
    Folder(f"{tmp_path}/shards").publish("0.tar", tar(*sorted([*members, *notes])))
    made(str(tmp_path), json_label=("a",), id="number")
    opened = open_catalog(f"{tmp_path}/catalog", Columns(), extras={"a": "a"})
    rows = [row for batch in opened.batches() for row in batch.to_pylist()]
    assert [(row["illust_id"], row["a"]) for row in rows] == [(0, "1"), (1, "x"), (2, None)]
