"""Requests to a service, from a process of its own that costs the cores it measures as little as it can.

Run as ``python -m pix2score.benchmark.load SETTINGS`` (JSON of ``Offer``) by ``offer``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

BOUNDARY = "picture-5f2c1d9e"
GOOD, BAD = "good", "bad"
"""Folders of pictures: those that get an answer, and those made to hurt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """What is sent, and how."""

    url: str
    folder: str
    """With ``good`` and perhaps ``bad`` files."""
    seconds: float
    num_clients: int = 16
    per_s: float = 0
    """Requests a second, whatever the answers take; 0: each client sends the next after its answer."""
    per_request: int = 1
    """Pictures in a request."""
    bad_share: float = 0
    """Of the requests, with one bad file each."""


@dataclass(slots=True)
class Came:
    """What came back."""

    seconds: float = 0
    pictures: int = 0
    """Of requests answered with 200."""
    good: dict[str, int] = field(default_factory=dict)
    """Status -> requests with good pictures."""
    bad: dict[str, int] = field(default_factory=dict)
    p50_ms: float = 0
    p99_ms: float = 0
    cpu_s: float = 0
    """Of the sending process."""

    @property
    def per_s(self) -> float:
        """Pictures answered."""
        return self.pictures / self.seconds


def offer(offered: Offered) -> Came:
    """Send from another process; return what came."""
    words = [sys.executable, "-m", __name__, json.dumps(asdict(offered))]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return Came(**json.loads(done.stdout.splitlines()[-1]))


def form(files: list[Path]) -> bytes:
    """The body of a form with these files."""
    head = 'Content-Disposition: form-data; name="image"; filename="{}"\r\n\r\n'
    parts = [
        f"--{BOUNDARY}\r\n{head.format(file.name)}".encode() + file.read_bytes() + b"\r\n" for file in files
    ]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


async def _send(offered: Offered) -> Came:
    files = sorted(Path(offered.folder, GOOD).iterdir())
    count = offered.per_request
    good = itertools.cycle([form(files[i : i + count]) for i in range(0, len(files) - count + 1, count)])
    bad = itertools.cycle([form([file]) for file in sorted(Path(offered.folder).glob(f"{BAD}/*"))])
    kinds = itertools.cycle(_kinds(offered.bad_share))
    came, times = Came(), list[float]()
    statuses = {GOOD: Counter[str](), BAD: Counter[str]()}
    end = time.perf_counter() + offered.seconds

    async def one(session: aiohttp.ClientSession, due: float) -> None:
        kind = next(kinds)
        status = await _status(session, f"{offered.url}/predict", next(good if kind == GOOD else bad))
        statuses[kind][status] += 1
        if kind == GOOD and status == "200":
            times.append(time.perf_counter() - due)
            came.pictures += count

    async def client(session: aiohttp.ClientSession) -> None:
        while (now := time.perf_counter()) < end:
            await one(session, now)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            if offered.per_s:
                async for due in _instants(start, end, offered.per_s):
                    group.create_task(one(session, due))
            else:
                for _ in range(offered.num_clients):
                    group.create_task(client(session))
        came.seconds = time.perf_counter() - start
    if times:
        came.p50_ms, came.p99_ms = (round(float(t) * 1000, 1) for t in np.percentile(times, [50, 99]))
    came.good, came.bad = dict(statuses[GOOD]), dict(statuses[BAD])
    came.cpu_s = round(time.process_time(), 2)
    return came


async def _instants(start: float, end: float, per_s: float) -> AsyncIterator[float]:
    """Each instant of ``time.perf_counter`` at which a request is due, once it has come."""
    for number in itertools.count():
        due = start + number / per_s
        if due >= end:
            return
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        yield due


async def _status(session: aiohttp.ClientSession, url: str, body: bytes) -> str:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    try:
        async with session.post(url, data=body, headers=headers) as response:
            await response.read()
            return str(response.status)
    except (aiohttp.ClientError, TimeoutError) as exc:
        return type(exc).__name__


def _kinds(bad_share: float) -> list[str]:
    """Twenty requests in a row by kind."""
    num_bad = round(20 * bad_share)
    return [BAD if i * num_bad % 20 < num_bad else GOOD for i in range(20)]


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(_send(Offered(**json.loads(sys.argv[1])))))))
