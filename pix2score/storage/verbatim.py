"""Listings with every key as it is, by plain requests: obstore's listing fails at a key with an empty part,
``.``, ``..`` or a control character, and loses a slash before or behind a key.

How a store is asked and how its answer is read stand in ``google`` and ``azure``.
"""

from __future__ import annotations

import http.client
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

TRIES = 6
TIMEOUT_S = 60
_AGAIN = (408, 429, 500, 502, 503, 504)


class Found(NamedTuple):
    """One object, as obstore tells of it."""

    path: str
    size: int
    e_tag: str | None
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: objects, folders (with a slash at their ends), and the mark of the next page,
    empty behind the last."""

    objects: Sequence[Found]
    folders: Sequence[str]
    mark: str


class Lister(Protocol):
    """A store that can be asked so."""

    def listing_request(self, bucket: str, query: ListingQuery) -> urllib.request.Request:
        """The request for one page, with credentials. Raises ``ListingNotPossibleError``."""

    def read_listing(self, body: bytes) -> Page:
        """Its answer."""


class ListingQuery(NamedTuple):
    """What is listed: keys that begin with ``prefix``; with ``is_level``, up to the next slash; ``most`` of
    them in one page and no other, if that is given."""

    prefix: str
    is_level: bool
    most: int | None
    mark: str = ""


class ListingNotPossibleError(Exception):
    """Such a request cannot be made with these credentials; says what to do."""


class ListingRefusedError(Exception):
    """The store's words on why it does not list."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status = status


def verbatim_pages(store: Lister, bucket: str, query: ListingQuery) -> Iterator[Page]:
    """Every page. Raises ``ListingNotPossibleError``, ``ListingRefusedError``, or ``OSError`` after ``TRIES``
    tries of one."""
    while True:
        page = store.read_listing(_answer(store, bucket, query))
        yield page
        if not page.mark or query.most:
            return
        query = query._replace(mark=page.mark)


def _answer(store: Lister, bucket: str, query: ListingQuery) -> bytes:
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(store.listing_request(bucket, query), timeout=TIMEOUT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as exc:
            body = exc.read().decode(errors="replace")
            if exc.code not in _AGAIN or attempt == TRIES - 1:
                raise ListingRefusedError(exc.code, body) from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as exc:
            if attempt == TRIES - 1:
                raise OSError(f"{type(exc).__name__}: {exc}") from None
        time.sleep(random.uniform(0, 0.2 * 2**attempt))
    raise AssertionError("the last attempt returns or raises")
