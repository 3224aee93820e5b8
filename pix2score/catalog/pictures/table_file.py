"""The file of a table of labels (CSV, JSON lines, Parquet) as table ``asked``; which column names a picture.

Text is read as a catalog of text is: the same rules, and the line that is wrong.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from pix2score.catalog.text.converted import converted
from pix2score.catalog.text.names import is_text_table
from pix2score.errors import AccessError, ConfigError, DataError
from pix2score.host.scratch import scratch_folder
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import BATCH_ROWS
from pix2score.storage.quoting import literal
from pix2score.storage.sql import load

_KEYS = ("illust_id", "id", "path", "file", "file_name", "filename", "name", "image")
_KINDS = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet")


def load_table(connection: duckdb.DuckDBPyConnection, place: str, asked: str | None) -> tuple[str, list[str]]:
    """Make table ``asked`` of the file at ``place``; return the column that names the picture, and
    all columns.

    ``asked``: the column that is to name it, None for a usual one.

    Raises:
        ConfigError: no such column, or a file of another kind.
        DataError: no such file, or it is damaged.
    """
    whole = Folder(place)
    parts = whole.name.lower().split(".")[1:]
    kind = next((part for part in reversed(parts) if part not in ("gz", "zst")), "")
    if kind not in _KINDS:
        raise ConfigError(f"labels {place}: expected a file .csv, .tsv, .jsonl, .json or .parquet")
    try:
        with _as_table(whole, kind) as (folder, name):
            load_rows = _load_text if is_text_table(name) else _load_parquet
            return load_rows(connection, folder, name, place, asked)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"--labels {place}: no such file") from None
    except (DataError, duckdb.Error) as exc:
        if isinstance(exc, AccessError):
            raise
        text = str(exc).splitlines()[0].removeprefix(f"{whole.uri}: ")
        raise DataError(f"--labels {place} cannot be read as {kind}: {text}") from None


@contextlib.contextmanager
def _as_table(whole: Folder, kind: str) -> Iterator[tuple[Folder, str]]:
    """A file of the same rows that is read as it is: text, or Parquet on this disk."""
    if is_text_table(whole.name):
        yield whole.parent, whole.name
        return
    data = whole.parent.read(whole.name)
    if whole.name.lower().endswith(".zst"):
        data = pa.input_stream(pa.py_buffer(data), compression="zstd").read()
    name = f"labels.{'jsonl' if kind == 'json' else kind}"
    with scratch_folder(2 * len(data), "a table of labels") as folder:
        (folder / name).write_bytes(_as_lines(data) if kind == "json" else data)
        try:
            yield Folder(str(folder)), name
        except (DataError, duckdb.Error) as exc:
            raise DataError(str(exc).replace(f"{folder}/{name}", whole.uri)) from None


def _as_lines(data: bytes) -> bytes:
    """JSON, a list of objects or one object a line, as the latter."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return data
    rows = found if isinstance(found, list) else [found]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _load_parquet(
    connection: duckdb.DuckDBPyConnection, folder: Folder, name: str, place: str, asked: str | None
) -> tuple[str, list[str]]:
    connection.execute(f"CREATE TABLE asked AS FROM read_parquet({literal(folder.full(name))})")
    names = [name for name, *_ in connection.execute("DESCRIBE asked").fetchall()]
    return _key_column(names, asked, place), names


def _load_text(
    connection: duckdb.DuckDBPyConnection, folder: Folder, name: str, place: str, asked: str | None
) -> tuple[str, list[str]]:
    """As ``load_table``; the key of CSV stays text: 007 is no number."""
    with converted(folder, folder.entry(name)) as view:
        shown = view.schema_arrow
        _check_names(shown.names)
        key = _key_column(shown.names, asked, place)
        texts = {field.name for field in shown if pa.types.is_null(field.type)}
        texts |= {key} if view.shown is not None else set()
        schema = pa.schema(
            [pa.field(field.name, pa.string() if field.name in texts else field.type) for field in shown]
        )
        batches = (batch.cast(schema) for batch in view.iter_batches(BATCH_ROWS))
        load(connection, "asked", schema, batches)
    return key, shown.names


def _check_names(names: Sequence[str]) -> None:
    """Raise ``DataError`` for names that differ in case alone, which SQL takes for one."""
    counts = Counter(name.casefold() for name in names)
    twice = [name for name in names if counts[name.casefold()] > 1]
    if twice:
        raise DataError(f"columns {', '.join(twice)} differ in upper and lower case alone; rename them")


def _key_column(names: list[str], asked: str | None, place: str) -> str:
    if asked is not None and asked in names:
        return asked
    found = next((name for usual in _KEYS for name in names if name.lower() == usual), None)
    if asked is not None or found is None:
        what = f"has no column {asked!r}" if asked else "has no column that names the picture"
        raise ConfigError(
            f"--labels {place} {what}; --labels-key NAME says which it is; it has {', '.join(names)}"
        )
    return found
