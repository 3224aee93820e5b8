"""Fetching and decoding inside a task: decoders are lent to one thread at a time, and threads do not mix
their rows."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pix2score.catalog.contents import ImageRows
from pix2score.catalog.image_column import COLUMN_BYTES, MAX_IDLE_COLUMNS, ImageColumn, _idle_columns
from pix2score.cluster.decode import decoded_blocks, fetch_and_decode
from pix2score.images.decoder_pool import decoder_for
from pix2score.images.preprocess import Preprocess
from pix2score.images.source import image_source
from pix2score.storage.folder import Folder

PREPROCESS = Preprocess(size=16)


def png(colour: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 20), (colour, 255 - colour, 7)).save(out, "PNG")
    return out.getvalue()


def test_a_decoder_is_lent_to_one_at_a_time_and_kept() -> None:
    with decoder_for(PREPROCESS) as one, decoder_for(PREPROCESS) as other:
        assert one is not other
        one(png(1))
        pid = one.pid
    with decoder_for(PREPROCESS) as first, decoder_for(PREPROCESS) as second:
        assert {first, second} == {one, other}
        assert one.pid == pid


def test_a_decoder_left_in_the_middle_of_an_answer_is_not_lent_again() -> None:
    with pytest.raises(RuntimeError), decoder_for(PREPROCESS) as left:
        left(png(1))
        raise RuntimeError("as if memory were short while a reply is read")
    assert left.pid is None
    with decoder_for(PREPROCESS) as other:
        assert other is not left


def test_threads_that_decode_side_by_side_get_their_own_rows(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}.png").write_bytes(png(i) if i % 10 else b"not a picture")
    images = ImageRows(image_source(str(tmp_path), ()), None, None, {})
    tables = [
        pa.table({"uri": [f"{i}.png" for i in range(start, start + 25)]}) for start in range(0, 200, 25)
    ]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda rows: fetch_and_decode(rows, images=images, task=PREPROCESS), tables))
    rows = pa.concat_tables(found).to_pylist()
    assert [row["uri"] for row in rows] == [f"{i}.png" for i in range(200)]
    for i, row in enumerate(rows):
        if i % 10:
            assert (np.frombuffer(row["data"], np.uint8).reshape(-1, 3) == (i, 255 - i, 7)).all()
        else:
            assert (row["data"], row["error_code"]) == (None, "UNSUPPORTED")


def test_threads_that_read_one_catalog_file_get_their_own_images(tmp_path: Path) -> None:
    contents = [f"image {i}".encode() for i in range(600)]
    pq.write_table(pa.table({"image": contents}), tmp_path / "catalog.parquet", row_group_size=150)
    (entry,) = Folder(str(tmp_path)).entries(suffix=".parquet")
    images = ImageRows(image_source(str(tmp_path), ()), Folder(str(tmp_path)), "image", {entry.path: entry})
    tables = [
        pa.table({"file": [entry.path] * 40, "row": range(start, start + 40)}) for start in range(0, 600, 40)
    ]
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda rows: list(images.contents(rows)), tables * 3))
    assert [content for read in found for content in read] == contents * 3
    assert len(_idle_columns) <= MAX_IDLE_COLUMNS


def test_blocks_of_what_images_are_kept_as_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(
            png(i) + bytes(1000 if i % 3 else 5000)
        )  # small pictures are kept as they are
    images = ImageRows(image_source(str(tmp_path), ()), Folder(str(tmp_path)), None, {})
    rows = pa.table({"uri": [f"{i}.png" if i != 5 else "absent" for i in range(12)]})
    whole = fetch_and_decode(rows, images=images, task=64)
    monkeypatch.setattr("pix2score.cluster.decode.BLOCK_BYTES", 8000)
    blocks = list(decoded_blocks(rows, images=images, task=64))
    sizes = [sum(len(data or b"") for data in block.column("data").to_pylist()) for block in blocks]
    assert len(blocks) > 3
    assert max(sizes) <= 8000
    columns = ["uri", "data", "error_code", "num_bytes"]
    assert pa.concat_tables(blocks).select(columns).equals(whole.select(columns))
    assert fetch_and_decode(rows.slice(0, 0), images=images, task=64).schema == whole.schema


def test_an_embedded_batch_is_bounded_in_bytes(tmp_path: Path) -> None:
    contents = [bytes([i]) * 3_000_000 for i in range(40)]
    pq.write_table(pa.table({"image": contents}), tmp_path / "catalog.parquet", use_dictionary=False)
    (entry,) = Folder(str(tmp_path)).entries(suffix=".parquet")
    column = ImageColumn(Folder(str(tmp_path)), entry, "image")
    assert all(column.value(i) == content for i, content in enumerate(contents))
    assert len(column._batch) * 3_000_000 <= COLUMN_BYTES


def test_images_that_share_one_content_have_one_content_id(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i % 2))
    images = ImageRows(image_source(str(tmp_path), ()), Folder(str(tmp_path)), None, {})
    rows = fetch_and_decode(
        pa.table({"uri": ["0.png", "1.png", "2.png", "3.png", "absent"]}), images=images, task=PREPROCESS
    )
    a, b, c, d, absent = rows.column("content_id").to_pylist()
    assert (a, b, absent) == (c, d, None)
    assert a != b
