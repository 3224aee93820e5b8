"""Images of web servers, by https only: which uris may be read, and their bytes or a named failure.

A uri must lie below an ``--image-root https://host/path``. Redirects are not followed; which addresses are
connected to says ``web_addresses``.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pix2score.errors import ImageErrorCode, ImageFailure
from pix2score.images.decode import MAX_BYTES
from pix2score.images.fetch import NUM_CONCURRENT, TIMEOUT_S, Found, Larger, content_of, too_large
from pix2score.images.web_addresses import PrivateAddressError, checked_resolver
from pix2score.storage.places import MAX_BACKOFF_S, MAX_REQUESTS, backoff_s
from pix2score.storage.remote_stores import CONNECT_TIMEOUT_S, READ_TIMEOUT_S

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from aiohttp.abc import AbstractResolver

PER_HOST = 8
"""Requests at a time to one host, of a worker."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_STATUS: dict[int, tuple[ImageErrorCode, str]] = {
    401: ("FORBIDDEN", "the server wants a login"),
    403: ("FORBIDDEN", "the server refuses it"),
    404: ("NOT_FOUND", "no such image"),
    410: ("NOT_FOUND", "no such image any more"),
    451: ("FORBIDDEN", "the server may not give it"),
}
_TRY_AGAIN = (408, 425, 429, *range(500, 600))
_TIMED_OUT = (408, 504, 522, 524)
_REDIRECTS = (301, 302, 303, 307, 308)
_PACKED = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}
"""Encodings that change the bytes; servers also say ``binary``, ``none``, ``utf-8`` or ``aws-chunked`` of
bytes as they are."""
_DISTRUST = {9: "not valid yet", 10: "expired", 62: "for another host", 64: "for another host"}
"""By OpenSSL's number of what is wrong with a certificate (X509_V_ERR)."""
_MAX_FIELD_BYTES = 64 * 2**10
"""Of one line of an answer's head; aiohttp would take 8 kB."""


def web_uri(uri: str) -> str:
    """``uri`` in one spelling: host in small letters, what must be is percent-encoded, no port 443.

    Raises ``ImageFailure`` FORBIDDEN for what is never asked for: a login in it, a ``#``, ``.`` and ``..``
    as parts of the path however they are encoded, no host.
    """
    from yarl import URL

    try:
        url = URL(uri)
        host, path = url.raw_host, re.split(r"[?#]", uri.partition("://")[2], maxsplit=1)[0]
        login = "@" in path.partition("/")[0] or url.user is not None
        is_odd = not host or url.port in (None, 0) or "#" in uri
    except ValueError:
        raise ImageFailure("FORBIDDEN", "a uri that is none is not read") from None
    if login:
        raise ImageFailure("FORBIDDEN", f"a uri with a login in it is not read: {host}")
    if is_odd or _has_dots(path.partition("/")[2]) or _CONTROL.search(uri):
        raise ImageFailure("FORBIDDEN", f"a uri with '#', '.' or '..' is not read: {without_query(uri)}")
    return str(url)


def web_root(root: str) -> str:
    """An ``--image-root`` in the spelling of ``web_uri``, without a slash at its end.

    Raises ``ImageFailure``.
    """
    if "?" in root:
        raise ImageFailure("FORBIDDEN", "a root has no '?'")
    return web_uri(root).rstrip("/")


def without_query(uri: str) -> str:
    """``uri`` for a message: a query may hold a signature."""
    return uri.partition("?")[0]


def _has_dots(path: str) -> bool:
    while (decoded := unquote(path)) != path:
        path = decoded
    return any(part in (".", "..") for part in re.split(r"[/\\]", path))


def read_https(places: Sequence[str], most_bytes: int, roots: Sequence[str]) -> list[Found]:
    """Content of ``web_uri``s that lie below ``roots``, in order, or why there is none."""
    from fsspec.asyn import get_loop, sync

    own = frozenset(_host(root) for root in roots if root.startswith("https://"))
    found: list[Found] = sync(get_loop(), _reader(own, os.getpid()).read, list(places), most_bytes)
    return found


@functools.lru_cache(maxsize=4)
def _reader(own_hosts: frozenset[str], _pid: int) -> WebReader:
    """One for each set of roots of a process: its connections are used again."""
    from fsspec.asyn import get_loop, sync

    reader = WebReader(own_hosts)
    atexit.register(lambda: sync(get_loop(), reader.close, timeout=5))
    return reader


def _host(url: str) -> str:
    from yarl import URL

    return URL(url).raw_host or ""


class WebReader:
    """Fetches images; used from one event loop. ``resolver``: aiohttp's way to addresses, before they are
    checked."""

    def __init__(
        self,
        own_hosts: frozenset[str],
        *,
        resolver: AbstractResolver | None = None,
        timeout_s: float = TIMEOUT_S,
        stall_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._own_hosts, self._inner = own_hosts, resolver
        self._timeout_s, self._stall_s = timeout_s, stall_s
        self._session: Any = None
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._paused_until: dict[str, float] = {}

    async def read(self, urls: list[str], most_bytes: int) -> list[Found]:
        """Content of each in order, or why there is none."""
        gate = asyncio.Semaphore(NUM_CONCURRENT)

        async def one(url: str) -> Found:
            async with self._gates.setdefault(_host(url), asyncio.Semaphore(PER_HOST)), gate:
                try:
                    return await asyncio.wait_for(self._patiently(url, most_bytes), self._timeout_s)
                except TimeoutError:
                    return ImageFailure("TIMEOUT", f"no complete answer in {self._timeout_s:g} s")

        return list(await asyncio.gather(*map(one, urls)))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _patiently(self, url: str, most_bytes: int) -> Found:
        """Tried again where that may help, after the time that the server asks for."""
        host = _host(url)
        for attempt in range(MAX_REQUESTS):
            await asyncio.sleep(max(0.0, self._paused_until.get(host, 0.0) - time.monotonic()))
            try:
                return await self._once(url, most_bytes)
            except _Again as again:
                if attempt == MAX_REQUESTS - 1 or again.wait_s > MAX_BACKOFF_S:
                    return again.failure
                if again.wait_s:
                    self._paused_until[host] = time.monotonic() + again.wait_s
                else:
                    await asyncio.sleep(backoff_s(attempt))
        raise AssertionError("the last attempt returns")

    async def _once(self, url: str, most_bytes: int) -> Found:
        import aiohttp

        try:
            async with self._answer(url) as answer:
                return await self._content(answer, most_bytes)
        except PrivateAddressError as exc:
            return ImageFailure("FORBIDDEN", str(exc))
        except aiohttp.ClientConnectorCertificateError as exc:
            wrong = _DISTRUST.get(
                getattr(exc.certificate_error, "verify_code", 0), "not trusted (SSL_CERT_FILE)"
            )
            return ImageFailure("FETCH", f"the certificate of {_host(url)} is {wrong}")
        except (TimeoutError, aiohttp.ServerTimeoutError):
            raise _Again(ImageFailure("TIMEOUT", f"nothing came for {self._stall_s:g} s")) from None
        except aiohttp.ClientResponseError as exc:
            reason = exc.message.strip().partition("\n")[0].rstrip(":")
            raise _Again(ImageFailure("FETCH", f"the answer of {_host(url)} is no HTTP: {reason}")) from None
        except (aiohttp.ClientError, OSError) as exc:
            raise _Again(ImageFailure("FETCH", f"{type(exc).__name__} of {_host(url)}")) from None

    @contextlib.asynccontextmanager
    async def _answer(self, url: str) -> AsyncIterator[ClientResponse]:
        from yarl import URL

        async with self._client().get(URL(url, encoded=True), allow_redirects=False) as answer:
            yield answer

    def _client(self) -> Any:
        if self._session is None:
            import aiohttp

            checked = checked_resolver(self._own_hosts, self._inner)
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=self._stall_s
            )
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=checked,
                    limit=NUM_CONCURRENT,
                    use_dns_cache=False,
                    ssl=ssl.create_default_context(),  # aiohttp's own is made at import, before SSL_CERT_FILE
                ),
                headers={"Accept-Encoding": "identity", "User-Agent": "pix2score"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_line_size=_MAX_FIELD_BYTES,
                max_field_size=_MAX_FIELD_BYTES,
                timeout=timeout,
            )
        return self._session

    async def _content(self, answer: ClientResponse, most_bytes: int) -> Found:
        if answer.status != 200:
            return _refusal(answer)
        encoding = answer.headers.get("Content-Encoding", "").lower()
        if not _PACKED.isdisjoint(part.strip() for part in encoding.split(",")):
            return ImageFailure("FETCH", f"the server sends it as {encoding[:20]}, though asked not to")
        size = answer.content_length
        if size is not None and size > most_bytes:
            return content_of(size, b"", most_bytes)
        data = bytearray()
        async for chunk in answer.content.iter_any():
            data += chunk
            if len(data) > most_bytes:  # it did not say how large it is
                return too_large(len(data)) if most_bytes >= MAX_BYTES else Larger(MAX_BYTES)
        return content_of(len(data), bytes(data), most_bytes)


class _Again(Exception):
    """What failed may go well another time; ``wait_s``: as the server asks, or 0."""

    def __init__(self, failure: ImageFailure, wait_s: float = 0.0) -> None:
        super().__init__(failure)
        self.failure, self.wait_s = failure, wait_s


def _refusal(answer: ClientResponse) -> ImageFailure:
    """Why there is no content. Raises ``_Again`` where there may be some later."""
    status = answer.status
    if status in _REDIRECTS:
        target = without_query(answer.headers.get("Location", "nowhere"))
        return ImageFailure("FORBIDDEN", f"a redirect is not followed (status {status}, to {target[:80]})")
    fails = "the server fails" if status in _TRY_AGAIN else "the server gives no image"
    code, words = _STATUS.get(status, ("FETCH", fails))
    failure = ImageFailure(code, f"{words} (status {status})")
    if status in _TRY_AGAIN:
        failure = ImageFailure("TIMEOUT", failure.detail) if status in _TIMED_OUT else failure
        raise _Again(failure, _retry_after_s(answer.headers.get("Retry-After", "")))
    return failure


def _retry_after_s(text: str) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 if it is neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0
