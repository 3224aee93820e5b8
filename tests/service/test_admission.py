"""Limits of a replica around an application of the tests: sizes, the queue, time, and what is counted."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from pix2score.service.admission import BODIES, Admission, Queue
from pix2score.service.config import MIB, AppConfig
from pix2score.service.numbers import Numbers, joined
from pix2score.service.refusals import Refused

CONFIG = AppConfig(model="m", max_body_mb=1, max_queue=3, max_images=3, max_seconds=0.2)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads all, says how much."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def sleep(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(60)


class Asked:
    """One request to an application within its limits."""

    def __init__(
        self,
        app: Any = echo,
        chunks: tuple[bytes, ...] = (b"x",),
        length: int | None = None,
        path: str = "/predict",
    ) -> None:
        self.numbers = Numbers("one")
        self.queue = Queue(CONFIG, self.numbers)
        self.app = Admission(app, CONFIG, self.queue, self.numbers)
        headers = [] if length is None else [(b"content-length", str(length).encode())]
        self.scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        self.chunks, self.num_read = [*chunks], 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        self.num_read += 1
        return {"type": "http.request", "body": self.chunks.pop(0), "more_body": bool(self.chunks)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def answer(self) -> tuple[int, Any]:
        """Status and content."""
        asyncio.run(self.app(self.scope, self.receive, self.send))
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])

    def counted(self) -> dict[tuple[str, str], float]:
        """(route, status) -> requests."""
        return {
            (sample.labels["route"], sample.labels["status"]): sample.value
            for family in text_string_to_metric_families(self.numbers.text())
            for sample in family.samples
            if sample.name == "pix2score_service_requests_total"
        }


def test_a_body_within_the_limit_is_let_through_and_counted() -> None:
    asked = Asked(chunks=(b"x" * MIB,), length=MIB)
    assert asked.answer() == (200, MIB)
    assert asked.counted() == {("/predict", "200"): 1}


def test_a_stated_length_over_the_limit_is_refused_unread() -> None:
    asked = Asked(length=MIB + 1)
    status, content = asked.answer()
    assert (status, content["error"]["code"], asked.num_read) == (413, "TOO_LARGE", 0)
    assert (b"connection", b"close") in asked.sent[0]["headers"]


def test_an_unstated_length_is_refused_at_the_limit() -> None:
    asked = Asked(chunks=(b"x" * (MIB // 2),) * 100)
    status, content = asked.answer()
    assert (status, content["error"]["code"], asked.num_read) == (413, "TOO_LARGE", 3)


def test_bodies_together_are_bounded_and_given_back() -> None:
    asked = Asked(chunks=(b"x" * MIB,), length=MIB)
    for _ in range(BODIES):
        asked.queue.take_bytes(MIB)
    status, content = asked.answer()
    assert (status, content["error"]["code"]) == (429, "BUSY")
    asked.queue.give_bytes(MIB)
    asked.chunks, asked.sent = [b"x" * MIB], []
    assert asked.answer() == (200, MIB)
    asked.queue.take_bytes(MIB)  # what the request had is free again


def test_a_full_queue_refuses_before_the_body_is_read() -> None:
    asked = Asked()
    with asked.queue.pictures(3):
        status, content = asked.answer()
    assert (status, content["error"]["code"], asked.num_read) == (429, "BUSY", 0)
    assert (b"retry-after", b"1") in asked.sent[0]["headers"]


def test_the_queue_takes_up_to_its_size_and_is_free_afterwards() -> None:
    queue = Queue(CONFIG, Numbers("one"))
    with queue.pictures(2):
        queue.check()
        with pytest.raises(Refused), queue.pictures(2):
            pass
        with queue.pictures(1), pytest.raises(Refused):
            queue.check()
    with queue.pictures(3):
        pass


def test_a_request_over_its_time_is_told_so() -> None:
    asked, start = Asked(app=sleep), time.monotonic()
    status, content = asked.answer()
    assert time.monotonic() - start < 2
    assert (status, content["error"]["code"]) == (504, "TIMEOUT")
    assert asked.counted() == {("/predict", "504"): 1}


def test_a_client_that_goes_away_is_counted_and_its_bytes_given_back() -> None:
    async def gone() -> None:
        async def read_and_sleep(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await asyncio.sleep(60)

        asked.app = Admission(read_and_sleep, CONFIG, asked.queue, asked.numbers)
        task = asyncio.create_task(asked.app(asked.scope, asked.receive, asked.send))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asked = Asked(chunks=(b"x" * MIB,))
    asyncio.run(gone())
    assert asked.counted() == {("/predict", "499"): 1}
    asked.queue.take_bytes(BODIES * MIB)


def test_a_strange_path_makes_no_name_of_its_own() -> None:
    asked = Asked(path="/strange")
    asked.answer()
    assert asked.counted() == {("other", "200"): 1}


def test_numbers_of_several_replicas_are_one_page_that_prometheus_reads() -> None:
    def of(replica: str, count: int) -> str:
        numbers = Numbers(replica)
        for _ in range(count):
            numbers.count_picture("ok")
            numbers.count_batch(1)
        return numbers.text()

    families = {f.name: f for f in text_string_to_metric_families(joined([of("a", 2), of("b", 3)]))}
    pictures = families["pix2score_service_pictures"].samples
    found = {s.labels["replica"]: s.value for s in pictures if s.name.endswith("_total")}
    assert found == {"a": 2, "b": 3}
    sums = [s for s in families["pix2score_service_batch_pictures"].samples if s.name.endswith("_sum")]
    assert [s.value for s in sums] == [2, 3]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_queue": 1},
        {"max_seconds": 0},
        {"max_seconds": float("nan")},
        {"max_body_mb": 0},
        {"decoders": 0},
        {"batch_size": -1},
    ],
)
def test_limits_that_let_nothing_in_are_refused(settings: dict[str, Any]) -> None:
    from pix2score.errors import ConfigError

    with pytest.raises(ConfigError):
        AppConfig(model="m", **settings)
