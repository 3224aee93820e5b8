"""Credentials, regions and endpoints that cannot work: one line that says which, exit 2, asked once and not
six times."""

from __future__ import annotations

import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pix2score.errors import AccessError, StorageError
from pix2score.storage import places
from pix2score.storage.folder import Folder

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLEEXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-secret-of-a-test"}
SSO = """
[profile studio]
sso_start_url = https://example.invalid/start
sso_region = eu-west-1
sso_account_id = 111122223333
sso_role_name = reader
region = eu-west-1
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user without any AWS settings; the filesystem is made anew."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    places._filesystem.cache_clear()
    places.fsspec.filesystem("s3").__class__.clear_instance_cache()


def refusal(place: str = "s3://studio-works/catalog") -> str:
    started = time.monotonic()
    with pytest.raises(AccessError) as caught:
        Folder(place).read("x")
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert "'studio-works'" in message
    assert "attempts" not in message
    assert "\n" not in message
    assert not any(secret in message for secret in KEYS.values())
    return message


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({}, "no AWS credentials"),
        ({"AWS_PROFILE": "painters"}, "no profile 'painters'"),
        ({"AWS_ACCESS_KEY_ID": KEYS["AWS_ACCESS_KEY_ID"]}, "half of the AWS credentials"),
        ({**KEYS, "AWS_ENDPOINT_URL": "minio:9000"}, "the endpoint minio:9000 is no URL"),
        ({**KEYS, "AWS_DEFAULT_REGION": "no region"}, "'no region'"),
    ],
)
def test_settings_that_cannot_work_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], part: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert part in refusal()


def test_a_login_that_was_never_made_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".aws" / "config").write_text(SSO)
    monkeypatch.setenv("AWS_PROFILE", "studio")
    assert "aws sso login" in refusal()


def test_a_broken_configuration_is_named_with_its_path(home: Path) -> None:
    (home / ".aws" / "config").write_text("[default\nregion = eu-west-1\n")
    assert f"{home}/.aws/config cannot be read" in refusal()


class Store(http.server.BaseHTTPRequestHandler):
    """Refuses everything with the code that the server has."""

    protocol_version = "HTTP/1.1"
    server: Refusing

    def do_GET(self) -> None:
        self.answer(
            f"<Error><Code>{self.server.code}</Code><Message>key "
            f"{KEYS['AWS_ACCESS_KEY_ID']}</Message></Error>".encode()
        )

    def do_HEAD(self) -> None:
        self.answer(b"")

    def answer(self, body: bytes) -> None:
        self.server.num_asked += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Refusing(http.server.ThreadingHTTPServer):
    code, status, num_asked = "", 403, 0


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    server = Refusing(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}.items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()


@pytest.mark.parametrize(
    ("code", "status", "part"),
    [
        ("InvalidAccessKeyId", 403, "does not know this access key id"),
        ("SignatureDoesNotMatch", 403, "does not belong to the access key id"),
        ("ExpiredToken", 400, "have expired"),
        ("InvalidToken", 400, "AWS_SESSION_TOKEN"),
        ("RequestTimeTooSkewed", 403, "clock of this machine"),
        ("AccessDenied", 403, "was refused"),
        ("AuthorizationHeaderMalformed", 400, "region"),
    ],
)
def test_what_a_store_refuses_for_good_is_named_and_asked_once(
    store: Refusing, code: str, status: int, part: str
) -> None:
    store.code, store.status = code, status
    assert part in refusal()
    assert (
        store.num_asked <= 4
    )  # botocore asks anew where the region may be another, and a HEAD tells no reason


def test_what_may_get_better_is_tried_again_and_is_no_mistake_of_the_user(
    store: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.code, store.status = "InternalError", 500
    monkeypatch.setattr(places, "MAX_REQUESTS", 2)
    with pytest.raises(StorageError, match="still fails after 2 attempts"):
        Folder("s3://studio-works/catalog").read("x")
    assert store.num_asked >= 2
