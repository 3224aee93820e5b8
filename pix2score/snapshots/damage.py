"""Whether files still hold what their manifest says: size, and every byte by sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pix2score.snapshots.indexes import IndexFile
from pix2score.snapshots.tables import DataFile, broken_files
from pix2score.storage.folder import Folder

_CHUNK_BYTES = 8 * 2**20
_READING = 8  # files at a time: sha256 gives the interpreter up, S3 gives one reader about 100 MB/s


def measure(folder: Folder, path: str) -> tuple[int, str]:
    """Size in bytes and sha256 of a file, streamed. Raises ``FileNotFoundError``."""
    digest, size = hashlib.sha256(), 0
    with folder.open(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def damage_of(folder: Folder, file: DataFile | IndexFile, named_by: str = "manifest") -> str | None:
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


def each_damage(folder: Folder, files: Sequence[DataFile | IndexFile], named_by: str) -> list[str]:
    """What is wrong with each damaged one of ``files``, read one after the other."""
    return [found for file in files if (found := damage_of(folder, file, named_by))]


def damages(folder: Folder, files: Sequence[DataFile]) -> list[str]:
    """What is wrong with each damaged one of ``files``.

    Where a listing shows already that some are missing or cut, none is read.
    """
    if broken := broken_files(folder, files):
        return [f"{path} {what}" for path, what in broken.items()]
    with ThreadPoolExecutor(_READING) as pool:
        return [found for found in pool.map(lambda file: damage_of(folder, file), files) if found]
