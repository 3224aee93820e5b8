"""Original images of some keys, found by the same ids and pages as a plan has them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Columns
from pix2score.catalog.originals import OriginalsLookup, original_images
from pix2score.errors import ImageFailure
from tests.support.builders import write_catalog


@pytest.mark.parametrize(
    "pages",
    [[0, 1], ["p0", "p1"], ["0", " 1"], pa.array([float("nan"), 1.0]), pa.array([None, 1], pa.int8())],
    ids=["numbers", "names", "digits", "nan", "null"],
)
def test_originals_are_found_whatever_type_the_page_has(tmp_path: Path, pages: Any) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    place = write_catalog(str(tmp_path), {"illust_id": [5, 5], "uri": ["a.png", "b.png"], "page": pages})
    found = original_images(place, {"columns": asdict(Columns())}, [(5, 1), (5, 0), (6, 0)])
    assert found == {(5, 0): b"a.png", (5, 1): b"b.png"}


@pytest.mark.parametrize("pages", [[0, 1, 0], ["p0", "p1", "p0"]])
def test_a_lookup_finds_each_key_and_none_that_is_not_there(tmp_path: Path, pages: Any) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    rows = {"illust_id": [5, 5, 6], "uri": ["a.png", "b.png", "gone.png"], "page": pages}
    lookup = OriginalsLookup(write_catalog(str(tmp_path), rows), {"columns": asdict(Columns())})
    assert [lookup.image((5, page)) for page in (0, 1, 2)] == [b"a.png", b"b.png", None]
    gone = lookup.image((6, 0))
    assert isinstance(gone, ImageFailure)
    assert gone.code == "NOT_FOUND"
    assert lookup.image((7, 0)) is None
    assert lookup.image(("x", 0)) is None
    lookup.close()


def test_a_lookup_of_embedded_images_reads_the_ones_that_are_asked_for(tmp_path: Path) -> None:
    images = [f"picture {i}".encode() for i in range(5)]
    table = pa.table({"illust_id": [f"a{i}" for i in range(5)], "image": images})
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=2)
    lookup = OriginalsLookup(str(tmp_path / "c.parquet"), {"columns": asdict(Columns())})
    assert [lookup.image((f"a{i}", 0)) for i in (3, 0)] == [images[3], images[0]]
    assert lookup.image(("b", 0)) is None
    lookup.close()
