"""Storage that refuses or stays away: errors name the place, never a secret; what may pass is tried again."""

from __future__ import annotations

import contextlib
import http.server
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pix2score.errors import AccessError
from pix2score.storage.folder import Folder
from tests.conftest import BUCKET, SECRET, free_port

REFUSING_SERVER = """
import http.server
class Refuse(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    do_GET = do_PUT = do_HEAD = do_DELETE = answer
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
print(server.server_port, flush=True)
server.serve_forever()
"""


EVERY_OPERATION = """
import traceback
from pix2score.errors import AccessError
from pix2score.storage.folder import Folder
folder = Folder("s3://closed-bucket/prefix")
print(repr(folder), repr(folder.fs))
acts = (lambda: folder.publish("x", b"1"), lambda: folder.read("x"), folder.entries, folder.top_entries)
for act in (*acts, lambda: folder.entry("x")):
    try:
        print("no error:", act())
    except AccessError as exc:
        print("AccessError:", exc)
        traceback.print_exc()
    except Exception as exc:
        print("other:", repr(exc))
"""


@pytest.fixture(scope="module")
def refusing_server() -> Iterator[str]:
    server = subprocess.Popen([sys.executable, "-c", REFUSING_SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    server.kill()
    server.wait()


def every_operation(environment: dict[str, str]) -> tuple[list[str], str]:
    """Lines of ``EVERY_OPERATION`` and all that it printed, in a process with only these AWS variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    settings = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/nonexistent",
    }
    settings["AWS_SHARED_CREDENTIALS_FILE"] = "/nonexistent"
    command = [sys.executable, "-c", EVERY_OPERATION]
    done = subprocess.run(
        command,
        env={**clean, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines(), done.stdout + done.stderr


def test_refused_credentials_name_the_bucket_and_never_show_the_secret(refusing_server: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": SECRET}
    lines, everything = every_operation({"AWS_ENDPOINT_URL": refusing_server, **keys})
    assert lines[1:] == ["AccessError: access to bucket 'closed-bucket' was refused"] * 5
    assert SECRET not in everything


def test_missing_credentials_name_the_bucket(refusing_server: str) -> None:
    lines, _ = every_operation({"AWS_ENDPOINT_URL": refusing_server})
    assert (
        lines[1:]
        == ["AccessError: no AWS credentials for bucket 'closed-bucket'; set them by the standard AWS chain"]
        * 5
    )


def test_a_local_folder_without_permission_is_an_access_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(AccessError, match="was refused"):
        Folder(str(tmp_path)).publish("x", b"1")


def test_no_error_or_repr_shows_the_secret(place: str) -> None:
    folder = Folder(place)
    folder.publish("x", b"1")
    texts = [repr(folder), str(folder.fs), repr(pickle.dumps(folder))]
    for act in (
        lambda: folder.publish("x", b"2"),
        lambda: folder.read("absent"),
        lambda: folder.entry("absent"),
    ):
        with pytest.raises(OSError) as caught:
            act()
        texts += [str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
    assert not any(SECRET in text for text in texts)


def read_through(endpoint: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Read one object in a process of its own, whose only endpoint is ``endpoint``."""
    script = (
        "from pix2score.storage.folder import read_place; "
        f"print(read_place('s3://{BUCKET}/endpoint/object').decode())"
    )
    environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint}
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )


@pytest.mark.endurance
def test_an_endpoint_that_stays_down_is_named(moto_server: str) -> None:
    done = read_through(f"http://127.0.0.1:{free_port()}", 200)
    assert done.returncode == 1
    assert re.search(
        r"StorageError: bucket .* at http://127\.0\.0\.1:\d+ still fails after \d+ attempts", done.stderr
    )


@pytest.mark.slow
def test_an_endpoint_that_is_down_for_a_moment_is_tried_again(moto_server: str, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="endpoint/object", Body=b"here")
    port, (host, moto_port) = free_port(), moto_server.removeprefix("http://").split(":")
    forwarder = threading.Timer(4.0, forward, (port, host, int(moto_port)))
    forwarder.daemon = True
    forwarder.start()
    assert read_through(f"http://127.0.0.1:{port}", 100).stdout.strip() == "here"


def forward(port: int, host: str, target: int) -> None:
    """Pass every connection to ``port`` on to the server, until the tests end."""
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((host, target))
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=pump, args=(source, sink), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


UNDECIDED = b"<Error><Code>ConditionalRequestConflict</Code><Message>try again</Message></Error>"


class _Undecided(http.server.BaseHTTPRequestHandler):
    """A store that answers the first two PUTs with 409, as S3 does while two creators of one key meet."""

    protocol_version = "HTTP/1.1"  # answers Expect: 100-continue
    puts: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.puts.append(str(self.headers["If-None-Match"]))
        body = UNDECIDED if len(self.puts) <= 2 else b""
        self.send_response(409 if body else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def test_a_creation_that_the_store_has_not_decided_is_sent_again() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Undecided)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "x",
    }
    environment |= {"AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1"}
    script = (
        "from pix2score.storage.folder import Folder; print(Folder('s3://bucket/x').publish('object', "
        "b'data'))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        server.shutdown()
    assert (done.returncode, done.stdout.strip()) == (0, "4"), done.stderr
    assert _Undecided.puts == ["*", "*", "*"]
