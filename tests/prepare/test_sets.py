"""Sets of images are fetched and decoded whole, without Ray; one image that fails is a failed row."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from pix2score.catalog.contents import ImageRows
from pix2score.dataset.card import dataset_schema
from pix2score.dataset.comparisons import OTHERS_FIELD
from pix2score.dataset.resume import resume_shards
from pix2score.dataset.shards import ShardWriter, staged_shards
from pix2score.heads.compared import FIRST_PAGE, LABEL
from pix2score.heads.preference import PreferenceHead
from pix2score.images.source import image_source
from pix2score.prepare.sets import decoded_sets
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet

HEAD = PreferenceHead(name="liked")
SCHEMA = dataset_schema(pa.int64(), [HEAD], [("liked", LABEL)])


def png(colour: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 255 - colour, 7)).save(out, "PNG")
    return out.getvalue()


def place(number: int) -> dict[str, object]:
    return {"uri": f"{number}.png", "file": None, "row": None}


def plan(*sets: tuple[int, ...]) -> pa.Table:
    """Rows of a plan: a tuple is a set of images, or one image."""
    columns = {
        "illust_id": pa.array([some[0] for some in sets], pa.int64()),
        "page": pa.array([FIRST_PAGE - i if len(s) > 1 else 0 for i, s in enumerate(sets)], pa.int32()),
        "uri": [f"{some[0]}.png" for some in sets],
        "file": pa.nulls(len(sets), pa.string()),
        "row": pa.nulls(len(sets), pa.int64()),
        "group": [str(some[0]) for some in sets],
        "split": ["train"] * len(sets),
        "liked_label": pa.array([[1, 0, *range(len(s))] if len(s) > 1 else None for s in sets], LABEL),
        "others": pa.array(
            [list(map(place, s[1:])) if len(s) > 1 else None for s in sets], OTHERS_FIELD.type
        ),
    }
    return pa.table(columns)


@pytest.fixture
def images(tmp_path: Path) -> ImageRows:
    for i in range(100):
        (tmp_path / f"{i}.png").write_bytes(png(i) if i != 66 else b"no picture")
    return ImageRows(image_source(str(tmp_path), ()), Folder(str(tmp_path)), None, {})


def decoded(rows: pa.Table, images: ImageRows) -> pa.Table:
    return pa.concat_tables(decoded_sets(rows, images=images, task=8))


def test_every_row_has_its_own_images_in_its_order(images: ImageRows) -> None:
    sets = [(1, 2), (3,), (4, 5, 6), *((i, i + 1, *range(20, 34)) for i in range(40, 60))]
    found = {row["illust_id"]: row for row in decoded(plan(*sets), images).to_pylist()}
    for some in sets:
        row = found[some[0]]
        assert [row["data"], *(row["others"] or [])] == [png(i) for i in some]
        assert (row["others"] is None) == (len(some) == 1)
    assert len(found) == len(sets)


def test_a_set_with_an_image_that_fails_is_one_failed_row_and_the_others_are_whole(images: ImageRows) -> None:
    rows = decoded(plan((1, 66, 2), (3, 4), (66,), (5, 999)), images)
    found = {(row["illust_id"], row["error_code"]): row for row in rows.to_pylist()}
    assert set(found) == {(1, "UNSUPPORTED"), (3, None), (66, "UNSUPPORTED"), (5, "NOT_FOUND")}
    assert found[1, "UNSUPPORTED"]["others"] is None
    assert found[3, None]["others"] == [png(4)]


def test_images_of_sets_are_no_repeats(images: ImageRows) -> None:
    rows = decoded(plan((1, 2), (1, 3), (1,)), images)
    assert len(rows.column("content_id").drop_null()) == 1


def test_a_shard_of_sets_is_written_and_resumed(images: ImageRows, tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "dataset"))
    write = ShardWriter(out=out, heads=(HEAD,), schema=SCHEMA, staged="staged/p")
    receipt = write("piece-1-000001", decoded(plan((1, 2), (3,), (4, 5, 6), (7, 66)), images))
    assert [(shard.split, shard.rows) for shard in receipt.shards] == [("train", 3), ("failed", 1)]
    with open_parquet(out, receipt.shards[0].path) as file:
        rows = {row["illust_id"]: row for row in file.read().to_pylist()}
    assert rows[4]["others"] == [png(5), png(6)]
    assert rows[4]["liked_ranks"] == rows[4]["liked_label"] == [1, 0, 0, 1, 2]
    assert rows[3]["others"] is None
    assert rows[3]["liked_ranks"] is None
    assert resume_shards(out, staged_shards(out, "staged/p"), SCHEMA).rows == 4
