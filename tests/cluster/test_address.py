"""RAY_ADDRESS: what is an address of a head, what is meant by what is none, and who answers there."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pix2score.cluster.address import RayAddress, parse_address, probe
from pix2score.errors import ConfigError


@pytest.mark.parametrize("text", [None, "", "  ", "local", " local\n"])
def test_without_an_address_ray_runs_here(text: str | None) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", RayAddress("auto")),
        ("10.0.0.1:6379", RayAddress("10.0.0.1:6379", "10.0.0.1", 6379)),
        (" head.ray.svc:6379 \n", RayAddress("head.ray.svc:6379", "head.ray.svc", 6379)),
        ("[fd00::2]:26399", RayAddress("[fd00::2]:26399", "fd00::2", 26399)),
        ("[fe80::1%eth0]:1", RayAddress("[fe80::1%eth0]:1", "fe80::1%eth0", 1)),
    ],
)
def test_a_heads_host_and_port_are_found(text: str, expected: RayAddress) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("http://head:8265", ["ray job submit --address http://head:8265", "host:port of the head"]),
        ("https://head", ["ray job submit", "host:port of the head"]),
        ("ray://head:10001", ["Ray Client", "host:port of the head", "ray job submit"]),
        ("head", ["the port is missing"]),
        ("10.0.0.1", ["the port is missing"]),
        ("fd00::2:6379", ["in brackets"]),
        ("head:0", ["expected host:port"]),
        ("head:65536", ["expected host:port"]),
        ("head:port", ["expected host:port"]),
        ("a b:1", ["expected host:port", "local"]),
        ("redis://x:1/2", ["expected host:port"]),
    ],
)
def test_what_is_no_heads_address_is_one_line_that_says_what_is_meant(text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    message = str(caught.value)
    assert message.startswith(f"RAY_ADDRESS={text!r}: ")
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.fixture
def web_server() -> Iterator[int]:
    """Port of something that is no Ray."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def test_something_else_than_ray_at_the_address_is_told_at_once(web_server: int) -> None:
    started = time.monotonic()
    with pytest.raises(
        ConfigError,
        match=rf"no Ray answers at RAY_ADDRESS=127\.0\.0\.1:{web_server}: something else listens there",
    ):
        probe(RayAddress(f"127.0.0.1:{web_server}", "127.0.0.1", web_server))
    assert time.monotonic() - started < 5


def test_nobody_at_the_address_is_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"no Ray answers at RAY_ADDRESS=127\.0\.0\.1:{port}: "):
            probe(RayAddress(f"127.0.0.1:{port}", "127.0.0.1", port))
