"""Pictures inside one archive, read in place: tar (also gzipped) and ZIP, as strangers make them.

Nothing is unpacked to a disk: names of members are text and no path. What a member claims is bounded before
it is read: its own size, and what the whole archive expands to.
"""

from __future__ import annotations

import errno
import gzip
import io
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from pix2score.catalog.pictures.kinds import is_hidden
from pix2score.images.decode import MAX_BYTES

MAX_EXPANSION, FREE_BYTES = 100, 2**30
"""An archive of n bytes may expand to ``MAX_EXPANSION`` * n + ``FREE_BYTES``: pictures hardly shrink."""
MAX_SIDECAR_BYTES = 2**20
_HERE = re.compile(r"(^|(?<=/))\./+(?=.)")
"""What a name says of the folder that it is in: of ``tar -cf x.tar .`` all begin so."""
_UNSAFE = re.compile(r"(^|/)\.\.(/|$)|^/|^[A-Za-z]:|\\|[\x00-\x1f]")
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, struct.error),
    *(EOFError, ValueError, OverflowError, NotImplementedError, RecursionError),
)
"""What ``tarfile`` and ``zipfile`` raise of damaged or hostile bytes."""

Told = Callable[[str, str], None]
"""Called with the reason and the name of a member that is left out."""


class DamagedArchive(Exception):
    """The archive cannot be read to its end; the text says why."""


@dataclass(slots=True)
class Member:
    """A picture of an archive."""

    name: str
    data: bytes
    modified: datetime
    beside: dict[str, bytes] = field(default_factory=dict)
    """Suffix -> content of the other files with its key (``txt``, ``json``, ``cls``); shared by the pictures
    of one key."""


def pictures_in(
    stream: IO[bytes], name: str, size: int, is_picture: Callable[[str], bool], told: Told
) -> Iterator[Member]:
    """The pictures of an archive of ``size`` bytes, in its order.

    Files beside a picture are those next to it whose names are the same up to their first dot, as in
    WebDataset. Raises ``DamagedArchive``, after what could be read before the damage.
    """
    most_bytes = MAX_EXPANSION * size + FREE_BYTES
    members = _of_zip if name.lower().endswith(".zip") else _of_tar
    try:
        yield from _grouped(members(stream, most_bytes, is_picture, told), is_picture)
    except _BROKEN as exc:
        raise DamagedArchive(str(exc) or type(exc).__name__) from None
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # a seek to before the beginning
            raise
        raise DamagedArchive("a place before its beginning") from None


def _grouped(members: Iterator[Member], is_picture: Callable[[str], bool]) -> Iterator[Member]:
    """Pictures with what lies beside them."""
    pictures: list[Member] = []
    beside: dict[str, bytes] = {}
    last = None
    for member in members:
        key, suffix = _key(member.name)
        if key != last:
            yield from pictures
            pictures, beside, last = [], {}, key
        if is_picture(member.name):
            member.beside = beside
            pictures.append(member)
        else:
            beside[suffix] = member.data
    yield from pictures


def _key(name: str) -> tuple[str, str]:
    """As WebDataset splits a name: up to the first dot of its last part, and what follows."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _is_wanted(name: str, size: int, is_picture: Callable[[str], bool], told: Told) -> bool:
    """Whether a regular member is read; tells of others that are no plain sidecar."""
    if _UNSAFE.search(name):
        told("unsafe name in an archive", name)
    elif is_hidden(name):
        told("hidden", name)
    elif not is_picture(name):
        return _key(name)[1] in ("txt", "json", "cls") and size <= MAX_SIDECAR_BYTES
    elif size > MAX_BYTES:
        told(f"over {MAX_BYTES // 10**6} MB in an archive", name)
    else:
        return True
    return False


def _of_tar(
    stream: IO[bytes], most_bytes: int, is_picture: Callable[[str], bool], told: Told
) -> Iterator[Member]:
    start = stream.read(2)
    stream.seek(0)
    plain: Any = gzip.GzipFile(fileobj=stream) if start == b"\x1f\x8b" else stream
    bounded = _Bounded(plain, most_bytes)
    with tarfile.open(fileobj=bounded, mode="r:", errors="surrogateescape") as opened:  # type: ignore[call-overload]
        tar: Any = opened  # whose members are not public
        offset = -1
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            if info.size < 0 or tar.offset <= offset:
                raise DamagedArchive(f"a header that claims {info.size} bytes")
            offset = tar.offset
            name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            name = _HERE.sub("", name)
            if info.isdir():
                continue
            if not info.isreg():
                told("link or device in an archive", name)
            elif _is_wanted(name, info.size, is_picture, told):
                file = tar.extractfile(info)
                assert file is not None, "a regular member"
                yield Member(name, file.read(), _instant(info.mtime))
        if bounded.last_block.strip(b"\0"):
            raise DamagedArchive(f"what stands at byte {tar.offset} is no header")


def _of_zip(
    stream: IO[bytes], most_bytes: int, is_picture: Callable[[str], bool], told: Told
) -> Iterator[Member]:
    left = most_bytes
    with zipfile.ZipFile(stream) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if info.is_dir():
                continue
            name = _HERE.sub("", info.filename)
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                told("link or device in an archive", name)
            elif info.flag_bits & 1:
                told("encrypted in an archive", name)
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                told("compressed otherwise than by deflate", name)
            elif _is_wanted(name, info.file_size, is_picture, told):
                data = _zipped(archive, info, told)
                left -= info.file_size
                if left < 0:
                    raise DamagedArchive(f"it expands to over {most_bytes} bytes")
                if data is not None:
                    yield Member(name, data, _zip_time(info))


def _zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, told: Told) -> bytes | None:
    """Content of a member, at most its stated size; None if it is damaged, as the next need not be."""
    try:
        with archive.open(info) as file:
            return file.read(info.file_size)  # of all at once it would make whatever comes out
    except (*_BROKEN, NotImplementedError, RuntimeError):
        told("damaged in an archive", info.filename)
        return None


def _zip_time(info: zipfile.ZipInfo) -> datetime:
    try:
        return datetime(*info.date_time, tzinfo=UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def _instant(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


class _Bounded(io.RawIOBase):
    """A stream that is read up to a place and no further, never much at a time: header and sizes of a tar are
    a stranger's."""

    def __init__(self, stream: Any, most_bytes: int) -> None:
        self._stream, self._most_bytes = stream, most_bytes
        self.last_block = b""
        """The header that was read last; zeros at the end of a tar."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > 2 * MAX_BYTES:
            raise DamagedArchive(f"a header that claims {size} bytes")
        self._check(self._stream.tell() + size)
        found = bytes(self._stream.read(size))
        if size == tarfile.BLOCKSIZE:
            self.last_block = found
        return found

    def seek(self, position: int, whence: int = 0) -> int:
        assert whence == 0, "tarfile seeks from the start"
        self._check(position)
        return int(self._stream.seek(position))

    def tell(self) -> int:
        return int(self._stream.tell())

    def _check(self, position: int) -> None:
        if position > self._most_bytes:
            raise DamagedArchive(f"it expands to over {self._most_bytes} bytes")
