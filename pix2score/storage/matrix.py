"""A Parquet column of fixed-size lists of floats, read as a matrix.

Arrow decodes two levels for every number of a list, which takes two to four times as long as the numbers do
(``jobs.benchmark --stage heads``). Where no list and no number is null, what follows the levels of a page are
the numbers as they lie in memory, and the levels say nothing. Any other column is left to Arrow.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_file
from pix2score.storage.parquet_pages import Page, UnknownPageError, data_pages

Matrix = npt.NDArray[np.floating]
_DTYPES: dict[str, np.dtype[Any]] = {"halffloat": np.dtype("<f2"), "float": np.dtype("<f4")}
_LEVEL_BYTES = 4  # before the levels of a page, how many bytes they have


class MatrixFile:
    """An open Parquet file with a column of fixed-size lists of float16 or float32; a context manager.

    Raises ``DataError`` if it is something else or damaged, ``FileNotFoundError`` if it is missing.
    """

    def __init__(self, folder: Folder, path: str, column: str) -> None:
        self._stream: IO[bytes] = folder.open(path)
        self._damage = parquet_file(self._stream, folder.full(path))
        self._column = column
        try:
            self.file: pq.ParquetFile = self._damage.__enter__()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> MatrixFile:
        return self

    def __exit__(self, *failure: Any) -> None:
        with self._stream:
            self._damage.__exit__(*failure)

    @property
    def group_rows(self) -> list[int]:
        """Rows of each row group."""
        return [self.file.metadata.row_group(i).num_rows for i in range(self.file.metadata.num_row_groups)]

    def matrix(self, group: int) -> Matrix:
        """[N, D] of a row group, in the precision that it is stored in. Raises ``ValueError`` for nulls."""
        kind = self.file.schema_arrow.field(self._column).type
        dtype = _DTYPES.get(str(kind.value_type))
        rows = self.file.metadata.row_group(group).num_rows
        try:
            if dtype is None:
                raise UnknownPageError(f"lists of {kind.value_type}")
            return self._plain(group, rows * kind.list_size, dtype).reshape(rows, kind.list_size)
        except UnknownPageError:
            return self._by_arrow(group)

    def _plain(self, group: int, size: int, dtype: np.dtype[Any]) -> Matrix:
        """``size`` numbers of plain pages without nulls. Raises ``UnknownPageError`` where it has others."""
        chunk = self._chunk(group)
        if chunk.has_dictionary_page or chunk.num_values != size:
            raise UnknownPageError("a dictionary, or lists of no numbers")
        self._stream.seek(chunk.data_page_offset)
        packed = pa.py_buffer(self._stream.read(chunk.total_compressed_size))
        found, at = np.empty(size, dtype), 0
        for page in data_pages(packed, chunk.compression):
            if at + page.num_values > size:
                break
            found[at : at + page.num_values] = _numbers(page, dtype)
            at += page.num_values
        if at != size:
            raise UnknownPageError(f"other than {size} numbers")
        return found

    def _chunk(self, group: int) -> Any:
        facts = self.file.metadata.row_group(group)
        chunks = [facts.column(i) for i in range(facts.num_columns)]
        return next(chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == self._column)

    def _by_arrow(self, group: int) -> Matrix:
        lists = self.file.read_row_group(group, columns=[self._column]).column(0).combine_chunks()
        numbers = lists.flatten()
        if lists.null_count or numbers.null_count:
            raise ValueError(f"column {self._column} has nulls")
        found: Matrix = numbers.to_numpy(zero_copy_only=False).reshape(len(lists), -1)
        return found


def _numbers(page: Page, dtype: np.dtype[Any]) -> Matrix:
    """What follows the repetition and the definition levels."""
    view, at = memoryview(page.content).cast("B"), 0
    for _ in range(2):
        at += _LEVEL_BYTES + int.from_bytes(view[at : at + _LEVEL_BYTES], "little")
    if len(view) - at != page.num_values * dtype.itemsize:  # a null has levels, and no number
        raise UnknownPageError("nulls")
    return np.frombuffer(view, dtype, page.num_values, at)
