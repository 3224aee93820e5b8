"""The files that a version of a table lists, as they stand in storage."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pix2score.catalog.files import relist
from pix2score.errors import ConfigError, DataError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.places import canonical, is_s3

MAX_NAMED = 3


def library(name: str, what: str, extra: str) -> Any:
    """A library that an extra brings. Raises ``ConfigError`` where it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise ConfigError(f"{what} needs an extra: pip install 'pix2score[{extra}]' ({exc})") from None


def pinned(folder: Folder, sizes: Mapping[str, int], version: str) -> list[Entry]:
    """The entries of files that a log lists, sorted by path; ``sizes``: path -> bytes, as the log has them.

    Raises ``DataError`` naming files that are gone or of another size: read without them, rows would be lost.
    """
    listed = [Entry(path, size, "") for path, size in sorted(sizes.items())]
    found = relist(folder, listed)
    gone = [entry.path for entry in listed if entry.path not in found]
    if gone:
        more = f" and {len(gone) - MAX_NAMED} more" if len(gone) > MAX_NAMED else ""
        raise DataError(
            f"{folder.uri}: {version} lists {', '.join(gone[:MAX_NAMED])}{more}, which is not there: removed "
            "(vacuumed) though the version still needs it; restore it, or write the table anew"
        )
    for entry in listed:
        if found[entry.path].size != entry.size:
            raise DataError(
                f"{folder.full(entry.path)} has {found[entry.path].size} bytes, the log of its table says "
                f"{entry.size}"
            )
    return [found[entry.path] for entry in listed]


def plain_location(location: str) -> str:
    """A location of a table's log as a place. Raises ``AccessError`` for a storage account that the
    environment does not name."""
    for other in ("s3a://", "s3n://"):
        location = f"s3://{location[6:]}" if location.startswith(other) else location
    return "/" + location[5:].lstrip("/") if location.startswith("file:") else canonical(location)


def below(folder: Folder, place: str) -> str:
    """A file's path below the table's folder, verbatim. Raises ``DataError`` for a file elsewhere."""
    plain = plain_location(place)
    root = folder.uri.rstrip("/") + "/"
    if not plain.startswith(root) or is_s3(plain) != is_s3(root):
        raise DataError(
            f"{folder.uri}: its log lists a file elsewhere, {place}: a table whose files lie outside its own "
            "folder (a clone, or moved after it was written) is not read; write it anew as one table"
        )
    return plain.removeprefix(root)
