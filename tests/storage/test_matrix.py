"""A column of fixed-size lists read past Arrow: the same numbers, whatever wrote the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.errors import DataError
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder
from pix2score.storage.matrix import MatrixFile
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.parquet_pages import UnknownPageError, data_pages

WRITERS: dict[str, dict[str, Any]] = {
    "ours": {"compression": "zstd", "use_dictionary": False},
    "snappy": {"compression": "snappy", "use_dictionary": False},
    "packed by none": {"compression": "none", "use_dictionary": False},
    "without statistics": {"compression": "zstd", "use_dictionary": False, "write_statistics": False},
    "small pages, which cut rows": {"compression": "zstd", "use_dictionary": False, "data_page_size": 1000},
}
FOREIGN: dict[str, dict[str, Any]] = {
    "a dictionary": {"compression": "zstd", "use_dictionary": True},
    "pages of the second version": {
        "compression": "zstd",
        "use_dictionary": False,
        "data_page_version": "2.0",
    },
    "lz4": {"compression": "lz4", "use_dictionary": False},
    "bytes apart": {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": True},
}


def numbers(dtype: str, rows: int = 700, width: int = 33) -> Any:
    values = np.random.default_rng(3).normal(size=(rows, width)).astype(dtype)
    values[5, 3], values[6, 4], values[7, 0] = np.nan, np.inf, -0.0
    return values


def written(place: Path, column: pa.Array, **options: Any) -> Folder:
    table = pa.table({"key": pa.array(np.arange(len(column))), "embedding": column})
    pq.write_table(table, place / "file.parquet", row_group_size=256, **options)
    return Folder(str(place))


def read(folder: Folder, *, by_arrow: bool) -> list[Any]:
    with MatrixFile(folder, "file.parquet", "embedding") as file:
        assert file.group_rows == [256, 256, 188]
        return [file._by_arrow(i) if by_arrow else file.matrix(i) for i in range(3)]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", [*WRITERS, *FOREIGN])
def test_the_numbers_are_those_of_arrow_bit_by_bit(tmp_path: Path, name: str, dtype: str) -> None:
    values = numbers(dtype)
    folder = written(tmp_path, fixed_lists(values), **{**WRITERS, **FOREIGN}[name])
    ours, theirs = (np.concatenate(read(folder, by_arrow=by)) for by in (False, True))
    assert ours.dtype == theirs.dtype == values.dtype
    assert ours.tobytes() == theirs.tobytes() == values.tobytes()


@pytest.mark.parametrize("name", WRITERS)
def test_plain_files_do_not_go_through_arrow(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path, fixed_lists(numbers("float16")), **WRITERS[name])
    monkeypatch.setattr(MatrixFile, "_by_arrow", lambda *_: pytest.fail("read by Arrow"))
    read(folder, by_arrow=False)


def test_what_the_project_writes_does_not_go_through_arrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"embedding": fixed_lists(numbers("float16"))})
    (tmp_path / "file.parquet").write_bytes(parquet_bytes(table, row_group_rows=256))
    monkeypatch.setattr(MatrixFile, "_by_arrow", lambda *_: pytest.fail("read by Arrow"))
    assert read(Folder(str(tmp_path)), by_arrow=False)[2].shape == (188, 33)


@pytest.mark.parametrize("missing", ["a number", "a list"])
def test_nulls_are_refused_and_never_read_as_numbers(tmp_path: Path, missing: str) -> None:
    values = numbers("float16")
    rows: list[Any] = [row.tolist() for row in values]
    if missing == "a list":
        rows[600] = None
    else:
        rows[600][5] = None
    column = pa.array(rows, pa.list_(pa.float16(), 33))
    folder = written(tmp_path, column, compression="zstd", use_dictionary=False)
    with MatrixFile(folder, "file.parquet", "embedding") as file:
        assert file.matrix(0).tobytes() == values[:256].tobytes()
        with pytest.raises(ValueError, match="embedding has nulls"):
            file.matrix(2)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, fixed_lists(numbers("float32")), compression="zstd", use_dictionary=False)
    path = tmp_path / "file.parquet"
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    data[start + 50 : start + 400] = bytes(350)
    path.write_bytes(data)
    with (
        pytest.raises(DataError, match=r"file\.parquet is damaged"),
        MatrixFile(folder, "file.parquet", "embedding") as file,
    ):
        file.matrix(0)
    path.write_bytes(b"no Parquet file at all")
    with pytest.raises(DataError, match="is not a Parquet file"):
        MatrixFile(folder, "file.parquet", "embedding")
    with pytest.raises(FileNotFoundError):
        MatrixFile(folder, "none.parquet", "embedding")


GARBAGE = {"ones": b"\xff" * 50, "cut": b"\x15", "nested": b"\x1c" * 2000, "zeros": bytes(40)}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_page_header_is_said_to_be_none(garbage: bytes) -> None:
    with pytest.raises(UnknownPageError):
        list(data_pages(pa.py_buffer(garbage), "ZSTD"))
