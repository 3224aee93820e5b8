"""Clients of S3 measured by reading the same objects from a real server in another process."""

from __future__ import annotations

import logging

import pytest

from pix2score.benchmark import fetch
from pix2score.benchmark.fetch import FetchTiming, fetch_table, measure, time_fetch
from pix2score.benchmark.s3_server import running, size_of


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SIZES", {1_000: 8, 50_000: 4})


@pytest.mark.parametrize("client", ["obstore", "s3fs", "boto3"])
@pytest.mark.usefixtures("few")
def test_a_client_reads_every_byte(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as endpoint:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "benchmark")
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        found = measure(client, endpoint)
    assert set(found) == {1_000, 50_000}
    assert all(cpu_s > 0 and seconds > 0 for cpu_s, seconds in found.values())


def test_ours_reads_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FETCHERS", (fetch.OURS,))
    found = time_fetch(1)
    assert [(timing.client, timing.bytes) for timing in found] == [("ours", size) for size in fetch.SIZES]
    assert all(timing.cpu_ms > 0 and timing.gets_per_s > 0 for timing in found)


def test_keys_say_how_large_objects_are() -> None:
    assert size_of("20000/7") == 20_000


def test_a_client_that_is_not_installed_is_left_out_by_name(
    few: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fetch, "FETCHERS", ("no_such_client",))
    with caplog.at_level(logging.WARNING):
        assert time_fetch(1) == []
    assert "no_such_client is not installed: left out" in caplog.text


def test_the_table_says_how_many_times_ours_a_get_costs() -> None:
    timings = [
        FetchTiming("s3fs", 20_000, 2.5, 100.0, 2.4, 2.6),
        FetchTiming("ours", 20_000, 0.5, 900.0, 0.4, 0.6),
    ]
    lines = fetch_table(timings).splitlines()
    assert [line.split()[0] for line in lines] == ["client", "s3fs", "ours"]
    assert "5.0x" in lines[1]
