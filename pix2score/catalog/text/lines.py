"""Lines of a text table: unpacked, decoded, counted, and not too many."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import cast

from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder

MAX_BYTES = 2**30
"""Of text, unpacked: a minute and a half of a core as CSV, less as JSON lines (200,000 rows: 16 MB in 1.5 s,
33 MB in 1.3 s). Larger catalogs are better Parquet, which is read in parts."""
_MARK = b"\xef\xbb\xbf"


def lines(folder: Folder, entry: Entry) -> Iterator[tuple[int, str]]:
    """Number, from 1 on, and text of each line, with its end.

    Raises ``DataError`` naming the line that is no UTF-8; for a damaged gzip file; and for more than
    ``MAX_BYTES``.
    """
    place, held = folder.full(entry.path), 0
    with folder.open(entry.path) as raw:
        packed = entry.path.lower().endswith(".gz")
        plain = gzip.GzipFile(fileobj=raw) if packed else raw
        number = 0
        try:
            for number, line in enumerate(io.BufferedReader(cast(io.RawIOBase, plain), 2**20), 1):
                held += len(line)
                if held > MAX_BYTES:
                    raise too_large(place)
                yield number, line.removeprefix(_MARK if number == 1 else b"").decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{place}: line {number} is not UTF-8; convert it first") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise DataError(f"{place}: damaged behind line {number}: {exc}") from None


def too_large(place: str) -> DataError:
    """The error for a text table that should be Parquet."""
    reader = "read_json" if ".json" in place.lower() or ".ndjson" in place.lower() else "read_csv"
    options = "" if reader == "read_json" else ", all_varchar=true"
    return DataError(
        f"{place} holds more than {MAX_BYTES // 2**30} GiB of text; as Parquet a catalog of any size is "
        f"read: python -c \"import duckdb; duckdb.sql('''COPY (FROM {reader}('{place}'{options})) TO "
        "'catalog.parquet' ''')\" (types of columns by CAST)"
    )
