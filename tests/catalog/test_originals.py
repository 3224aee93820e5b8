"""Original images of some keys, found by the same ids and pages as a plan has them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pix2score.catalog.catalog import Columns
from pix2score.catalog.originals import original_images
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
