"""Places named by the user: a local folder or ``s3://bucket/prefix``, behind one handle.

The only module that does I/O on the user's storage. Whole objects only: an object is visible complete or not at all. Retries live here
(botocore's standard mode for S3: timeouts, resets, 5xx, SlowDown, with backoff and jitter). Credentials and endpoint come from the standard
AWS chain (``AWS_ENDPOINT_URL`` for other stores) and are never stored or logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pix2score.errors import AccessError, ConfigError, DataError, StorageError

MAX_ATTEMPTS = 6
MAX_BACKOFF_S = 20.0
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 20  # between two reads, not for the whole: a stalled connection is given up and tried again


@dataclass(frozen=True, slots=True)
class Entry:
    """One object: path relative to its folder, size in bytes, and a tag that changes when the content does."""

    path: str
    size: int
    etag: str
    modified: float = field(default=0.0, compare=False)
    """Seconds since 1970, by the storage's clock."""


def is_s3(place: str) -> bool:
    """Whether a place is on S3."""
    return place.startswith("s3://")


@functools.lru_cache(maxsize=4)
def _filesystem(protocol: str, _pid: int) -> Any:  # connections must not cross a fork
    if protocol == "file":
        return fsspec.filesystem("file", auto_mkdir=True)
    return fsspec.filesystem(
        "s3",
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"mode": "standard", "max_attempts": MAX_ATTEMPTS},
        },
    )


def filesystem(place: str) -> Any:
    """The fsspec filesystem of a place, one per process."""
    return _filesystem("s3" if is_s3(place) else "file", os.getpid())


def normalise(place: str) -> str:
    """An absolute local path, or ``s3://bucket/prefix`` without a trailing slash.

    Raises:
        ConfigError: empty, another scheme, or an S3 place without a bucket.
    """
    if is_s3(place):
        bucket, _, key = place[5:].partition("/")
        if not bucket:
            raise ConfigError(f"place {place!r} has no bucket; expected s3://bucket/prefix")
        return f"s3://{bucket}/{key.rstrip('/')}".rstrip("/")
    if "://" in place or not place:
        raise ConfigError(f"place {place!r} is neither a local path nor s3://bucket/prefix")
    return os.path.abspath(os.path.expanduser(place))


def _endpoint(place: str) -> str:
    """`` at URL`` where another store than AWS is spoken to."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f" at {url}" if url and is_s3(place) else ""


@contextlib.contextmanager
def _named_errors(place: str) -> Iterator[None]:
    """Storage errors as ours: naming the bucket or path, never a key or secret."""
    where = f"bucket {place[5:].partition('/')[0]!r}" if is_s3(place) else f"path {place!r}"
    try:
        yield
    except NoCredentialsError:
        raise AccessError(f"no AWS credentials for {where}; set them by the standard AWS chain") from None
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as exc:
        if _means_no_bucket(exc):
            raise DataError(f"{where} does not exist") from None
        raise
    except PermissionError as exc:
        raise AccessError(f"access to {where} was refused") from exc
    except (ClientError, BotoCoreError, TimeoutError, OSError) as exc:
        raise StorageError(
            f"{where}{_endpoint(place)} still fails after {MAX_ATTEMPTS} attempts: {type(exc).__name__}: {exc}"
        ) from exc


def _means_no_bucket(exc: OSError) -> bool:
    return "NoSuchBucket" in repr(exc.__cause__) or "bucket does not exist" in str(exc)


class Folder:
    """A folder of objects at a place; paths are relative to it and use ``/``. Picklable; holds no connection."""

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

    def entries(self, path: str = "", *, suffix: str = "") -> list[Entry]:
        """Objects below ``path``, sorted by path; none if there is no such folder. Temporary files of writers are left out.

        Raises ``DataError`` if the bucket itself does not exist.
        """
        top = self.full(path)
        with _named_errors(self.uri):
            try:
                found = self.fs.find(top, detail=True)
            except FileNotFoundError as exc:
                if _means_no_bucket(exc):
                    raise
                return []
        root = self.fs._strip_protocol(self.uri).rstrip("/") + "/"
        entries = (_entry(name, info, root) for name, info in found.items() if info["type"] == "file")
        return sorted((e for e in entries if e.path.endswith(suffix) and not _is_temporary(e.path)), key=lambda e: e.path)

    def top_entries(self, *, suffix: str = "") -> list[Entry]:
        """As ``entries``, but only what stands directly in this folder."""
        with _named_errors(self.uri):
            try:
                found = self.fs.ls(self.uri, detail=True)
            except (FileNotFoundError, NotADirectoryError) as exc:
                if _means_no_bucket(exc):
                    raise
                return []
        root = self.fs._strip_protocol(self.uri).rstrip("/") + "/"
        entries = (_entry(info["name"], info, root) for info in found if info["type"] == "file")
        return sorted((e for e in entries if e.path.endswith(suffix) and not _is_temporary(e.path)), key=lambda e: e.path)

    def is_file(self, path: str = "") -> bool:
        """Whether an object stands at ``path``."""
        with _named_errors(self.uri):
            return bool(self.fs.isfile(self.full(path)))

    def entry(self, path: str) -> Entry:
        """Size and tag of one object. Raises ``FileNotFoundError``."""
        with _named_errors(self.uri):
            info = self.fs.info(self.full(path))
            root = self.fs._strip_protocol(self.uri).rstrip("/") + "/"
            return _entry(info["name"], info, root)

    def read(self, path: str) -> bytes:
        """Whole content. Raises ``FileNotFoundError``."""
        with _named_errors(self.uri):
            return bytes(self.fs.cat_file(self.full(path)))

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Whole content of each of many small objects, fetched concurrently; those that are gone by now are left out."""
        places = {self.full(path): path for path in paths}
        if not places:
            return {}
        with _named_errors(self.uri):
            found = self.fs.cat(list(places), on_error="return")
            names = {self.fs._strip_protocol(place): path for place, path in places.items()}
            for content in found.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        return {names[self.fs._strip_protocol(name)]: content for name, content in found.items() if isinstance(content, bytes)}

    def open(self, path: str) -> IO[bytes]:
        """A seekable reader, for formats that read parts."""
        with _named_errors(self.uri):
            return self.fs.open(self.full(path), "rb")  # type: ignore[no-any-return]

    def publish(self, path: str, data: bytes, *, replace: bool = False) -> int:
        """Make ``data`` visible at ``path``, whole or not at all, and return its size in bytes.

        One request on S3; temp file, fsync and rename on disk. A crash leaves the old object or none.

        Raises:
            FileExistsError: ``path`` holds something else and ``replace`` is False. Of several concurrent creators of different
                content exactly one succeeds; publishing the same bytes again is harmless, so that a retry is.
            AccessError: credentials missing or refused; names the bucket, never the key.
            StorageError: still failing after the retries; ``__cause__`` is the last error.
        """
        with _named_errors(self.uri):
            if is_s3(self.uri):
                _put_s3(self.fs, self.full(path), data, replace)
            else:
                _put_local(Path(self.full(path)), data, replace)
        return len(data)

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects, and on disk the folders that they leave empty; those already gone are fine."""
        with _named_errors(self.uri):
            if is_s3(self.uri):
                if paths:
                    self.fs.rm([self.full(path) for path in paths])  # a thousand per request
                return
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self.fs.rm_file(self.full(path))
                self._prune(Path(self.full(path)).parent)

    def _prune(self, folder: Path) -> None:
        while Path(self.uri) in folder.parents:
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone
                return
            folder = folder.parent


def read_place(place: str) -> bytes:
    """Whole content of one object named by its full place. Raises ``FileNotFoundError``."""
    whole = Folder(place)
    return whole.parent.read(whole.name)


def _entry(name: str, info: dict[str, Any], root: str) -> Entry:
    etag = str(info.get("ETag") or "").strip('"') or f"{info['size']}-{info.get('mtime', 0):.6f}"
    changed = info.get("LastModified")
    modified = changed.timestamp() if isinstance(changed, datetime) else float(info.get("mtime") or 0)
    return Entry(path=name.removeprefix(root), size=int(info["size"]), etag=etag, modified=modified)


def _is_temporary(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".tmp-")


def _put_s3(fs: Any, place: str, data: bytes, replace: bool) -> None:
    bucket, _, key = place[5:].partition("/")
    # If-None-Match makes the store itself refuse the second creator; honoured by AWS since 2024 and by moto.
    condition = {} if replace else {"IfNoneMatch": "*"}
    try:
        _put_unless_undecided(fs, {"Bucket": bucket, "Key": key, "Body": data, **condition})
    except OSError as exc:
        if "PreconditionFailed" not in repr(exc.__cause__) and "pre-conditions" not in str(exc):
            raise
        # After a lost answer a retry is refused by what its own first try made.
        if fs.cat_file(place) != data:
            raise FileExistsError(place) from None


def _put_unless_undecided(fs: Any, request: dict[str, Any]) -> None:
    """One PUT; sent again where the store says 409: two creators met, it has not decided between them, and neither object may stand."""
    for attempt in range(MAX_ATTEMPTS):
        try:
            fs.call_s3("put_object", **request)
        except OSError as exc:
            if "ConditionalRequestConflict" not in f"{exc!r} {exc.__cause__!r}" or attempt == MAX_ATTEMPTS - 1:
                raise
            time.sleep(_backoff_s(attempt))
        else:
            return


def _backoff_s(attempt: int) -> float:
    """Seconds before another try, with full jitter: a crowd must not return at once."""
    return random.uniform(0, min(MAX_BACKOFF_S, 0.2 * 2**attempt))


def _put_local(path: Path, data: bytes, replace: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"{path.parent} cannot be a folder: a file stands in its place; give another place") from None
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        if replace:
            os.replace(temporary, path)
        else:
            _link(temporary, path, data)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _link(temporary: str, path: Path, data: bytes) -> None:
    """Unlike a rename, a link fails if the name is taken: the atomic create-if-absent of a disk."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if not path.is_file() or path.read_bytes() != data:
            raise


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()


async def get_object(fs: Any, bucket: str, key: str, max_bytes: int) -> tuple[int, bytes]:
    """Size and content of one S3 object in one request; no content is read beyond ``max_bytes``.

    Runs on the filesystem's event loop (``fsspec.asyn.sync``). Raises what s3fs raises.
    """
    response = await fs._call_s3("get_object", Bucket=bucket, Key=key)
    async with response["Body"] as body:
        size = int(response["ContentLength"])
        try:
            return (size, b"") if size > max_bytes else (size, await body.read())
        except (BotoCoreError, aiohttp.ClientError, OSError) as exc:  # a TimeoutError is an OSError
            raise _BrokenOff from exc


class _BrokenOff(Exception):
    """The content of an answer ended early or stalled; ``__cause__`` says how."""


async def _get_whole(fs: Any, bucket: str, key: str, max_bytes: int) -> tuple[int, bytes]:
    """``get_object``, tried again when the content breaks off: botocore retries requests, not what is read after their answer."""
    for attempt in range(MAX_ATTEMPTS):
        try:
            return await get_object(fs, bucket, key, max_bytes)
        except _BrokenOff as exc:
            if attempt == MAX_ATTEMPTS - 1:
                raise exc.__cause__ or exc from None
        await asyncio.sleep(_backoff_s(attempt))
    raise AssertionError("the last attempt returns or raises")


def gather_objects(
    fs: Any, keys: Sequence[tuple[str, str]], *, max_bytes: int, num_concurrent: int, timeout_s: float
) -> list[tuple[int, bytes] | BaseException]:
    """``get_object`` for many (bucket, key), ``num_concurrent`` at a time; an error in the place of its object."""

    async def everything() -> list[tuple[int, bytes] | BaseException]:
        gate = asyncio.Semaphore(num_concurrent)

        async def one(bucket: str, key: str) -> tuple[int, bytes]:
            async with gate:
                return await asyncio.wait_for(_get_whole(fs, bucket, key, max_bytes), timeout_s)

        return await asyncio.gather(*(one(b, k) for b, k in keys), return_exceptions=True)

    from fsspec.asyn import sync

    return sync(fs.loop, everything)  # type: ignore[no-any-return]
