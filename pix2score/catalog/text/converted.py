"""A text table by way of a Parquet file in this process's temporary folder, made once for every content."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pix2score.catalog.text.csv_rows import write_csv
from pix2score.catalog.text.json_rows import write_json_lines
from pix2score.catalog.text.lines import MAX_BYTES, too_large
from pix2score.catalog.text.names import is_csv
from pix2score.catalog.view import FileView, Source
from pix2score.errors import DataError
from pix2score.host.scratch import scratch_folder
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.parquet import open_parquet

_lock = threading.Lock()
_folders: dict[int, Path] = {}
"""By process, as a forked one must not write beside the other."""
_done: dict[tuple[int, str, Entry], _Converted] = {}
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class _Converted:
    name: str
    shown: pa.Schema
    is_text: bool


@contextlib.contextmanager
def converted(folder: Folder, entry: Entry) -> Iterator[FileView]:
    """The rows of a text table as a Parquet file has them; of CSV all values are texts, and the schema says
    what they stand for.

    Raises ``DataError`` naming the line that is wrong, and if the file changed since it was listed.
    """
    with _lock:
        key = (os.getpid(), folder.uri, entry)
        if key not in _done:
            _forget(folder, entry.path)
            _done[key] = _convert(folder, entry)
        found = _done[key]
    with open_parquet(Folder(str(_folder())), found.name) as file:
        kinds = zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)
        sources = tuple(Source(name, kind, name) for name, kind in kinds)
        yield FileView(file, sources, found.shown if found.is_text else None)


def _convert(folder: Folder, entry: Entry) -> _Converted:
    if entry.size > MAX_BYTES:
        raise too_large(folder.full(entry.path))
    name, is_text = f"{next(_numbers)}.parquet", is_csv(entry.path)
    write = write_csv if is_text else write_json_lines
    shown = write(folder, entry, str(_folder() / name))
    if folder.entry(entry.path) != entry:
        raise DataError(f"{folder.full(entry.path)} changed while it was read; run again")
    return _Converted(name, shown, is_text)


def _forget(folder: Folder, path: str) -> None:
    """Remove what a file's earlier content was converted to."""
    for key in [key for key in _done if key[:2] == (os.getpid(), folder.uri) and key[2].path == path]:
        (_folder() / _done.pop(key).name).unlink(missing_ok=True)


def _folder() -> Path:
    """Removed when the process ends; of a killed one, by the next run."""
    if os.getpid() not in _folders:
        stack = contextlib.ExitStack()
        _folders[os.getpid()] = stack.enter_context(scratch_folder())
        atexit.register(stack.close)
    return _folders[os.getpid()]
