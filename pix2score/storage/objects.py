"""Single objects, whole: put on a disk or into a store so that they are visible complete or not at all,
removed by their literal names, and many fetched from a store at once."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError

from pix2score.errors import DataError
from pix2score.storage.fast_get import fast_gets
from pix2score.storage.places import MAX_REQUESTS, backoff_s, filesystem, is_remote, is_s3
from pix2score.storage.remote import RemoteFileSystem
from pix2score.storage.s3_objects import delete_s3, put_s3

MAX_READING = 32  # small objects at a time: hides 20 to 100 ms of latency

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # linux/fcntl.h, linux/fs.h


def put(place: str, data: bytes, *, replace: bool) -> None:
    """``place`` holds ``data``, whole or not at all.

    Raises ``FileExistsError`` if it holds something else and ``replace`` is off; ``DataError`` if the store
    cannot tell.
    """
    if is_s3(place):
        put_s3(filesystem(place), place, data, replace=replace)
    elif is_remote(place):
        _put_remote(filesystem(place), place, data, replace=replace)
    else:
        put_local(Path(place), data, replace=replace)


def delete_remote(places: Sequence[str]) -> None:
    """Remove objects of one store in the given order.

    Raises ``AccessError`` or ``OSError`` at the first request with a refusal.
    """
    if places and is_s3(places[0]):
        delete_s3(filesystem(places[0]), places)
    elif places:
        filesystem(places[0]).delete_objects(places)


def _put_remote(fs: RemoteFileSystem, place: str, data: bytes, *, replace: bool) -> None:
    """As ``put_s3``. Sent again where the store refuses and nothing is there: two creators met, and it has
    not decided between them."""
    for attempt in range(MAX_REQUESTS):
        try:
            fs.put_object(place, data, replace=replace)
        except FileExistsError:
            found = _content_or_none(fs, place)
            if found == data:  # after a lost answer a retry is refused by what its own first try made
                return
            if attempt == MAX_REQUESTS - 1 or not (found is None or replace):
                raise
            time.sleep(backoff_s(attempt))
        else:
            return


def _content_or_none(fs: RemoteFileSystem, place: str) -> bytes | None:
    try:
        return bytes(fs.cat_file(place))
    except FileNotFoundError:
        return None


def put_local(path: Path, data: bytes, *, replace: bool) -> None:
    """As ``put_s3``, by way of a temporary file beside ``path``."""
    for attempt in range(MAX_REQUESTS):
        try:
            _put_local(path, data, replace=replace)
        except FileNotFoundError:  # another process removed the folder, as the last file in it went
            if attempt == MAX_REQUESTS - 1:
                raise
        else:
            return


def _put_local(path: Path, data: bytes, *, replace: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        if isinstance(exc, FileExistsError) and (path.parent.is_dir() or not os.path.lexists(path.parent)):
            raise FileNotFoundError(path.parent) from None  # removed meanwhile, and perhaps made again
        raise DataError(
            f"{path.parent} cannot be a folder: a file stands in its place; give another place"
        ) from None
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
            _create(temporary, path, data)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _create(temporary: str, path: Path, data: bytes) -> None:
    """Give the temporary file its name unless that is taken: the atomic create-if-absent of a disk.

    A link fails if the name is taken, unlike a plain rename. Mounts of object stores, SMB and exFAT have no
    links; there the kernel's exclusive rename does the same.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        _refuse_other(path, data)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        try:
            _rename_exclusive(temporary, str(path))
        except FileExistsError:
            _refuse_other(path, data)
        except OSError as error:
            if error.errno not in (*_NO_LINKS, errno.EINVAL):
                raise
            raise DataError(
                f"the file system of {path.parent} can neither link nor rename a file only if the name is "
                "free "
                f"({os.strerror(exc.errno)}): two runs could publish the same snapshot; give a place on "
                "another one, or an object store"
            ) from None


def _refuse_other(path: Path, data: bytes) -> None:
    if not path.is_file() or path.read_bytes() != data:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None


def _rename_exclusive(source: str, target: str) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), target)
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def delete_local(path: Path) -> None:
    """Remove ``path``."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


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
        except Exception as exc:  # a TimeoutError is an OSError
            from aiohttp import ClientError  # 0.1 s, which workers without S3 do not need

            if not isinstance(exc, (BotoCoreError, ClientError, OSError)):
                raise
            raise _BrokenOff from exc


class _BrokenOff(Exception):
    """The content of an answer ended early or stalled; ``__cause__`` says how."""


async def _get_whole(fs: Any, bucket: str, key: str, max_bytes: int) -> tuple[int, bytes]:
    """``get_object``, tried again when the content breaks off: botocore retries requests, not what is read
    after their answer."""
    for attempt in range(MAX_REQUESTS):
        try:
            return await get_object(fs, bucket, key, max_bytes)
        except _BrokenOff as exc:
            if attempt == MAX_REQUESTS - 1:
                raise exc.__cause__ or exc from None
        await asyncio.sleep(backoff_s(attempt))
    raise AssertionError("the last attempt returns or raises")


def gather_objects(
    fs: Any, keys: Sequence[tuple[str, str]], *, max_bytes: int, num_concurrent: int, timeout_s: float
) -> list[tuple[int, bytes] | BaseException]:
    """``get_object`` for many (bucket, key), ``num_concurrent`` at a time; an error in the place of its
    object."""

    if isinstance(fs, RemoteFileSystem):
        return fs.gather(keys, max_bytes, num_concurrent)
    fast = fast_gets(fs)

    async def get(bucket: str, key: str) -> tuple[int, bytes]:
        store = fast.bucket(bucket)
        found = await store.get(key, max_bytes) if store else None
        return found or await _get_whole(fs, bucket, key, max_bytes)

    async def everything() -> list[tuple[int, bytes] | BaseException]:
        gate = asyncio.Semaphore(num_concurrent)

        async def one(bucket: str, key: str) -> tuple[int, bytes]:
            async with gate:
                return await asyncio.wait_for(get(bucket, key), timeout_s)

        return await asyncio.gather(*(one(b, k) for b, k in keys), return_exceptions=True)

    from fsspec.asyn import sync

    return sync(fs.loop, everything)  # type: ignore[no-any-return]
