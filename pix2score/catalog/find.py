"""What a catalog is made of at a place: Parquet files, one version of a table with a log, or text tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pix2score.catalog.absent import AbsentError, named_scheme
from pix2score.catalog.files import find_files
from pix2score.catalog.guards import refuse_table, refuse_unfinished
from pix2score.catalog.listing import top_level
from pix2score.catalog.tables.delta import delta_table, is_delta
from pix2score.catalog.tables.iceberg import iceberg_table, is_iceberg
from pix2score.catalog.text.names import is_csv, is_json_lines, is_text_table
from pix2score.catalog.view import TableVersion
from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder

logger = logging.getLogger(__name__)


def find_catalog(place: str) -> tuple[Folder, list[Entry], TableVersion | None]:
    """The folder of the catalog at ``place``, its files sorted by path, and the version of the table that
    they are of, should it be one.

    ``place``: a file, a folder, a Delta Lake or Iceberg table, an Iceberg ``*.metadata.json``, or
    ``iceberg:CATALOG/namespace.table``. Text tables are one only where a folder has no Parquet files: those
    of its top level, all CSV or all JSON lines.

    Raises ``DataError`` saying what is there instead; ``ConfigError`` if an extra is missing.
    """
    named_scheme(place)
    if is_iceberg(place):
        return iceberg_table(place)
    if is_delta(place):
        return delta_table(place)
    whole = Folder(place)
    if is_text_table(whole.name) and whole.is_file():
        refuse_table(whole.parent, [])
        return whole.parent, [whole.parent.entry(whole.name)], None
    try:
        folder, files = find_files(place)
    except AbsentError:
        texts = _texts(whole)
        if not texts:
            raise
        return whole, texts, None
    return folder, files, None


def _texts(folder: Folder) -> list[Entry]:
    """Text tables at the top of a folder that holds no Parquet.

    Raises ``DataError`` for two kinds, and if one is being written.
    """
    top = top_level(folder)
    names = [entry.path for entry in top.files]
    texts = [entry for entry in top.files if is_text_table(entry.path)]
    if not texts:
        return []
    refuse_unfinished(folder, [*names, *top.hidden], texts)
    kinds: Sequence[Callable[[str], bool]] = (is_csv, is_json_lines)
    first = [next((e.path for e in texts if is_kind(e.path)), None) for is_kind in kinds]
    if all(first):
        raise DataError(
            f"{folder.uri} holds CSV ({first[0]}) and JSON lines ({first[1]}): give one of them as --catalog"
        )
    logger.info("the catalog is text: %s", ", ".join(entry.path for entry in texts[:5]))
    return texts
