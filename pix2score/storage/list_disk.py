"""Files below a folder of a disk, streamed; by the bytes of their names, which need not be UTF-8.

Links to files within the folder are read as files. Links to folders and to what lies elsewhere are named and
not followed: a picture must lie below the place that may be read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote_from_bytes

from pix2score.errors import AccessError

LINK = "link to a folder or to elsewhere"
SPECIAL = "no regular file"


class File(NamedTuple):
    """One name below a folder; columns as ``listed.LISTED`` has them."""

    path: str
    uri: str | None
    size: int
    tag: str
    modified: int
    """Microseconds since 1970."""
    note: str | None
    changed: int
    """Microseconds since 1970."""
    inode: int


def walk(top: str) -> Iterator[File]:
    """Every name below ``top`` that is no folder; none if there is no such folder.

    Raises ``AccessError`` naming a folder that may not be listed: its files must not be missed silently.
    """
    root = top.encode("utf-8", "surrogateescape").rstrip(b"/")
    real = os.path.realpath(root or b"/").rstrip(b"/") + b"/"
    pending = [b""]
    while pending:
        below = pending.pop()
        for entry in _entries(root + b"/" + below):
            path = below + entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(path + b"/")
            elif found := _file(root, path, entry, real):
                yield found


def _entries(folder: bytes) -> Iterator[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):  # it went meanwhile, or is none
        return
    except PermissionError:
        raise AccessError(
            f"the folder {_text(folder.rstrip(b'/'))!r} may not be listed: give it read and execute "
            "permission (chmod a+rx), or list a place without it"
        ) from None


def _file(root: bytes, path: bytes, entry: os.DirEntry[bytes], real: bytes) -> File | None:
    """None for what went meanwhile."""
    try:
        status, is_link = entry.stat(), entry.is_symlink()
    except OSError:
        if not entry.is_symlink():
            return None
        return File(_text(path), None, 0, "", 0, LINK, 0, 0)
    note = None
    if is_link and (stat.S_ISDIR(status.st_mode) or not os.path.realpath(entry.path).startswith(real)):
        note = LINK
    elif not stat.S_ISREG(status.st_mode):
        note = SPECIAL
    tag = f"{status.st_size}-{status.st_mtime:.6f}"
    modified, changed = status.st_mtime_ns // 1000, status.st_ctime_ns // 1000
    return File(_text(path), _uri(root, path), status.st_size, tag, modified, note, changed, status.st_ino)


def _text(path: bytes) -> str:
    """The name; bytes that are no UTF-8 as backslash escapes."""
    return path.decode("utf-8", "backslashreplace")


def _uri(root: bytes, path: bytes) -> str | None:
    """The file's URI (RFC 8089) if its name is no UTF-8: the only text that names it."""
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(root + b"/" + path)
    return None
