"""An fsspec filesystem over obstore: what Google Cloud Storage and Azure Blob have in common.

A store adds how it is reached and what its refusals mean: ``google``, ``azure``. Calls are obstore's blocking
ones, in threads: a process that ends right after an awaited one is aborted in its last moment, 7 of 120 that
read one object (Python 3.11, obstore 0.12).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from pix2score.storage.remote_listing import RemoteListings, folder, object_info
from pix2score.storage.remote_stores import checked_key, is_no_bucket

T = TypeVar("T")

NUM_THREADS = 32
DELETES_AT_ONCE = 16
PART_BYTES = 16 * 2**20  # 10,000 parts of an upload are 160 GB; Azure would take 50,000
PARTS_AT_ONCE = 4
READ_BYTES = 5 * 2**20


class RemoteFileSystem(RemoteListings, AbstractFileSystem):  # type: ignore[misc]
    """Objects of one kind of store, by ``bucket/key`` or the full place."""

    cachable = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix(f"{cls.protocol}://").rstrip("/")

    def get_object(self, bucket: str, key: str, max_bytes: int) -> tuple[int, bytes]:
        """Size and content of an object in one request; no content is read beyond ``max_bytes``."""
        with self.named(bucket, key):
            found = self.store(bucket).get(checked_key(key))
            size = int(found.meta["size"])
            return (size, b"") if size > max_bytes else (size, bytes(found.bytes()))

    def gather(
        self, keys: Sequence[tuple[str, str]], max_bytes: int, num_concurrent: int
    ) -> list[tuple[int, bytes] | BaseException]:
        """``get_object`` for many (bucket, key), ``num_concurrent`` at a time; an error in the place of its
        object."""
        with ThreadPoolExecutor(min(num_concurrent, max(1, len(keys)))) as pool:
            futures = [pool.submit(self.get_object, bucket, key, max_bytes) for bucket, key in keys]
            return _results(futures)

    def put_object(self, place: str, data: bytes, *, replace: bool) -> None:
        """One request. Raises ``FileExistsError`` if the object exists and ``replace`` is off."""
        bucket, key = self._split(place)
        store = self.store(bucket, writing=True)
        try:
            with self.named(bucket, key):
                store.put(
                    checked_key(key), data, mode="overwrite" if replace else "create", use_multipart=False
                )
        except FileNotFoundError:  # what else could be missing
            raise self.no_bucket(bucket) from None

    def delete_objects(self, places: Sequence[str]) -> None:
        """Remove objects, a few at a time in the given order; those that do not exist are passed over.

        What names others goes before them: the next ending is begun when the one before is done. Raises
        ``AccessError`` or ``OSError`` at the first few with a refusal.
        """
        for _, group in itertools.groupby(places, key=lambda place: place.rpartition(".")[2]):
            alike = list(group)
            for start in range(0, len(alike), DELETES_AT_ONCE):
                self._delete_all(alike[start : start + DELETES_AT_ONCE])

    def _delete_all(self, places: Sequence[str]) -> None:
        for result in self._side_by_side([functools.partial(self._rm, place) for place in places]):
            if isinstance(result, BaseException):
                raise result

    def _rm(self, path: str) -> None:
        bucket, key = self._split(path)
        try:
            with self.named(bucket, key):
                self.store(bucket).delete(checked_key(key))
        except FileNotFoundError as exc:
            if is_no_bucket(exc):
                raise

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Content, or of it bytes ``start`` up to ``end``, in one request."""
        bucket, key = self._split(path)
        store = self.store(bucket)
        with self.named(bucket, key):
            if end is None:
                options = {"range": {"offset": start}} if start else None
                return bytes(store.get(checked_key(key), options=options).bytes())
            first = start or 0
            return bytes(store.get_range(checked_key(key), start=first, end=end)) if end > first else b""

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | list[int],
        ends: int | list[int],
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | BaseException]:
        """``cat_file`` of each, side by side; an error in the place of its range unless ``on_error`` is
        ``raise``."""
        firsts = [starts] * len(paths) if isinstance(starts, int) else starts
        lasts = [ends] * len(paths) if isinstance(ends, int) else ends
        wanted = zip(paths, firsts, lasts, strict=True)
        found = self._side_by_side([functools.partial(self.cat_file, *one) for one in wanted])
        if on_error == "raise":
            for one in found:
                if isinstance(one, BaseException):
                    raise one
        return found

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Size, tag and time of an object, or that a path is a folder."""
        bucket, key = self._split(path)
        name = f"{bucket}/{key}".rstrip("/")
        if key:
            with contextlib.suppress(FileNotFoundError), self.named(bucket, key):
                return object_info(bucket, self.store(bucket).head(checked_key(key)))
        if self.is_folder(bucket, key):
            return folder(name)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """What is directly in a folder, or the object itself."""
        entries = self.level(*self._split(path)) or [self.info(path)]
        return entries if detail else [entry["name"] for entry in entries]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        """All objects below a folder, in one listing, or the object itself; by name."""
        found = {entry["name"]: entry for page in self.pages(path) for entry in page}
        if not found and self._split(path)[1]:
            info = self.info(path)
            found = {info["name"]: info}
        return dict(sorted(found.items())) if detail else sorted(found)

    def pages(self, path: str) -> Iterator[list[dict[str, Any]]]:
        """All objects below a folder as ``info`` tells them, a page of the listing at a time."""
        return self.everything(*self._split(path))

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Nothing: a folder is there when something is in it."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing, as above."""

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(NUM_THREADS)

    def _side_by_side(self, calls: Iterable[Callable[[], T]]) -> list[T | BaseException]:
        return _results([self._pool.submit(call) for call in calls])

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> _RemoteFile:
        return _RemoteFile(self, path, mode, block_size=PART_BYTES if mode == "wb" else READ_BYTES)

    def parts(self, path: str) -> Any:
        """obstore's writer of an object that is sent in parts of ``PART_BYTES``; in memory are a few."""
        import obstore

        bucket, key = self._split(path)
        with self.named(bucket, key):
            store = self.store(bucket, writing=True)
            return obstore.open_writer(
                store, checked_key(key), buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
            )

    def named_path(self, path: str) -> AbstractContextManager[None]:
        """``named`` for the object at a path."""
        return self.named(*self._split(path))

    def _split(self, path: str) -> tuple[str, str]:
        bucket, _, key = path.removeprefix(f"{self.protocol}://").partition("/")
        return bucket, key


def _results(futures: Sequence[Future[T]]) -> list[T | BaseException]:
    """Of each in order, or its error."""
    return [future.exception() or future.result() for future in futures]


class _RemoteFile(AbstractBufferedFile):  # type: ignore[misc]
    """A seekable reader that fetches ranges, some ahead; or a writer that sends parts, which become an object
    when it is closed, and one of a single part whole."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self.path, start=start, end=end))

    def _initiate_upload(self) -> None:
        self._parts: Any = None

    def _upload_chunk(self, final: bool = False) -> bool:
        data = self.buffer.getvalue()
        if final and self._parts is None:
            self.fs.put_object(self.path, data, replace=True)
            return True
        if self._parts is None:
            self._parts = self.fs.parts(self.path)
        with self.fs.named_path(self.path):
            self._parts.write(data)
            if final:
                self._parts.close()
        return True
