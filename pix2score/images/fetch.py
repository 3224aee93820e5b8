"""Bytes of images at places that may be read: files of a disk, objects of stores; failures by name."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from pix2score.errors import AccessError, ImageFailure
from pix2score.images.decode import MAX_BYTES
from pix2score.storage.objects import gather_objects
from pix2score.storage.places import filesystem, split
from pix2score.storage.remote_stores import OddKeyNotReadError
from pix2score.storage.s3_errors import access_problem

NUM_CONCURRENT = (
    32  # per worker: enough to hide object-storage latency of 20-100 ms behind one core of decoding
)
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Larger:
    """Content that exists, but is over what was allowed to be read: its size in bytes."""

    size: int


Found = bytes | ImageFailure | Larger


def path_bytes(path: str) -> bytes:
    """A path as a file system takes it: bytes of UTF-8, as Python itself may think names to be ASCII
    (LC_ALL=C)."""
    return path.encode("utf-8", "surrogateescape")


def content_of(size: int, data: bytes, most_bytes: int) -> Found:
    """What was found: ``data``, or of more than ``most_bytes`` the size."""
    if size > most_bytes:
        return too_large(size) if size > MAX_BYTES else Larger(size)
    return data or ImageFailure("EMPTY", "0 bytes")


def too_large(size: int) -> ImageFailure:
    """Of content over what any image may have."""
    return ImageFailure("TOO_LARGE", f"{size} bytes, over {MAX_BYTES}")


def read_local(places: Sequence[str], most_bytes: int) -> list[Found]:
    """Content of files, or why there is none."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, len(places))) as pool:
        return list(pool.map(lambda place: _read_file(place, most_bytes), places))


def _read_file(place: str, most_bytes: int) -> Found:
    try:
        # O_NONBLOCK: opening a fifo must not wait for a writer.
        handle = os.open(path_bytes(place), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        return _local_failure(exc)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):  # asked before fdopen, which raises for a folder
        os.close(handle)
        return ImageFailure("FORBIDDEN", "not a regular file")
    with os.fdopen(handle, "rb") as file:
        if status.st_size > most_bytes:
            return too_large(status.st_size) if status.st_size > MAX_BYTES else Larger(status.st_size)
        try:
            data = file.read(
                status.st_size + 1
            )  # not most_bytes: so much room would be asked for, and given back, each time
            if len(data) > status.st_size:  # it grows
                data += file.read(most_bytes - status.st_size)
            return data or ImageFailure("EMPTY", "0 bytes")
        except OSError as exc:
            return _local_failure(exc)


def _local_failure(exc: OSError) -> ImageFailure:
    if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        name = exc.filename if isinstance(exc.filename, bytes) else b""
        return ImageFailure("NOT_FOUND", f"no such file: {_plainly(name.decode(errors='backslashreplace'))}")
    if exc.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
        return ImageFailure("FORBIDDEN", os.strerror(exc.errno))
    if exc.errno in (errno.ENXIO, errno.ENODEV):  # a socket, a device without a driver
        return ImageFailure("FORBIDDEN", "not a regular file")
    return ImageFailure("FETCH", f"{type(exc).__name__}: {exc.strerror}")


def _plainly(path: str) -> str:
    """``path``, spelt out where a person would take it for another: spaces at an end, characters without a
    picture, accents as characters of their own."""
    name = path.rpartition("/")[2]
    is_plain = name == name.strip() and path.isprintable() and unicodedata.is_normalized("NFC", path)
    return path if is_plain else ascii(path)


def read_remote(places: Sequence[str], most_bytes: int) -> list[Found]:
    """Content of objects of one kind of store, or why there is none."""
    results: list[tuple[int, bytes] | BaseException]
    try:
        results = gather_objects(
            filesystem(places[0]),
            [split(place) for place in places],
            max_bytes=most_bytes,
            num_concurrent=NUM_CONCURRENT,
            timeout_s=TIMEOUT_S,
        )
    except (BotoCoreError, ClientError, OSError, ValueError) as exc:  # no connection can be made at all
        results = [exc] * len(places)
    return [
        _remote_failure(result, place)
        if isinstance(result, BaseException)
        else content_of(*result, most_bytes)
        for result, place in zip(results, places, strict=True)
    ]


def _remote_failure(exc: BaseException, place: str) -> ImageFailure:
    text = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, OddKeyNotReadError):
        return ImageFailure("NOT_FOUND", str(exc))
    if isinstance(exc, FileNotFoundError):
        return ImageFailure("NOT_FOUND", f"no such object: {place}")
    problem = str(exc) if isinstance(exc, AccessError) else access_problem(exc)
    if problem or isinstance(exc, PermissionError):
        return ImageFailure("FORBIDDEN", problem or "access refused")
    if isinstance(exc, TimeoutError):
        return ImageFailure("TIMEOUT", f"no complete answer in {TIMEOUT_S:g} s")
    return ImageFailure("TIMEOUT" if "Timeout" in type(exc).__name__ else "FETCH", text)
