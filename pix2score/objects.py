"""Single objects, whole: put on a disk or into S3 so that they are visible complete or not at all, and many fetched from S3 at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError

from pix2score.errors import DataError
from pix2score.places import MAX_ATTEMPTS, backoff_s


def put_s3(fs: Any, place: str, data: bytes, *, replace: bool) -> None:
    """``place`` holds ``data``. Raises ``FileExistsError`` if it holds something else and ``replace`` is off."""
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
            time.sleep(backoff_s(attempt))
        else:
            return


def put_local(path: Path, data: bytes, *, replace: bool) -> None:
    """As ``put_s3``, by way of a temporary file beside ``path``."""
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
        except Exception as exc:  # a TimeoutError is an OSError
            from aiohttp import ClientError  # 0.1 s, which workers without S3 do not need

            if not isinstance(exc, (BotoCoreError, ClientError, OSError)):
                raise
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
        await asyncio.sleep(backoff_s(attempt))
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
