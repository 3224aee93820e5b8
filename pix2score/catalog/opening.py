"""Opens a file of a catalog: Parquet as it is, in the columns of its table, or text by way of Parquet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pix2score.catalog.text.converted import converted
from pix2score.catalog.text.names import is_text_table
from pix2score.catalog.view import CatalogFile, TableVersion
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.parquet import open_parquet


@contextlib.contextmanager
def open_file(folder: Folder, entry: Entry, table: TableVersion | None = None) -> Iterator[CatalogFile]:
    """A file of a catalog; ``table``: the version of the table that it is of, if it is of one.

    Raises ``DataError`` if it is damaged or not what it is named; ``FileNotFoundError`` if it is gone.
    """
    if is_text_table(entry.path):
        with converted(folder, entry) as view:
            yield view
        return
    with open_parquet(folder, entry.path) as file:
        yield table.view(entry.path, file) if table else file
