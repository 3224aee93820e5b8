"""Reads the bytes that catalog rows name, each as content or as a named failure.

Owns which places may be opened at all: a uri must resolve under the catalog's folder or one of the
``--image-root`` places, and must be a regular file or an object of a store. Nothing else is ever opened,
whatever a catalog says.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from pix2score.errors import AccessError, ConfigError, ImageFailure
from pix2score.images.decode import MAX_BYTES
from pix2score.images.fetch import Found, Larger, path_bytes, read_local, read_remote, too_large
from pix2score.images.https import read_https, web_root, web_uri, without_query
from pix2score.storage.places import canonical, is_remote, normalise, split

MAX_KEY_BYTES = 1024  # of a key; Azure's 1,024 are characters
_READ = "s3://bucket/key (gs://, az://), https:// and paths of files"
_ADVICE = "outside the catalog's folder; --image-root allows more places"
_SHOWN_CHARS = 80
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATA = re.compile(r"data:[\w.+-]*(/[\w.+-]+)?(;[\w.=+-]+)*,", re.IGNORECASE)
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_LOCAL = re.compile(r"//(?:localhost)?(/.*)|(/(?!/).*)", re.IGNORECASE | re.DOTALL)


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
        return [too_large(content.size) if isinstance(content, Larger) else content for content in found]

    def read_up_to(self, most_bytes: int, uris: Sequence[str]) -> list[Found]:
        """As ``read_many``, but of content over ``most_bytes`` only the size: memory is bounded before
        anything is read."""
        places = [self._resolve_or_fail(uri) for uri in uris]
        content: list[Found] = [p if isinstance(p, ImageFailure) else b"" for p in places]
        for scheme in dict.fromkeys(_scheme(place) for place in places if isinstance(place, str)):
            indices = [i for i, p in enumerate(places) if isinstance(p, str) and _scheme(p) == scheme]
            found = self._reader(scheme)([str(places[i]) for i in indices], most_bytes)
            for i, result in zip(indices, found, strict=True):
                content[i] = result
        return content

    def _reader(self, scheme: str) -> Callable[[Sequence[str], int], list[Found]]:
        if scheme == "https":
            return functools.partial(read_https, roots=self.image_roots)
        return read_remote if scheme else read_local

    def resolve(self, uri: str) -> str:
        """Absolute place that ``uri`` may be read from. Raises ``ImageFailure``: FORBIDDEN, or NOT_FOUND for
        what can be no name."""
        plain = plain_uri(uri)
        if not plain:
            raise ImageFailure("FORBIDDEN", "the uri of the catalog row is empty")
        if _scheme(plain):
            place = plain if _scheme(plain) == "https" else _object(plain)
        elif is_remote(self.folder) and not plain.startswith("/"):
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
        plain = plain_uri(place)
        return web_root(plain) if _scheme(plain) == "https" else normalise(plain)
    except ImageFailure as failure:
        raise ConfigError(f"--image-root {place}: {failure.detail}") from None


def _scheme(place: str) -> str:
    """Of a place in a store or a uri of a web server; empty for a path."""
    return place.partition("://")[0] if is_remote(place) or place.startswith("https://") else ""


def plain_uri(uri: str) -> str:
    """``uri`` as s3://bucket/key (gs://, az://) or a path: s3a:// and s3n:// are other words for the first,
    file:// (RFC 8089) for the second.

    Raises ``ImageFailure`` FORBIDDEN for anything else that is no path; its detail says what it is and what
    is read.
    """
    scheme, separator, rest = uri.partition(":")
    scheme = scheme.lower()
    if scheme in ("s3", "s3a", "s3n") and rest.startswith("//"):
        return f"s3:{rest}"
    if scheme in ("gs", "gcs", "az", "abfs", "abfss") and rest.startswith("//"):
        return _of_store(f"{scheme}:{rest}")
    if scheme == "https" and rest.startswith("//"):
        return web_uri(f"https:{rest}")
    if scheme == "file" and (local := _LOCAL.match(rest)):
        return unquote_to_bytes(local[1] or local[2]).decode("utf-8", "surrogateescape")
    if scheme == "file" and rest.startswith("//"):
        raise ImageFailure("FORBIDDEN", f"file: of another host is not read, only {_READ}: {_shown(uri)}")
    if separator and (_SCHEME.match(uri) or _DATA.match(uri)):
        raise ImageFailure("FORBIDDEN", f"{scheme}: is not read, only {_READ}: {_shown(uri)}")
    if _WINDOWS.match(uri):
        raise ImageFailure("FORBIDDEN", f"a path of Windows is not read, only {_READ}: {_shown(uri)}")
    return uri


def _of_store(uri: str) -> str:
    try:
        return canonical(uri)
    except AccessError as exc:
        raise ImageFailure("FORBIDDEN", str(exc)) from None


def is_outside(failure: ImageFailure) -> bool:
    """Whether it says that another ``--image-root`` would let the image be read."""
    return failure.code == "FORBIDDEN" and failure.detail.endswith(_ADVICE)


def _outside(uri: str) -> ImageFailure:
    shown = without_query(uri) if uri.lower().startswith("https:") else uri
    return ImageFailure("FORBIDDEN", f"{_shown(shown)} is {_ADVICE}")


def _shown(uri: str) -> str:
    """For a message of one line, which has 200 characters in all."""
    text = repr(uri)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _object(place: str) -> str:
    """``place`` in a store, if an object may be named so."""
    key = split(place)[1]
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
    return place if _scheme(place) else _real_path(place)


def _real_path(path: str) -> str:
    """An absolute path without links."""
    try:
        return os.path.realpath(path_bytes(path)).decode("utf-8", "surrogateescape")
    except ValueError:  # also of UnicodeEncodeError
        raise ImageFailure("FORBIDDEN", f"no file can have this name: {_shown(path)}") from None


def _is_under(place: str, root: str) -> bool:
    return _scheme(place) == _scheme(root) and place.startswith(root.rstrip("/") + "/")
