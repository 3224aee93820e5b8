"""A folder of objects at a place, local or in a store, behind one handle: the only way to the user's storage.

Whole objects only: an object is visible complete or not at all. Retries live here (botocore's standard mode
for S3, obstore's for others: timeouts, resets, 5xx, SlowDown, with backoff and jitter).
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from pix2score.errors import DataError
from pix2score.storage.objects import MAX_READING, delete_local, delete_remote, gather_objects, put
from pix2score.storage.places import filesystem, is_remote, means_no_bucket, named_errors, normalise, split

READ_MANY_TIMEOUT_S = 120.0  # of one small object, its tries together


@dataclass(frozen=True, slots=True)
class Entry:
    """One object: path relative to its folder, size in bytes, and a tag that changes when the content
    does."""

    path: str
    size: int
    etag: str
    modified: float = field(default=0.0, compare=False)
    """Seconds since 1970, by the storage's clock."""


class Folder:
    """A folder of objects at a place; paths are relative to it and use ``/``. Picklable; holds no
    connection."""

    def __init__(self, place: str) -> None:
        self.uri = normalise(place)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __truediv__(self, path: str) -> Folder:
        return Folder(self.full(path))

    @property
    def fs(self) -> Any:
        """The fsspec filesystem below, for libraries that take one."""
        return filesystem(self.uri)

    @property
    def name(self) -> str:
        """Last part of the place."""
        return self.uri.rpartition("/")[2]

    @property
    def parent(self) -> Folder:
        """The folder that holds this one."""
        return Folder(self.uri.rpartition("/")[0] or "/")

    def full(self, path: str = "") -> str:
        """Absolute place of ``path``."""
        return f"{self.uri.rstrip('/')}/{path}" if path else self.uri

    def entries(self, path: str = "", *, suffix: str = "", temporary: bool = False) -> list[Entry]:
        """Objects below ``path``, sorted by path; none if there is no such folder. ``temporary``: only files
        that writers had not finished, which are left out otherwise.

        Raises ``DataError`` if the bucket itself does not exist.
        """
        top = self.full(path)
        with named_errors(self.uri):
            try:
                found = self.fs.find(top, detail=True)
            except FileNotFoundError as exc:
                if means_no_bucket(exc):
                    raise
                return []
        root = self.fs._strip_protocol(self.uri).rstrip("/") + "/"
        entries = (entry_of(name, info, root) for name, info in found.items() if info["type"] == "file")
        return sorted(
            (e for e in entries if e.path.endswith(suffix) and is_temporary(e.path) == temporary),
            key=lambda e: e.path,
        )

    def top_entries(self, *, suffix: str = "") -> list[Entry]:
        """As ``entries``, but only what is directly in this folder."""
        with named_errors(self.uri):
            try:
                found = self.fs.ls(self.uri, detail=True)
            except (FileNotFoundError, NotADirectoryError) as exc:
                if means_no_bucket(exc):
                    raise
                return []
        root = self.fs._strip_protocol(self.uri).rstrip("/") + "/"
        entries = (entry_of(info["name"], info, root) for info in found if info["type"] == "file")
        return sorted(
            (e for e in entries if e.path.endswith(suffix) and not is_temporary(e.path)), key=lambda e: e.path
        )

    def is_file(self, path: str = "") -> bool:
        """Whether an object exists at ``path``."""
        with named_errors(self.uri):
            return bool(self.fs.isfile(self.full(path)))

    def entry(self, path: str) -> Entry:
        """Size and tag of one object. Raises ``FileNotFoundError``."""
        with named_errors(self.uri):
            info = self.fs.info(self.full(path))
            root = self.fs._strip_protocol(self.uri).rstrip("/") + "/"
            return entry_of(info["name"], info, root)

    def read(self, path: str) -> bytes:
        """Whole content. Raises ``FileNotFoundError``."""
        with named_errors(self.uri):
            return bytes(self.fs.cat_file(self.full(path)))

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Content from byte ``start`` up to but without ``end``, in one request.

        Raises ``FileNotFoundError``.
        """
        with named_errors(self.uri):
            return bytes(self.fs.cat_file(self.full(path), start=start, end=end))

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Whole content of each of many small objects, fetched concurrently; missing ones are left
        out."""
        if not paths:
            return {}
        with named_errors(self.uri):
            found = zip(paths, self._contents(list(paths)), strict=True)
            contents = {
                path: content for path, content in found if not isinstance(content, FileNotFoundError)
            }
            for content in contents.values():
                if isinstance(content, BaseException):
                    raise content
        return {path: content for path, content in contents.items() if isinstance(content, bytes)}

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Bytes from ``start`` to before ``end`` of each ``(path, start, end)``, fetched side by side.

        Raises ``FileNotFoundError``.
        """
        if not ranges:
            return []
        paths, starts, ends = zip(*ranges, strict=True)
        with named_errors(self.uri):
            found = self.fs.cat_ranges([self.full(path) for path in paths], list(starts), list(ends))
            for content in found:
                if isinstance(content, BaseException):
                    raise content
        return [bytes(content) for content in found]

    def _contents(self, paths: list[str]) -> list[bytes | BaseException]:
        """Content or error of each, by literal name: fsspec's own ``cat`` takes ``[``, ``*`` and ``?`` for
        patterns."""
        if is_remote(self.uri):
            keys = [split(self.full(path)) for path in paths]
            found = gather_objects(
                self.fs,
                keys,
                max_bytes=sys.maxsize,
                num_concurrent=MAX_READING,
                timeout_s=READ_MANY_TIMEOUT_S,
            )
            return [one if isinstance(one, BaseException) else one[1] for one in found]
        with ThreadPoolExecutor(max_workers=min(8, len(paths))) as pool:
            return list(pool.map(_file_content, (self.full(path) for path in paths)))

    def open(self, path: str) -> IO[bytes]:
        """A seekable reader, for formats that read parts."""
        with named_errors(self.uri):
            return self.fs.open(self.full(path), "rb")  # type: ignore[no-any-return]

    def publish(self, path: str, data: bytes, *, replace: bool = False) -> int:
        """Make ``data`` visible at ``path``, whole or not at all, and return its size in bytes.

        One request to a store; temp file, fsync and rename on disk. A crash leaves the old object or none.

        Raises:
            FileExistsError: ``path`` holds something else and ``replace`` is False. Of several concurrent
                creators of different content exactly one succeeds; publishing the same bytes again is
                harmless, so that a retry is.
            AccessError: credentials missing or refused; names the bucket, never the key.
            StorageError: still failing after the retries; ``__cause__`` is the last error.
        """
        with named_errors(self.uri):
            put(self.full(path), data, replace=replace)
        return len(data)

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects in the given order, and on disk the folders that they leave empty.

        Those that do not exist are passed over.

        Raises ``AccessError`` or ``StorageError`` if one is left: those before it are removed, of those
        after it some may be.
        """
        with named_errors(self.uri):
            if is_remote(self.uri):
                delete_remote([self.full(path) for path in paths])
                return
            for path in paths:
                delete_local(Path(self.full(path)))
                self._prune(Path(self.full(path)).parent)

    def prove_exclusive(self) -> None:
        """Create one object twice, and see the second creator refused: what publishing rests on.

        Raises ``DataError`` if this store or file system would let two runs publish the same snapshot. One
        small object is written and removed.
        """
        path = f"exclusive-{uuid.uuid4().hex[:16]}.probe"
        self.publish(path, b"first")
        try:
            self.publish(path, b"second")
        except FileExistsError:
            return
        finally:
            self.delete([path])
        raise DataError(
            f"{self.uri} does not keep a second creator out (conditional PUT, If-None-Match, is ignored "
            "there): two runs could publish "
            f"the same snapshot; give a store that honours it"
        )

    def _prune(self, folder: Path) -> None:
        while Path(self.uri) in folder.parents:
            try:
                folder.rmdir()
            except OSError:  # not empty, or removed
                return
            folder = folder.parent


def read_place(place: str) -> bytes:
    """Whole content of one object named by its full place. Raises ``FileNotFoundError``."""
    whole = Folder(place)
    return whole.parent.read(whole.name)


def _file_content(place: str) -> bytes | BaseException:
    try:
        return Path(place).read_bytes()
    except OSError as exc:
        return exc


def entry_of(name: str, info: dict[str, Any], root: str) -> Entry:
    etag = str(info.get("ETag") or "").strip('"') or f"{info['size']}-{info.get('mtime', 0):.6f}"
    changed = info.get("LastModified")
    modified = changed.timestamp() if isinstance(changed, datetime) else float(info.get("mtime") or 0)
    return Entry(path=name.removeprefix(root), size=int(info["size"]), etag=etag, modified=modified)


def is_temporary(path: str) -> bool:
    """Whether a writer on a disk had not finished the file at ``path``."""
    return path.rpartition("/")[2].startswith(".tmp-")
