"""An fsspec filesystem over obstore: what Google Cloud Storage and Azure Blob have in common.

A store adds how it is reached and what its refusals mean: ``google``, ``azure``. Retries are obstore's. Its
calls are the blocking ones, in threads: a process that ends right after an awaited one is aborted in its last
moment, 7 of 120 that read one object (Python 3.11, obstore 0.12).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
import socket
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from pix2score.errors import AccessError, DataError

T = TypeVar("T")

MAX_RETRIES = 5
RETRY_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 20  # between two reads, not for the whole: a stalled connection is given up and tried again
WHOLE_TIMEOUT_S = 120
WRITE_TIMEOUT_S = 600
"""Of a whole object. A reading timeout would count from the first byte that is sent."""
NUM_THREADS = 32
DELETES_AT_ONCE = 16
METADATA_TIMEOUT_S = 3.0

_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist|bucket_not_found", re.I)
_STATUS = re.compile(r"\b(?:status code|status):? (\d{3})\b")
_CODE = re.compile(r"<Code>(\w+)</Code>|x-ms-error-code: (\w+)")
_QUERY = re.compile(r"\?[^\s\"')]*")


class RemoteFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Objects of one kind of store, by ``bucket/key`` or the full place. Settings come from the environment.

    Raises ``FileNotFoundError``, ``FileExistsError``, ``AccessError`` with words for the user, or
    ``OSError``; in none of them stands a key, a token or a signature.
    """

    cachable = False
    protocol: ClassVar[str]
    container: ClassVar[str] = "bucket"
    """What the store calls the first part of a place."""
    refused: ClassVar[dict[str, str]] = {}
    """Code of a refusal -> what is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._stores: dict[tuple[str, bool], Any] = {}

    @abstractmethod
    def new_store(self, bucket: str, options: dict[str, Any]) -> Any:
        """The obstore store of a bucket, with ``client_options`` and ``retry_config``.

        Raises ``AccessError`` where the settings are not complete.
        """

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix(f"{cls.protocol}://").rstrip("/")

    def store(self, bucket: str, *, writing: bool = False) -> Any:
        """The obstore store of a bucket, made once. Raises ``AccessError``."""
        if (bucket, writing) not in self._stores:
            timeouts = (
                {"timeout": timedelta(seconds=WRITE_TIMEOUT_S)}
                if writing
                else {
                    "timeout": timedelta(seconds=WHOLE_TIMEOUT_S),
                    "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
                }
            )
            options = {
                "client_options": {"connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S), **timeouts},
                "retry_config": {
                    "max_retries": MAX_RETRIES,
                    "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
                },
            }
            with self._named(bucket, ""):
                self._stores[bucket, writing] = self.new_store(bucket, options)
        return self._stores[bucket, writing]

    def get_object(self, bucket: str, key: str, max_bytes: int) -> tuple[int, bytes]:
        """Size and content of an object in one request; no content is read beyond ``max_bytes``."""
        with self._named(bucket, key):
            found = self.store(bucket).get(_path(key))
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
            with self._named(bucket, key):
                store.put(_path(key), data, mode="overwrite" if replace else "create", use_multipart=False)
        except FileNotFoundError:  # what else could be missing
            raise self._no_bucket(bucket) from None

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
            with self._named(bucket, key):
                self.store(bucket).delete(_path(key))
        except FileNotFoundError as exc:
            if is_no_bucket(exc):
                raise

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Content, or of it bytes ``start`` up to ``end``, in one request."""
        bucket, key = self._split(path)
        store = self.store(bucket)
        with self._named(bucket, key):
            if end is None:
                options = {"range": {"offset": start}} if start else None
                return bytes(store.get(_path(key), options=options).bytes())
            first = start or 0
            return bytes(store.get_range(_path(key), start=first, end=end)) if end > first else b""

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
            with contextlib.suppress(FileNotFoundError), self._named(bucket, key):
                return _entry(bucket, self.store(bucket).head(_path(key)))
        with self._named(bucket, key):
            for _ in self.store(bucket).list(_path(key) or None, chunk_size=1):
                return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """What is directly in a folder, or the object itself."""
        bucket, key = self._split(path)
        with self._named(bucket, key):
            found = self.store(bucket).list_with_delimiter(_path(key) or None)
        folders = [f"{bucket}/{prefix}" for prefix in found["common_prefixes"]]
        entries = [{"name": name, "size": 0, "type": "directory"} for name in folders]
        entries += [_entry(bucket, meta) for meta in found["objects"]]
        entries = entries or [self.info(path)]
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
        bucket, key = self._split(path)
        with self._named(bucket, key):
            for metas in self.store(bucket).list(_path(key) or None, chunk_size=1000):
                yield [_entry(bucket, meta) for meta in metas]

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
        return _RemoteFile(self, path, mode)

    def _split(self, path: str) -> tuple[str, str]:
        bucket, _, key = path.removeprefix(f"{self.protocol}://").partition("/")
        return bucket, key

    @contextlib.contextmanager
    def _named(self, bucket: str, key: str) -> Iterator[None]:
        from obstore import exceptions as obs

        try:
            yield
        except FileNotFoundError as exc:
            if _NO_BUCKET.search(str(exc)):
                raise self._no_bucket(bucket) from None
            raise FileNotFoundError(
                errno.ENOENT, os.strerror(errno.ENOENT), f"{self.protocol}://{bucket}/{key}"
            ) from None
        except obs.AlreadyExistsError:
            raise FileExistsError(f"{self.protocol}://{bucket}/{key}") from None
        except (obs.BaseError, ValueError) as exc:
            raise self._error(exc, bucket) from None

    def _error(self, exc: BaseException, bucket: str) -> Exception:
        """What obstore raised, in words that hold no secret."""
        text = str(exc).partition("\n\nDebug source")[0]
        if _NO_BUCKET.search(text):
            return self._no_bucket(bucket)
        code = next((a or b for a, b in _CODE.findall(text)), "")
        where = f"{self.container} {bucket!r}"
        is_refusal = type(exc).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
        if code in self.refused or is_refusal:
            reason = self.refused.get(code, code)
            return AccessError(f"access to {where} was refused" + (f": {reason}" if reason else ""))
        if "invalid path" in text:
            return DataError(f"{where} holds an object whose key cannot be read: {_without_secrets(text)}")
        if problem := self.problem(text):
            return AccessError(f"{where} cannot be reached: {problem}")
        if "timed out" in text or "TimedOut" in str(exc):
            return TimeoutError(f"{where} gives no complete answer in time")
        return OSError(f"{type(exc).__name__}: {_without_secrets(text)}")

    def _no_bucket(self, bucket: str) -> FileNotFoundError:
        return FileNotFoundError(f"{self.container} {bucket!r}: bucket does not exist")

    def problem(self, text: str) -> str | None:
        """What is wrong with the settings, if that is what an error's text says."""
        return None


def _results(futures: Sequence[Future[T]]) -> list[T | BaseException]:
    """Of each in order, or its error."""
    return [future.exception() or future.result() for future in futures]


def is_no_bucket(exc: BaseException) -> bool:
    """Whether an error says that the bucket itself is not there."""
    return "bucket does not exist" in str(exc)


def answers(host: str) -> bool:
    """Whether the metadata service of a cloud's machine answers at ``host``, hence may give credentials."""
    try:
        socket.create_connection((host, 80), timeout=METADATA_TIMEOUT_S).close()
    except OSError:
        return False
    return True


class _RemoteFile(AbstractBufferedFile):  # type: ignore[misc]
    """A seekable reader that fetches ranges, some ahead; or a writer that puts all when it is closed."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self.path, start=start, end=end))

    def _initiate_upload(self) -> None:
        pass

    def _upload_chunk(self, final: bool = False) -> bool:
        if final:
            self.fs.put_object(self.path, self.buffer.getvalue(), replace=True)
        return final  # until then it is kept


def _entry(bucket: str, meta: Any) -> dict[str, Any]:
    return {
        "name": f"{bucket}/{meta['path']}",
        "size": meta["size"],
        "type": "file",
        "ETag": meta["e_tag"] or meta["version"],
        "LastModified": meta["last_modified"],
    }


def _path(key: str) -> str:
    """``key`` for obstore, which would spell some otherwise. Raises ``FileNotFoundError`` for those."""
    if key and not is_plain(key):
        raise FileNotFoundError(f"no object whose key has an empty part, '.' or '..' is read: {key!r}")
    return key


def is_plain(key: str) -> bool:
    """Whether obstore asks for this very key."""
    return not any(part in ("", ".", "..") for part in key.split("/")) and not _CONTROL.search(key)


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _without_secrets(text: str) -> str:
    return " ".join(_QUERY.sub("?…", text).split())[:500]
