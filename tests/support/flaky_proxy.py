"""An HTTP proxy before the S3 server that fails as object stores do: a process of its own, told by a file
what to do.

Run as ``python -m tests.support.flaky_proxy UPSTREAM CONTROL``; prints its port. ``CONTROL`` holds ``Faults``
as JSON and is read again whenever it was replaced. Own paths begin with ``/-/``: ``served`` (how often each
object's content went out whole), ``failed``, ``waiting``, ``forget`` (count anew).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from tests.support.paths import ROOT

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "expect", "date", "server"}


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What happens to requests. Shares are of all requests; places are ``bucket/key`` prefixes."""

    slow_down: float = 0.0
    """Share answered 503 SlowDown."""
    reset: float = 0.0
    """Share whose connection is reset before they reach the store."""
    cut: float = 0.0
    """Share that reach the store, but whose answer is reset: in the middle of its body if it has one."""
    stall: float = 0.0
    """Share that wait ``stall_s`` first."""
    stall_s: float = 1.0
    slow_below: str = ""
    """GETs below it wait ``slow_s``."""
    slow_s: float = 0.0
    cut_below: str = ""
    """Every GET below it breaks off in the middle of the body."""
    expired_below: str = ""
    """GETs below it are answered 403 ExpiredToken ..."""
    expired_after: int = 0
    """... once so many were served."""
    unwritable: str = ""
    """PUTs below it are answered ``unwritable_code``."""
    unwritable_code: str = "AccessDenied"
    undeletable: bool = False
    """DeleteObjects is answered 200 with AccessDenied for every key, as a role without that right is told."""
    conditions: str = "kept"
    """PUTs with If-None-Match: kept, ignored, or refused with 501, as stores do that do not know it."""
    meet_at: str = ""
    """PUTs of keys that contain it wait for each other ..."""
    meet_number: int = 2
    """... until so many are there."""


STATUS = {
    "SlowDown": 503,
    "ExpiredToken": 403,
    "AccessDenied": 403,
    "InsufficientStorage": 507,
    "NotImplemented": 501,
}
MEETING_S = 45.0  # below the read timeout of the clients


@dataclass
class Proxy:
    """The server's state."""

    upstream: str
    control: Path
    faults: Faults = field(default_factory=Faults)
    version: tuple[int, int] = (0, 0)
    served: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    """What was done to requests, by name of the fault."""
    random: random.Random = field(default_factory=lambda: random.Random(0))
    waiting: int = 0
    met: asyncio.Event = field(default_factory=asyncio.Event)

    def current(self) -> Faults:
        """What ``control`` says now."""
        status = os.stat(self.control)
        if (status.st_mtime_ns, status.st_ino) != self.version:
            self.version = (status.st_mtime_ns, status.st_ino)
            self.faults = Faults(**json.loads(self.control.read_text()))
            self.waiting, self.met = 0, asyncio.Event()
        return self.faults

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request, with whatever goes wrong with it."""
        if request.path.startswith("/-/"):
            return self._about_itself(request.path)
        body, place, faults = await request.read(), request.path.lstrip("/"), self.current()
        is_read = request.method == "GET"
        refusal = self._refusal(
            request.method, place, faults, is_conditional="If-None-Match" in request.headers
        )
        if refusal:
            self.failed[refusal] += 1
            return _error(refusal)
        if faults.undeletable and request.method == "POST" and "delete" in request.query:
            self.failed["undeletable"] += 1
            return _undeleted(body)
        dice = self.random.random()
        if dice < faults.reset:
            self.failed["reset"] += 1
            return _abort(request)
        if dice < faults.reset + faults.stall:
            self.failed["stall"] += 1
            await asyncio.sleep(faults.stall_s)
        if faults.slow_below and is_read and place.startswith(faults.slow_below):
            await asyncio.sleep(faults.slow_s)
        if faults.meet_at and request.method == "PUT" and faults.meet_at in place:
            await self._meet(faults.meet_number)
        answer, content = await self._forward(request, body)
        is_cut = bool(faults.cut_below) and is_read and place.startswith(faults.cut_below)
        if is_cut or self.random.random() < faults.cut:
            self.failed["cut"] += 1
            return await _cut(request, answer, content)
        if is_read and answer.status in (200, 206):
            self.served[place] += 1
        return web.Response(status=answer.status, headers=_kept(answer.headers), body=content)

    def _about_itself(self, path: str) -> web.Response:
        if path == "/-/forget":
            self.served.clear()
            self.failed.clear()
        facts: dict[str, object] = {
            "/-/waiting": self.waiting,
            "/-/served": self.served,
            "/-/failed": self.failed,
        }
        return web.json_response(facts.get(path))

    def _refusal(self, method: str, place: str, faults: Faults, *, is_conditional: bool) -> str | None:
        if self.random.random() < faults.slow_down:
            return "SlowDown"
        if faults.expired_below and method == "GET" and place.startswith(faults.expired_below):
            served = sum(
                number for key, number in self.served.items() if key.startswith(faults.expired_below)
            )
            return "ExpiredToken" if served >= faults.expired_after else None
        if faults.conditions == "refused" and method == "PUT" and is_conditional:
            return "NotImplemented"
        if faults.unwritable and method == "PUT" and place.startswith(faults.unwritable):
            return faults.unwritable_code
        return None

    async def _meet(self, number: int) -> None:
        self.waiting += 1
        if self.waiting >= number:
            self.met.set()
        await asyncio.wait_for(self.met.wait(), MEETING_S)

    def _headers(self, request: web.Request) -> dict[str, str]:
        ignored = {"if-none-match"} if self.faults.conditions == "ignored" else set()
        return {name: value for name, value in _kept(request.headers).items() if name.lower() not in ignored}

    async def _forward(self, request: web.Request, body: bytes) -> tuple[aiohttp.ClientResponse, bytes]:
        url = URL(self.upstream + request.raw_path, encoded=True)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, url, headers=self._headers(request), data=body, allow_redirects=False
            ) as answer,
        ):
            return answer, await answer.read()


def _undeleted(body: bytes) -> web.Response:
    keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
    errors = "".join(
        f"<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>no</Message></Error>" for key in keys
    )
    answer = (
        '<?xml version="1.0"?><DeleteResult '
        f'xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{errors}</DeleteResult>'
    )
    return web.Response(body=answer.encode(), content_type="application/xml")


def _kept(headers: object) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}  # type: ignore[attr-defined]


def _error(code: str) -> web.Response:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code} by the proxy</Message></Error>'
    return web.Response(status=STATUS[code], body=body.encode(), content_type="application/xml")


def _abort(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _cut(request: web.Request, answer: aiohttp.ClientResponse, content: bytes) -> web.StreamResponse:
    if request.method != "GET" or not content:
        return _abort(request)
    response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    await asyncio.sleep(0.02)  # so that the half arrives before the reset
    return _abort(request)


@dataclass(frozen=True)
class FlakyStorage:
    """A running proxy, as tests see it."""

    endpoint: str
    control: Path

    def behave(self, faults: Faults | None = None) -> None:
        """From now on do this; without faults, be a good store."""
        fresh = self.control.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(faults or Faults())))
        fresh.replace(self.control)

    def served(self, below: str = "") -> Counter[str]:
        """How often each object's content went out whole since ``forget``."""
        return Counter(
            {place: number for place, number in self._asked("served").items() if place.startswith(below)}
        )

    def failed(self) -> Counter[str]:
        """How many requests met which fault since ``forget``."""
        return Counter(self._asked("failed"))

    def waiting(self) -> int:
        """How many requests wait at ``meet_at``."""
        return int(self._asked("waiting"))

    def _asked(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self.endpoint}/-/{what}", timeout=10) as answer:
            return json.load(answer)

    def forget(self) -> None:
        """Count anew."""
        urllib.request.urlopen(
            urllib.request.Request(f"{self.endpoint}/-/forget", method="POST"), timeout=10
        ).close()


def start(upstream: str, control: Path) -> tuple[subprocess.Popen[str], FlakyStorage]:
    """The process and how to speak to it."""
    control.write_text(json.dumps(asdict(Faults())))
    command = [sys.executable, "-m", "tests.support.flaky_proxy", upstream, str(control)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    return process, FlakyStorage(f"http://127.0.0.1:{int(process.stdout.readline())}", control)


async def _serve(upstream: str, control: Path) -> None:
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{tail:.*}", Proxy(upstream, control).handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))
