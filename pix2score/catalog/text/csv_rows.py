"""CSV as Parquet: every value as the text that it is, and for each column what its texts are.

A column is read as a number only where a number is wanted, so that ids, paths and fingerprints stay as they
are written: 007, 1.10, 12345678901234567890.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.catalog.text.lines import lines
from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder

BLOCK_ROWS = 65_536
_WHOLE = r"^(0|-?[1-9][0-9]{0,18})$"
_NUMBERS, _OTHERS = (pa.int64(), pa.float64()), (pa.bool_(), pa.timestamp("us"))
"""What texts may be: the first that fits. Whole numbers are those without another way to write them: 007 is a
number, but not one that may stand for the text."""
_DELIMITERS = ",;\t"


def write_csv(folder: Folder, entry: Entry, path: str) -> pa.Schema:
    """Write the rows to the Parquet file ``path``, all columns text, empty fields null; return what types
    their texts are of.

    Raises ``DataError`` naming the line that has too few or too many fields, or no sound quotes.
    """
    rows = _rows(folder, entry)
    header = next(rows, None)
    if header is None:
        raise DataError(f"{folder.full(entry.path)} is empty: expected a line with the names of columns")
    names = [name.strip() or f"column{i}" for i, name in enumerate(header)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{folder.full(entry.path)} has more than one column {twice}")
    schema = pa.schema([pa.field(name, pa.string()) for name in names])
    found = [_Texts() for _ in names]
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while block := list(itertools.islice(rows, BLOCK_ROWS)):
            columns = [
                pa.array([value or None for value in column], pa.string())
                for column in zip(*block, strict=True)
            ]
            for texts, column in zip(found, columns, strict=True):
                texts.see(column)
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return pa.schema([pa.field(name, texts.kind) for name, texts in zip(names, found, strict=True)])


def _rows(folder: Folder, entry: Entry) -> Iterator[Sequence[str]]:
    """Fields of each row, the header first; all rows have as many."""
    place, read = folder.full(entry.path), (text for _, text in lines(folder, entry))
    first = next(read, "")
    delimiter = "\t" if ".tsv" in entry.path.lower() else max(_DELIMITERS, key=first.count)
    reader = csv.reader(itertools.chain([first], read), delimiter=delimiter, strict=True)
    number = 0
    try:
        for row in reader:
            number = number or len(row)
            if len(row) != number and row:
                raise DataError(
                    f"{place}: line {reader.line_num} has {len(row)} fields, the header has {number}"
                )
            if row:
                yield row
    except csv.Error as exc:
        raise DataError(f"{place}: line {reader.line_num}: {exc}") from None


class _Texts:
    """What the texts of a column may be, as far as they were seen."""

    def __init__(self) -> None:
        self._possible, self._has_values = [*_NUMBERS, *_OTHERS], False

    def see(self, texts: pa.Array) -> None:
        """Take some more into account."""
        if texts.null_count == len(texts):
            return
        self._has_values = True
        numbers = [kind for kind in _NUMBERS if kind in self._possible and _fits(texts, kind)]
        others = [kind for kind in _OTHERS if not numbers and kind in self._possible and _fits(texts, kind)]
        self._possible = numbers or others

    @property
    def kind(self) -> pa.DataType:
        """The type; string if nothing else fits, null without a value."""
        if not self._has_values:
            return pa.null()
        return self._possible[0] if self._possible else pa.string()


def _fits(texts: pa.Array, kind: pa.DataType) -> bool:
    if kind == pa.int64() and not pc.all(pc.match_substring_regex(texts, _WHOLE), min_count=0).as_py():
        return False
    try:
        pc.cast(texts, kind)
    except pa.ArrowInvalid:
        return False
    return True
