"""What a replica lets in: bodies up to a size, so many pictures at a time, each request for so long.

As ASGI around the application: a body that is too large is refused before it is read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pix2score.service.config import AppConfig
from pix2score.service.numbers import Numbers
from pix2score.service.refusals import Refused, busy, too_large

logger = logging.getLogger(__name__)
BODIES = 4
"""So many of the largest bodies may be in memory at a time."""
ROUTES = ("/predict", "/similar", "/picture", "/model", "/healthz", "/readyz", "/metrics", "/docs", "/")
"""Named in the numbers; everything else is ``other``, so that no stranger makes names."""


class Queue:
    """Pictures and bytes of bodies that a replica is at work on."""

    def __init__(self, config: AppConfig, numbers: Numbers) -> None:
        self._most, self._most_bytes = config.max_queue, BODIES * config.max_body_bytes
        self._pictures = self._bytes = 0
        self._numbers = numbers

    def check(self) -> None:
        """Raise ``Refused`` (429) if no further picture is let in: asked before a body is read."""
        if self._pictures >= self._most:
            raise busy(f"{self._pictures} pictures are being worked on; come back a little later")

    @contextmanager
    def pictures(self, num: int) -> Iterator[None]:
        """Work on ``num`` pictures inside the block. Raises ``Refused`` (429) if there are too many."""
        if self._pictures + num > self._most:
            raise busy(
                f"{self._pictures} pictures are being worked on, {num} more are too many; come back a little "
                "later"
            )
        self._change(num)
        try:
            yield
        finally:
            self._change(-num)

    def _change(self, num: int) -> None:
        self._pictures += num
        self._numbers.show_queue(self._pictures)

    def take_bytes(self, num: int) -> None:
        """A part of a body came. Raises ``Refused`` (429) if all bodies together are too many."""
        if self._bytes + num > self._most_bytes:
            raise busy("too many large requests at a time; come back a little later")
        self._bytes += num

    def give_bytes(self, num: int) -> None:
        """A request is done with its body."""
        self._bytes -= num


class Admission:
    """The application with its limits, and its requests counted."""

    def __init__(self, app: ASGIApp, config: AppConfig, queue: Queue, numbers: Numbers) -> None:
        self._app, self._config, self._queue, self._numbers = app, config, queue, numbers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = _Sent(send)
        start = time.perf_counter()
        try:
            await self._answered(scope, receive, sent)
        finally:
            status = sent.status or 499  # the client went away
            self._numbers.count_request(_route(scope), status, time.perf_counter() - start)

    async def _answered(self, scope: Scope, receive: Receive, sent: _Sent) -> None:
        body = _Body(receive, self._config.max_body_bytes, self._queue)
        try:
            self._check(scope)
            async with asyncio.timeout(self._config.max_seconds):
                await self._app(scope, body, sent)
        except Refused as refused:
            await _tell(refused, scope, receive, sent)
        except TimeoutError:
            detail = f"no answer within {self._config.max_seconds:g} s"
            await _tell(Refused(504, "TIMEOUT", detail), scope, receive, sent)
        finally:
            self._queue.give_bytes(body.num_bytes)

    def _check(self, scope: Scope) -> None:
        """Raise ``Refused`` for what need not be read."""
        most = self._config.max_body_bytes
        length = _content_length(scope)
        if length > most:
            raise too_large(f"a body of {length} bytes, over {most}")
        if scope["method"] == "POST":
            self._queue.check()


class _Sent:
    """Sends, and keeps the status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class _Body:
    """Receives, and counts: Content-Length may be missing. Raises ``Refused``."""

    def __init__(self, receive: Receive, most: int, queue: Queue) -> None:
        self._receive, self._most, self._queue, self.num_bytes = receive, most, queue, 0

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        size = len(message.get("body", b""))
        if size:
            if self.num_bytes + size > self._most:
                raise too_large(f"a body of more than {self._most} bytes")
            self._queue.take_bytes(size)
            self.num_bytes += size
        return message


async def _tell(refused: Refused, scope: Scope, receive: Receive, sent: _Sent) -> None:
    if sent.status:  # the answer had begun: cut off, the client sees that it is not whole
        logger.warning("%s: %s after the answer had begun", scope["path"], refused.code)
        return
    await refused.response()(scope, receive, sent)


def _content_length(scope: Scope) -> int:
    found = dict(scope["headers"]).get(b"content-length", b"0")
    return int(found) if found.isdigit() else 0


def _route(scope: Scope) -> str:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return path if path in ROUTES else "other"
