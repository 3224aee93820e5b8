"""Whether files still hold what who names them says: size, and every byte by sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pix2score.errors import DataError
from pix2score.storage.folder import Folder

_CHUNK_BYTES = 8 * 2**20
_READING = 8  # files at a time: sha256 gives the interpreter up, S3 gives one reader about 100 MB/s


class Named(Protocol):
    """A file as who names it knows it: a manifest, a list, a receipt, the card of an index."""

    @property
    def path(self) -> str:
        """In the folder."""

    @property
    def bytes(self) -> int:
        """Its size."""

    @property
    def sha256(self) -> str:
        """Of its content."""


def checked_content(folder: Folder, file: Named, *, missing: str = "", altered: str = "") -> bytes:
    """Content of a file as who names it has it.

    Raises ``DataError`` naming one that is missing or altered, and what comes of either.
    """
    try:
        data = folder.read(file.path)
    except FileNotFoundError:
        raise DataError(f"{folder.full(file.path)} is missing{missing and f': {missing}'}") from None
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise DataError(f"{folder.full(file.path)} was altered{altered and f': {altered}'}")
    return data


def measure(folder: Folder, path: str) -> tuple[int, str]:
    """Size in bytes and sha256 of a file, streamed. Raises ``FileNotFoundError``."""
    digest, size = hashlib.sha256(), 0
    with folder.open(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def damage_of(folder: Folder, file: Named, named_by: str = "manifest") -> str | None:
    """What is wrong with the content of a file, None if nothing is."""
    try:
        size, digest = measure(folder, file.path)
    except FileNotFoundError:
        return f"{file.path} is missing"
    if size != file.bytes:
        return f"{file.path} has {size} bytes, {named_by} says {file.bytes}"
    if digest != file.sha256:
        return f"{file.path} was altered: sha256 {digest[:12]}…, {named_by} says {file.sha256[:12]}…"
    return None


def broken_files(folder: Folder, files: Iterable[Named]) -> dict[str, str]:
    """Path -> what is wrong, of those files that are not there with the size they are named with.

    One listing for each folder of a run.
    """
    files = list(files)
    sizes: dict[str, int] = {}
    for top in sorted({file.path.rpartition("/")[0] for file in files}):
        sizes |= {f"{top}/{entry.path}": entry.size for entry in (folder / top).top_entries()}
    broken = {}
    for file in files:
        if file.path not in sizes:
            broken[file.path] = "is missing"
        elif sizes[file.path] != file.bytes:
            broken[file.path] = f"has {sizes[file.path]} bytes, {file.bytes} are named"
    return broken


def each_damage(folder: Folder, files: Sequence[Named], named_by: str) -> list[str]:
    """What is wrong with each damaged one of ``files``, read one after the other."""
    return [found for file in files if (found := damage_of(folder, file, named_by))]


def damages(folder: Folder, files: Sequence[Named]) -> list[str]:
    """What is wrong with each damaged one of ``files``.

    Where a listing shows already that some are missing or cut, none is read.
    """
    if broken := broken_files(folder, files):
        return [f"{path} {what}" for path, what in broken.items()]
    with ThreadPoolExecutor(_READING) as pool:
        return [found for found in pool.map(lambda file: damage_of(folder, file), files) if found]
