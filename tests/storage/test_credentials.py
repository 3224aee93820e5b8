"""How clients of other stores sign in: settings that cannot work and refusals are named, the key never is."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pix2score.errors import AccessError, ImageFailure
from pix2score.images.source import image_source
from pix2score.storage import google_auth, places
from pix2score.storage.folder import Folder
from pix2score.storage.rust_options import storage_options
from tests.storage.test_refusals import EVERY_OPERATION
from tests.support.stores import ACCOUNT, KEY, AzureServer

REFUSING_SERVER = """
import http.server, sys
class Refuse(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>%s</Code><Message>no</Message></Error>" % sys.argv[1].encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-ms-error-code", sys.argv[1])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
print(server.server_port, flush=True)
server.serve_forever()
"""


def refusing(code: str) -> subprocess.Popen[str]:
    """A server that refuses everything for the reason ``code``; its port is its first line."""
    words = [sys.executable, "-c", REFUSING_SERVER, code]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("place", "code", "reason"),
    [
        ("gs://closed/prefix", "AccessDenied", "Storage Object User"),
        ("az://closed/prefix", "AuthorizationPermissionMismatch", "Storage Blob Data Contributor"),
        ("az://closed/prefix", "AuthenticationFailed", "does not belong to the account"),
    ],
)
def test_a_refusal_names_the_bucket_and_what_to_do_and_never_shows_the_key(
    place: str, code: str, reason: str
) -> None:
    server = refusing(code)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    env = {
        **os.environ,
        "STORAGE_EMULATOR_HOST": url,
        "AZURE_STORAGE_CONNECTION_STRING": AzureServer(f"{url}/{ACCOUNT}").connection_string,
    }
    script = EVERY_OPERATION.replace("s3://closed-bucket/prefix", place)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        server.kill()
        server.wait()
    word = "container" if place.startswith("az") else "bucket"
    lines = done.stdout.splitlines()[1:]
    assert len(lines) == 5
    assert all(line.startswith(f"AccessError: access to {word} 'closed' was refused") for line in lines), (
        lines
    )
    assert sum(reason in line for line in lines) >= 4, lines
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "variables", "words"),
    [
        ("gs://works/x", {}, "no Google credentials for bucket 'works'; set GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://works/x", {"GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent.json"}, "cannot be read"),
        ("az://works/x", {}, "no storage account for container 'works'"),
        ("az://works/x", {"AZURE_STORAGE_ACCOUNT": "studio"}, "no Azure credentials for container 'works'"),
        ("az://works/x", {"AZURE_STORAGE_CONNECTION_STRING": "what=ever"}, "no storage account"),
    ],
)
def test_settings_that_cannot_work_are_named_at_once(
    settings: pytest.MonkeyPatch, place: str, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        settings.setenv(name, value)
    started = time.monotonic()
    for act in (
        Folder(place).entries,
        lambda: Folder(place).publish("x", b"1"),
        lambda: Folder(place).read("x"),
    ):
        with pytest.raises(AccessError, match=words):
            act()
    (found,) = image_source(place, ()).read_many(["a.png"])
    assert isinstance(found, ImageFailure)
    assert found.code == "FORBIDDEN"
    assert time.monotonic() - started < 5


def test_credentials_of_a_kind_that_is_not_read_are_named(
    settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key.json").write_text(json.dumps({"type": "gdch_service_account"}))
    settings.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(AccessError, match="of type 'gdch_service_account'; read are service_account"):
        Folder("gs://works/x").entries()


class Exchange(http.server.BaseHTTPRequestHandler):
    """Of workload identity federation, what gives tokens; and a store that notes which it is shown."""

    shown: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        token = {"access_token": f"for-{'of-the-machine' in asked}", "expires_in": 3600}
        token |= {
            "token_type": "Bearer",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }
        self._answer(json.dumps(token).encode())

    def do_GET(self) -> None:
        self.shown.append(str(self.headers["Authorization"]))
        self._answer(b"<ListBucketResult/>")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def federated(settings: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The machine has a token of its own, and a file that says who gives one of Google for it. What the store
    is shown is given."""
    pytest.importorskip("google.auth")
    google_auth._credentials.cache_clear()
    handler = type("Handler", (Exchange,), {"shown": (shown := [])})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    pool = "//iam.googleapis.com/locations/global/workforcePools/pool/providers/own"  # asks for no project
    of_file = {"audience": pool, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}
    of_file |= {"token_url": f"{url}/v1/token"}
    source = {"credential_source": {"file": str(tmp_path / "token")}}
    (tmp_path / "token").write_text("of-the-machine")
    (tmp_path / "key.json").write_text(json.dumps({"type": "external_account", **of_file, **source}))
    settings.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    settings.setenv("GOOGLE_BASE_URL", url)
    yield shown
    server.shutdown()
    google_auth._credentials.cache_clear()


def test_workload_identity_federation_gives_the_tokens(federated: list[str]) -> None:
    store = places.filesystem("gs://works")
    assert list(store.pages("gs://works/x")) == []
    assert list(store.verbatim("works", "x/"))
    assert federated == ["Bearer for-True"] * 2


@pytest.mark.parametrize("name", ["GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_SERVICE_ACCOUNT"])
def test_a_service_account_has_tokens_for_listings_of_odd_keys(
    federated: list[str], settings: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "a@b.iam.gserviceaccount.com",
        "private_key_id": "1",
    }
    account |= {"private_key": key.decode(), "token_uri": os.environ["GOOGLE_BASE_URL"]}
    (tmp_path / "account.json").write_text(json.dumps(account))
    is_key = name.endswith("_KEY")
    settings.setenv(name, json.dumps(account) if is_key else str(tmp_path / "account.json"))
    assert list(places.filesystem("gs://works").verbatim("works", "x/"))
    assert federated == ["Bearer for-False"]


def test_federation_that_fails_or_lacks_its_library_says_what_to_do(
    federated: list[str], settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(AccessError, match="type 'external_account' are not read by the libraries of tables"):
        storage_options("gs://works/x")
    (tmp_path / "token").unlink()
    with pytest.raises(AccessError, match="no token for the credentials .RefreshError.; `gcloud auth"):
        Folder("gs://works/x").entries()
    settings.setitem(sys.modules, "google.auth", None)
    with pytest.raises(
        AccessError, match=r"'external_account', which takes an extra: pip install 'pix2score\["
    ):
        Folder("gs://works/x").entries()
    assert federated == []
