"""Single objects, whole: put on a disk or into a store so that they are visible complete or not at all,
removed by their literal names, and many fetched from a store at once."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import functools
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError

from pix2score.errors import AccessError, DataError
from pix2score.storage.fast_get import fast_gets
from pix2score.storage.places import MAX_REQUESTS, backoff_s, filesystem, is_remote, is_s3, split
from pix2score.storage.remote import RemoteFileSystem

MAX_READING = 32  # small objects at a time: hides 20 to 100 ms of latency

_REFUSED = ("PreconditionFailed", "pre-conditions", "NotModified", "(304)")
"""Of a PUT whose object exists already; some stores answer 304 instead of 412."""

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # linux/fcntl.h, linux/fs.h

DELETE_KEYS = 1000
"""Of one DeleteObjects request."""


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
    try:
        fs.put_object(place, data, replace=replace)
    except FileExistsError:
        # After a lost answer a retry is refused by what its own first try made.
        if fs.cat_file(place) != data:
            raise


def put_s3(fs: Any, place: str, data: bytes, *, replace: bool) -> None:
    """``place`` holds ``data``.

    Raises ``FileExistsError`` if it holds something else and ``replace`` is off; ``DataError`` if the store
    cannot tell.
    """
    bucket, key = split(place)
    # If-None-Match makes the store itself refuse the second creator; honoured by AWS since 2024 and by moto.
    condition = {} if replace else {"IfNoneMatch": "*"}
    try:
        _put_unless_undecided(fs, {"Bucket": bucket, "Key": key, "Body": data, **condition})
    except OSError as exc:
        text = f"{exc!r} {exc.__cause__!r}"
        if condition and ("NotImplemented" in text or "not implemented" in text):
            raise DataError(
                f"the store of bucket {bucket!r} cannot create an object only if it is absent (PUT with "
                "If-None-Match): two runs could "
                f"publish the same snapshot; give a store that can"
            ) from exc
        if not any(sign in text for sign in _REFUSED):
            raise
        # After a lost answer a retry is refused by what its own first try made.
        if fs.cat_file(place) != data:
            raise FileExistsError(place) from None


def _put_unless_undecided(fs: Any, request: dict[str, Any]) -> None:
    """One PUT; sent again where the store says 409: two creators met, it has not decided between them, and
    neither object may exist."""
    for attempt in range(MAX_REQUESTS):
        try:
            fs.call_s3("put_object", **request)
        except OSError as exc:
            if (
                "ConditionalRequestConflict" not in f"{exc!r} {exc.__cause__!r}"
                or attempt == MAX_REQUESTS - 1
            ):
                raise
            time.sleep(backoff_s(attempt))
        else:
            return


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
    except (FileExistsError, NotADirectoryError):
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


def delete_s3(fs: Any, places: Sequence[str]) -> None:
    """Remove the objects in the given order: one request after the other.

    A store answers 200 and lists what it refused; fsspec drops that list, takes names for patterns and sends
    requests side by side. Raises ``AccessError`` or ``OSError`` at the first request with a refusal, telling
    how many are left.
    """
    for start in range(0, len(places), DELETE_KEYS):
        batch = [split(place) for place in places[start : start + DELETE_KEYS]]
        for bucket in dict.fromkeys(bucket for bucket, _ in batch):
            keys = [{"Key": key} for owner, key in batch if owner == bucket]
            answer = fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            refused = [error for error in answer.get("Errors", ()) if error.get("Code") != "NoSuchKey"]
            if refused:
                raise _refusal(refused, len(places))


def _refusal(refused: Sequence[dict[str, Any]], num_places: int) -> OSError:
    first = refused[0]
    what = (
        f"{len(refused)} or more of {num_places} objects were not removed: {first.get('Code')} for "
        f"{first.get('Key')!r}"
    )
    return (
        AccessError(what)
        if first.get("Code") in ("AccessDenied", "AllAccessDisabled", "Forbidden")
        else OSError(what)
    )


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


def _getter(fs: Any, max_bytes: int) -> Callable[[str, str], Coroutine[Any, Any, tuple[int, bytes]]]:
    if isinstance(fs, RemoteFileSystem):
        return functools.partial(fs.get_object, max_bytes=max_bytes)
    fast = fast_gets(fs)

    async def get(bucket: str, key: str) -> tuple[int, bytes]:
        store = fast.bucket(bucket)
        found = await store.get(key, max_bytes) if store else None
        return found or await _get_whole(fs, bucket, key, max_bytes)

    return get


def gather_objects(
    fs: Any, keys: Sequence[tuple[str, str]], *, max_bytes: int, num_concurrent: int, timeout_s: float
) -> list[tuple[int, bytes] | BaseException]:
    """``get_object`` for many (bucket, key), ``num_concurrent`` at a time; an error in the place of its
    object."""

    get = _getter(fs, max_bytes)

    async def everything() -> list[tuple[int, bytes] | BaseException]:
        gate = asyncio.Semaphore(num_concurrent)

        async def one(bucket: str, key: str) -> tuple[int, bytes]:
            async with gate:
                return await asyncio.wait_for(get(bucket, key), timeout_s)

        return await asyncio.gather(*(one(b, k) for b, k in keys), return_exceptions=True)

    from fsspec.asyn import sync

    return sync(fs.loop, everything)  # type: ignore[no-any-return]
