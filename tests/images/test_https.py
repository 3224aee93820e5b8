"""Images of web servers: only below a root, never by a redirect or a name into a private network, bounded in
bytes and time; failures by name. The server is a real one."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver

from pix2score.errors import ConfigError, ImageFailure
from pix2score.images.decode import MAX_BYTES
from pix2score.images.fetch import Larger
from pix2score.images.https import PER_HOST, WebReader, web_uri
from pix2score.images.source import ImageSource, image_source, is_outside
from pix2score.images.web_addresses import is_public
from tests.support.paths import ROOT
from tests.support.web_server import WebServer, serving

PUBLIC = "93.184.215.14"
"""Only ever asked about, never connected to."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """The server; its certificate is trusted in the standard way."""
    with serving(tmp_path_factory.mktemp("web")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(server.certificate))
        yield server


class Names(AbstractResolver):
    """Answers in turn, whatever the name."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kind = {"hostname": host, "port": port, "proto": 0, "flags": 0}
        family_of = {True: socket.AF_INET6, False: socket.AF_INET}
        return [{**kind, "host": address, "family": family_of[":" in address]} for address in answer]

    async def close(self) -> None:
        pass


def read(server: WebServer, *paths: str, most: int = MAX_BYTES, **settings: Any) -> list[Any]:
    """Content or failure of each path, by a reader with ``settings``."""

    async def everything() -> list[Any]:
        reader = WebReader(settings.pop("own", frozenset({"localhost"})), **settings)
        try:
            return list(await reader.read([server.at(path) for path in paths], most))
        finally:
            await reader.close()

    return asyncio.run(everything())


def code(found: Any) -> str:
    assert isinstance(found, ImageFailure), found
    return found.code


def test_what_lies_below_a_root_is_read_and_nothing_else(web: WebServer, tmp_path: Any) -> None:
    source = image_source(str(tmp_path), (web.at("/ok"),))
    uris = [web.at("/ok/3"), web.at("/ok/5?v=2"), web.at("/status/404"), web.at("/okay/1"), "a.png"]
    uris += [web.at("/ok/3", "127.0.0.1"), f"https://localhost/{'ok/3'}", "https://example.org/a.png"]
    found = source.read_many(uris)
    assert found[:2] == [b"xxx", b"xxxxx"]
    assert [code(one) for one in found[2:]] == [*["FORBIDDEN"] * 2, "NOT_FOUND", *["FORBIDDEN"] * 3]
    assert all(is_outside(found[i]) for i in (2, 3, 5, 6, 7))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:secret@host/img/a.png",
        "https://user@host/img/a.png",
        "https://host/img/../a.png",
        "https://host/img/%2e%2e/a.png",
        "https://host/img/%252E%252e/a.png",
        "https://host/img/..%2fa.png",
        "https://host/img/..%5ca.png",
        "https://host/img/a.png#part",
        "https://host/img\\..\\a.png",
        "https://host/img/a\r\nX: y",
        "https://host:0/img/a.png",
        "https://host:99999/img/a.png",
        "https:///img/a.png",
        "https://",
        "http://host/img/a.png",
        "https://host:8443/img/a.png",
        "https://host.evil/img/a.png",
        "https://host/image/a.png",
        "https://host/img",
        "https://host/img%2Fa.png",
    ],
)
def test_a_uri_that_could_lead_elsewhere_is_forbidden_by_its_text(uri: str) -> None:
    with pytest.raises(ImageFailure) as refused:
        ImageSource("/catalog", ("https://host/img",)).resolve(uri)
    assert refused.value.code == "FORBIDDEN"
    assert "secret" not in refused.value.detail


@pytest.mark.parametrize("uri", ["https://host/img/a b.png", "HTTPS://HOST:443/img/a%20b.png"])
def test_a_uri_has_one_spelling(uri: str) -> None:
    assert ImageSource("/catalog", ("https://host/img",)).resolve(uri) == "https://host/img/a%20b.png"
    assert web_uri("https://bücher.example/絵.png?a=1&b=%2F") == (
        "https://xn--bcher-kva.example/%E7%B5%B5.png?a=1&b=/"
    )


def test_no_message_shows_the_query_of_a_uri_where_a_signature_may_stand() -> None:
    with pytest.raises(ImageFailure) as refused:
        ImageSource("/catalog", ("https://host/img",)).resolve("https://other/a.png?sig=abc123")
    assert "abc123" not in refused.value.detail


@pytest.mark.parametrize(
    "root", ["http://host/img", "https://user@host/img", "https://host/a/../b", "https://host/?a", "https://"]
)
def test_a_root_that_cannot_be_one_is_refused_in_a_line(root: str) -> None:
    with pytest.raises(ConfigError, match="--image-root"):
        image_source("/catalog", (root,))


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/status/404", "NOT_FOUND"),
        ("/status/410", "NOT_FOUND"),
        ("/status/401", "FORBIDDEN"),
        ("/status/403", "FORBIDDEN"),
        ("/status/400", "FETCH"),
        ("/status/204", "FETCH"),
        ("/status/206", "FETCH"),
        ("/status/304", "FETCH"),
        ("/ok/0", "EMPTY"),
        ("/redirect/inside", "FORBIDDEN"),
        ("/redirect/metadata", "FORBIDDEN"),
        ("/gzip", "FETCH"),
        (f"/huge/{MAX_BYTES + 1}", "TOO_LARGE"),
        ("/huge/99999999999", "TOO_LARGE"),
    ],
)
def test_failures_have_their_names_and_are_asked_for_once(web: WebServer, path: str, named: str) -> None:
    web.asked.clear()
    (found,) = read(web, path)
    assert code(found) == named
    assert web.asked == {path: 1}


def test_a_redirect_says_where_it_leads_and_is_not_followed(web: WebServer) -> None:
    web.asked.clear()
    (found,) = read(web, "/redirect/inside")
    assert "redirect is not followed (status 302, to /ok/9)" in found.detail
    assert web.asked == {"/redirect/inside": 1}


@pytest.mark.parametrize("encoding", ["", "none", "binary", "UTF-8", "aws-chunked", "identity, identity"])
def test_bytes_as_they_are_are_read_whatever_the_server_calls_them(web: WebServer, encoding: str) -> None:
    assert read(web, f"/encoded/{encoding}".replace(" ", "%20")) == [b"plain"]


def test_an_answer_with_a_long_line_in_its_head_is_read_and_one_with_an_endless_line_is_not(
    web: WebServer,
) -> None:
    assert read(web, "/policy/60000") == [b"plain"]
    (found,) = read(web, "/policy/70000")
    assert code(found) == "FETCH"


@pytest.mark.parametrize("status", [429, 501, 503, 520, 524, 529])
def test_every_failure_of_a_server_is_tried_again(web: WebServer, status: int) -> None:
    assert read(web, f"/later/0/{status}") == [b"at last"]


def test_what_is_no_http_and_what_is_no_image_are_called_so(web: WebServer) -> None:
    found = read(web, "/garbage", "/status/304", "/status/204")
    assert [code(one) for one in found] == ["FETCH"] * 3
    assert "is no HTTP: " in found[0].detail
    assert [one.detail for one in found[1:]] == [
        f"the server gives no image (status {status})" for status in (304, 204)
    ]


def test_an_endless_body_is_given_up_at_the_limit(web: WebServer) -> None:
    (found,) = read(web, "/endless")
    assert code(found) == "TOO_LARGE"
    assert read(web, "/endless", most=1000) == [Larger(MAX_BYTES)]
    assert read(web, "/ok/1001", most=1000) == [Larger(1001)]


def test_a_body_that_ends_early_is_tried_again_and_then_a_failed_fetch(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pix2score.images.https.backoff_s", lambda attempt: 0.0)
    web.asked.clear()
    (found,) = read(web, "/short")
    assert code(found) == "FETCH"
    assert web.asked["/short"] == 6


def test_a_server_that_drips_or_says_nothing_is_given_up_in_time(web: WebServer) -> None:
    started = time.monotonic()
    assert [code(one) for one in read(web, "/drip", "/silent", timeout_s=1.0, stall_s=0.4)] == ["TIMEOUT"] * 2
    assert time.monotonic() - started < 3


def test_a_server_that_asks_to_wait_is_asked_again_then_and_not_before(web: WebServer) -> None:
    web.asked.clear()
    started = time.monotonic()
    assert read(web, "/later/1") == [b"at last"]
    assert time.monotonic() - started >= 1.9, "Retry-After was 1 s, twice"
    assert web.asked["/later/1"] == 3
    (found,) = read(web, "/later/3600")
    assert code(found) == "FETCH", "nobody waits an hour"


def test_few_requests_at_a_time_go_to_one_host(web: WebServer) -> None:
    web.most_at_once = 0
    assert read(web, *["/slow"] * 40) == [b"slow"] * 40
    assert 1 < web.most_at_once <= PER_HOST


def test_what_is_asked_for_is_plain(web: WebServer) -> None:
    read(web, "/ok/1")
    assert web.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer"} & web.headers.keys()


def test_a_certificate_that_nobody_trusts_ends_the_matter(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    code_ = (
        "import sys; from pix2score.images.source import image_source\n"
        "(found,) = image_source('/', (sys.argv[1],)).read_many([sys.argv[1] + '/3'])\n"
        "print(found.code, found.detail)"
    )
    env = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
    words = [sys.executable, "-c", code_, web.at("/ok")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert done.stdout == "FETCH the certificate of localhost is not trusted (SSL_CERT_FILE)\n", done.stderr


def named(server: WebServer, name: str, names: Names, own: frozenset[str]) -> Any:
    """What is found under another name of the server, whose addresses ``names`` gives."""

    async def everything() -> Any:
        reader = WebReader(own, resolver=names, timeout_s=3.0)
        try:
            return (await reader.read([server.at("/ok/3", name)], MAX_BYTES))[0]
        finally:
            await reader.close()

    return asyncio.run(everything())


@pytest.mark.parametrize(("days", "wrong"), [((-9, -1), "expired"), ((1, 9), "not valid yet")])
def test_a_certificate_out_of_its_time_is_called_so(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, days: tuple[int, int], wrong: str
) -> None:
    with serving(tmp_path, *days) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        (found,) = read(server, "/ok/3")
    assert (code(found), found.detail) == ("FETCH", f"the certificate of localhost is {wrong}")


def test_a_certificate_for_another_host_is_called_so(web: WebServer) -> None:
    found = named(web, "elsewhere.test", Names(["127.0.0.1"]), frozenset({"127.0.0.1"}))
    assert found.detail == "the certificate of elsewhere.test is for another host"


@pytest.mark.parametrize(
    "answer", [["127.0.0.1"], ["10.0.0.7"], ["169.254.169.254"], [PUBLIC, "127.0.0.1"], ["::ffff:127.0.0.1"]]
)
def test_a_name_that_leads_to_a_private_address_is_forbidden(web: WebServer, answer: list[str]) -> None:
    web.asked.clear()
    found = named(web, "pictures.test", Names(answer), frozenset({"pictures.test"}))
    assert code(found) == "FORBIDDEN"
    assert "private address" in found.detail and f"--image-root https://{answer[-1]}" in found.detail
    assert not web.asked


def test_a_private_address_that_is_itself_a_root_may_have_a_name(web: WebServer) -> None:
    own = frozenset({"pictures.test", "127.0.0.1"})
    assert named(web, "pictures.test", Names(["127.0.0.1"]), own) == b"xxx"


def test_a_name_that_changes_its_answer_is_checked_at_every_connection(web: WebServer) -> None:
    """DNS rebinding: an address that may be read first, another one of this machine afterwards."""
    web.asked.clear()
    names = Names(["127.0.0.1"], ["127.0.0.2"])

    async def everything() -> list[Any]:
        reader = WebReader(frozenset({"pictures.test", "127.0.0.1"}), resolver=names, timeout_s=3.0)
        try:
            urls = [web.at("/bye", "pictures.test")]
            return [(await reader.read(urls, MAX_BYTES))[0] for _ in range(2)]
        finally:
            await reader.close()

    first, second = asyncio.run(everything())
    assert (first, code(second)) == (b"bye", "FORBIDDEN")
    assert (names.asked, web.asked["/bye"]) == (2, 1)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:2800:21f::1", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
    ],
)
def test_addresses_of_the_open_internet_are_told_from_others(address: str, public: bool) -> None:
    assert is_public(address) == public
