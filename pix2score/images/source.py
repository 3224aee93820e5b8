"""Reads the bytes that catalog rows name, each as content or as a named failure.

Owns which places may be opened at all: a uri must resolve under the catalog's folder or one of the
``--image-root`` places, and must be a regular file or an S3 object. Nothing else is ever opened, whatever a
catalog says.
"""

from __future__ import annotations

import concurrent.futures
import errno
import os
import posixpath
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from botocore.exceptions import BotoCoreError, ClientError

from pix2score.errors import ConfigError, ImageFailure
from pix2score.images.decode import MAX_BYTES
from pix2score.storage.objects import gather_objects
from pix2score.storage.places import filesystem, is_s3, normalise
from pix2score.storage.s3_errors import access_problem

NUM_CONCURRENT = (
    32  # per worker: enough to hide object-storage latency of 20-100 ms behind one core of decoding
)
TIMEOUT_S = 120.0
MAX_KEY_BYTES = 1024  # of an S3 key
_READ = "s3://bucket/key and paths of files"
_ADVICE = "outside the catalog's folder; --image-root allows more places"
_SHOWN_CHARS = 80
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATA = re.compile(r"data:[\w.+-]*(/[\w.+-]+)?(;[\w.=+-]+)*,", re.IGNORECASE)
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_LOCAL = re.compile(r"//(?:localhost)?(/.*)|(/(?!/).*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Larger:
    """Content that exists, but is over what was allowed to be read: its size in bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The catalog's folder and the other places that images may come from."""

    folder: str
    image_roots: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """Every place that may be read."""
        return (self.folder, *self.image_roots)

    def read_many(self, uris: Sequence[str]) -> list[bytes | ImageFailure]:
        """Content of each uri in order, or why there is none (NOT_FOUND, FORBIDDEN, TIMEOUT, FETCH, EMPTY,
        TOO_LARGE)."""
        found = self.read_up_to(MAX_BYTES, uris)
        return [_too_large(content.size) if isinstance(content, Larger) else content for content in found]

    def read_up_to(self, most_bytes: int, uris: Sequence[str]) -> list[bytes | ImageFailure | Larger]:
        """As ``read_many``, but of content over ``most_bytes`` only the size: memory is bounded before
        anything is read."""
        places = [self._resolve_or_fail(uri) for uri in uris]
        content: list[bytes | ImageFailure | Larger] = [
            p if isinstance(p, ImageFailure) else b"" for p in places
        ]
        remote = [i for i, p in enumerate(places) if isinstance(p, str) and is_s3(p)]
        local = [i for i, p in enumerate(places) if isinstance(p, str) and not is_s3(p)]
        for indices, read in ((remote, _read_s3), (local, _read_local)):
            wanted = [place for i in indices if isinstance(place := places[i], str)]
            for i, result in zip(indices, read(wanted, most_bytes) if wanted else [], strict=True):
                content[i] = result
        return content

    def resolve(self, uri: str) -> str:
        """Absolute place that ``uri`` may be read from. Raises ``ImageFailure``: FORBIDDEN, or NOT_FOUND for
        what can be no name."""
        plain = plain_uri(uri)
        if is_s3(plain):
            place = _object(plain)
        elif is_s3(self.folder) and not plain.startswith("/"):
            place = _object(f"{self.folder}/{_below(plain)}")
        else:
            place = _real_path(os.path.join(self.folder, plain)) + "/" * plain.endswith("/")
        if not any(_is_under(place, root) for root in (self.folder, *self.image_roots)):
            raise _outside(uri)
        return place

    def _resolve_or_fail(self, uri: str) -> str | ImageFailure:
        try:
            return self.resolve(uri)
        except ImageFailure as failure:
            return failure


def image_source(folder: str, image_roots: Sequence[str]) -> ImageSource:
    """An ``ImageSource`` of normalised places; local ones with links resolved. Raises ``ConfigError`` naming
    a root that cannot be one."""
    return ImageSource(_real(normalise(folder)), tuple(_real(_root(root)) for root in image_roots))


def _root(place: str) -> str:
    try:
        return normalise(plain_uri(place))
    except ImageFailure as failure:
        raise ConfigError(f"--image-root {place}: {failure.detail}") from None


def plain_uri(uri: str) -> str:
    """``uri`` as s3://bucket/key or a path: s3a:// and s3n:// are other words for the first, file:// (RFC
    8089) for the second.

    Raises ``ImageFailure`` FORBIDDEN for anything else that is no path; its detail says what it is and what
    is read.
    """
    scheme, separator, rest = uri.partition(":")
    scheme = scheme.lower()
    if scheme in ("s3", "s3a", "s3n") and rest.startswith("//"):
        return f"s3:{rest}"
    if scheme == "file" and (local := _LOCAL.match(rest)):
        return unquote_to_bytes(local[1] or local[2]).decode("utf-8", "surrogateescape")
    if scheme == "file" and rest.startswith("//"):
        raise ImageFailure("FORBIDDEN", f"file: of another host is not read, only {_READ}: {_shown(uri)}")
    if separator and (_SCHEME.match(uri) or _DATA.match(uri)):
        raise ImageFailure("FORBIDDEN", f"{scheme}: is not read, only {_READ}: {_shown(uri)}")
    if _WINDOWS.match(uri):
        raise ImageFailure("FORBIDDEN", f"a path of Windows is not read, only {_READ}: {_shown(uri)}")
    return uri


def is_outside(failure: ImageFailure) -> bool:
    """Whether it says that another ``--image-root`` would let the image be read."""
    return failure.code == "FORBIDDEN" and failure.detail.endswith(_ADVICE)


def _outside(uri: str) -> ImageFailure:
    return ImageFailure("FORBIDDEN", f"{_shown(uri)} is {_ADVICE}")


def _shown(uri: str) -> str:
    """For a message of one line, which has 200 characters in all."""
    text = repr(uri)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _object(place: str) -> str:
    """``place`` on S3, if an object may be named so."""
    key = place[5:].partition("/")[2]
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ImageFailure(
            "NOT_FOUND", f"no object has such a key, it is not Unicode: {_shown(place)}"
        ) from None
    if size > MAX_KEY_BYTES:
        raise ImageFailure("NOT_FOUND", f"no object has a key of {size} bytes: {_shown(place)}")
    return place


def _below(path: str) -> str:
    """A relative path as the key below the catalog that it is, verbatim. Raises ``ImageFailure`` if as a path
    it leads elsewhere."""
    if f"{posixpath.normpath(path)}/".startswith(("../", "/")):
        raise _outside(path)
    return path


def _real(place: str) -> str:
    return place if is_s3(place) else _real_path(place)


def _real_path(path: str) -> str:
    """An absolute path without links. By bytes of UTF-8, as Python itself may think names to be ASCII
    (LC_ALL=C)."""
    try:
        return os.path.realpath(_path_bytes(path)).decode("utf-8", "surrogateescape")
    except ValueError:  # also of UnicodeEncodeError
        raise ImageFailure("FORBIDDEN", f"no file can have this name: {_shown(path)}") from None


def _path_bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _is_under(place: str, root: str) -> bool:
    return is_s3(place) == is_s3(root) and place.startswith(root.rstrip("/") + "/")


def _too_large(size: int) -> ImageFailure:
    return ImageFailure("TOO_LARGE", f"{size} bytes, over {MAX_BYTES}")


def _read_local(places: Sequence[str], most_bytes: int) -> list[bytes | ImageFailure | Larger]:
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, len(places))) as pool:
        return list(pool.map(lambda place: _read_file(place, most_bytes), places))


def _read_file(place: str, most_bytes: int) -> bytes | ImageFailure | Larger:
    try:
        # O_NONBLOCK: opening a fifo must not wait for a writer.
        handle = os.open(_path_bytes(place), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        return _local_failure(exc)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):  # asked before fdopen, which raises for a folder
        os.close(handle)
        return ImageFailure("FORBIDDEN", "not a regular file")
    with os.fdopen(handle, "rb") as file:
        if status.st_size > most_bytes:
            return _too_large(status.st_size) if status.st_size > MAX_BYTES else Larger(status.st_size)
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
        return ImageFailure("NOT_FOUND", f"no such file: {name.decode(errors='backslashreplace')}")
    if exc.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
        return ImageFailure("FORBIDDEN", os.strerror(exc.errno))
    if exc.errno in (errno.ENXIO, errno.ENODEV):  # a socket, a device without a driver
        return ImageFailure("FORBIDDEN", "not a regular file")
    return ImageFailure("FETCH", f"{type(exc).__name__}: {exc.strerror}")


def _read_s3(places: Sequence[str], most_bytes: int) -> list[bytes | ImageFailure | Larger]:
    keys = [(bucket, key) for bucket, _, key in (place[5:].partition("/") for place in places)]
    results: list[tuple[int, bytes] | BaseException]
    try:
        results = gather_objects(
            filesystem(places[0]),
            keys,
            max_bytes=most_bytes,
            num_concurrent=NUM_CONCURRENT,
            timeout_s=TIMEOUT_S,
        )
    except (BotoCoreError, ClientError, OSError, ValueError) as exc:  # no connection can be made at all
        results = [exc] * len(places)
    return [_s3_content(result, place, most_bytes) for result, place in zip(results, places, strict=True)]


def _s3_content(
    result: tuple[int, bytes] | BaseException, place: str, most_bytes: int
) -> bytes | ImageFailure | Larger:
    if isinstance(result, BaseException):
        return _s3_failure(result, place)
    size, data = result
    if size > most_bytes:
        return _too_large(size) if size > MAX_BYTES else Larger(size)
    return data or ImageFailure("EMPTY", "0 bytes")


def _s3_failure(exc: BaseException, place: str) -> ImageFailure:
    text = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, FileNotFoundError):
        return ImageFailure("NOT_FOUND", f"no such object: {place}")
    problem = access_problem(exc)
    if problem or isinstance(exc, PermissionError):
        return ImageFailure("FORBIDDEN", problem or "access refused")
    if isinstance(exc, TimeoutError):
        return ImageFailure("TIMEOUT", f"no complete answer in {TIMEOUT_S:g} s")
    return ImageFailure("TIMEOUT" if "Timeout" in type(exc).__name__ else "FETCH", text)
