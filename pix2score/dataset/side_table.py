"""A table that the user gives beside the catalog: one Parquet file, opened and checked once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.parquet import open_parquet, parquet_batches


@dataclass(frozen=True, slots=True)
class SideTable:
    """A table as it stood when it was opened, and the columns of it that mean something."""

    folder: Folder
    entry: Entry
    columns: tuple[str, ...]

    @property
    def place(self) -> str:
        """Of the file."""
        return self.folder.full(self.entry.path)

    def schema(self) -> pa.Schema:
        """Of ``batches``."""
        with open_parquet(self.folder, self.entry.path) as file:
            return pa.schema([file.schema_arrow.field(name).remove_metadata() for name in self.columns])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its rows, ``columns`` of them."""
        return parquet_batches(self.folder, [self.entry.path], self.columns)


def open_side_table(
    flag: str, place: str, needed: Sequence[str], optional: Sequence[str], what: str, of_columns: str
) -> SideTable:
    """The table at ``place``, which ``flag`` names.

    ``what``, ``of_columns``: what was expected, for the messages. Raises ``DataError``: no such file, no
    Parquet, or a column of ``needed`` missing.
    """
    whole = Folder(place)
    if not whole.is_file():
        raise DataError(f"{flag} {place}: no such file; expected {what}")
    folder, name = whole.parent, whole.name
    with open_parquet(folder, name) as file:
        names = file.schema_arrow.names
    if missing := [column for column in needed if column not in names]:
        raise DataError(
            f"{flag} {place} has no column {', '.join(missing)}; it has {', '.join(names)}; expected "
            f"{of_columns}"
        )
    columns = tuple(column for column in (*needed, *optional) if column in names)
    return SideTable(folder, folder.entry(name), columns)
