"""Google Cloud Storage and Azure Blob: spellings, large objects, listings, errors, in which they differ."""

from __future__ import annotations

import http.server
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from email.utils import formatdate
from typing import ClassVar

import pytest

from pix2score.errors import AccessError, ConfigError, DataError, ImageFailure, StorageError
from pix2score.images.source import image_source
from pix2score.storage import azure, remote, remote_stores
from pix2score.storage.folder import Folder
from pix2score.storage.places import normalise
from tests.support.paths import ROOT
from tests.support.stores import CONTAINER, KEY, AzureServer, GoogleServer


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_a_large_object_is_sent_in_parts_and_is_there_once_all_are(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 2**20)
    folder, data = Folder(place), os.urandom(7 * 2**19)
    folder.publish("object", b"before")
    with folder.fs.open(folder.full("object"), "wb") as stream:
        for start in range(0, len(data), 1000):
            stream.write(data[start : start + 1000])
        assert folder.read("object") == b"before"
    assert folder.read("object") == data
    abandoned = folder.fs.open(folder.full("never"), "wb")
    abandoned.write(data)
    abandoned.flush()
    assert not folder.is_file("never")
    abandoned.closed = True  # nobody closes what a killed process wrote
    with folder.fs.open(folder.full("empty"), "wb"):
        pass
    assert folder.read("empty") == b""


PEAK = """
import os, sys
from pathlib import Path
from pix2score.storage import remote
from pix2score.storage.folder import Folder

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

folder, remote.PART_BYTES = Folder(sys.argv[1]), 2**20
folder.publish("small", b"1")
before = peak()
with folder.fs.open(folder.full("object"), "wb") as stream:
    for _ in range(128):
        stream.write(os.urandom(2**20))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_a_large_object_is_never_whole_in_memory(place: str) -> None:
    found = subprocess.check_output([sys.executable, "-c", PEAK, place], text=True, cwd=ROOT)
    assert int(found) < 48 * 2**10
    assert Folder(place).entry("object").size == 128 * 2**20


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "DefaultEndpointsProtocol=https;AccountName=studio;AccountKey=a==;EndpointSuffix=core.windows.net",
            {
                "account_name": "studio",
                "account_key": "a==",
                "endpoint": "https://studio.blob.core.windows.net",
            },
        ),
        (
            "BlobEndpoint=https://studio.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=b%3D",
            {
                "account_name": "studio",
                "sas_key": "sv=1&sig=b%3D",
                "endpoint": "https://studio.blob.core.windows.net/",
            },
        ),
        ("UseDevelopmentStorage=true", {"account_name": "devstoreaccount1", "use_emulator": "true"}),
    ],
)
def test_a_connection_string_is_read_as_the_portal_writes_it(
    settings: pytest.MonkeyPatch, text: str, found: dict[str, str]
) -> None:
    settings.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    assert azure.settings() == found


def test_places_of_other_stores_have_one_spelling(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("AZURE_STORAGE_ACCOUNT", "studio")
    assert normalise("gcs://bucket/prefix//") == "gs://bucket/prefix"
    assert normalise("abfs://container/prefix/") == "az://container/prefix"
    assert normalise("abfss://container@studio.dfs.core.windows.net/a") == "az://container/a"
    assert (Folder("gs://bucket/a/b").parent.uri, Folder("az://c").name) == ("gs://bucket/a", "c")
    for place in ("gs://bucket/a//b", "az://container/a/../b"):
        with pytest.raises(ConfigError, match="a part that is empty, '.' or '..' cannot be read"):
            normalise(place)
    with pytest.raises(AccessError, match="of the account 'another', the environment's is 'studio'"):
        normalise("abfss://container@another.dfs.core.windows.net/a")


def test_the_google_server_itself_keeps_a_second_creator_out(google_server: GoogleServer) -> None:
    """What the race of two processes rests on: its own answer, without the bridge of the tests."""

    def create(name: str) -> int:
        query = f"uploadType=multipart&ifGenerationMatch=0&name={name}"
        part = (
            b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: a/b\r\n\r\nx\r\n--b--"
        )
        url = f"{google_server.direct}/upload/storage/v1/b/{CONTAINER}/o?{query}"
        request = urllib.request.Request(url, part, {"Content-Type": "multipart/related; boundary=b"})
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code

    assert [create("once"), create("once"), create("another")] == [200, 412, 200]


def test_a_bucket_of_google_that_does_not_exist_is_named(google_server: GoogleServer) -> None:
    folder = Folder("gs://no-such-bucket-here/prefix")
    for act in (lambda: folder.publish("x", b"1"), folder.entries, folder.top_entries):
        with pytest.raises(DataError, match="bucket 'no-such-bucket-here' does not exist"):
            act()


def test_a_container_of_azure_that_does_not_exist_is_named(azure_server: AzureServer) -> None:
    folder = Folder("az://no-such-container-here/prefix")
    for act in (
        lambda: folder.publish("x", b"1"),
        lambda: folder.read("x"),
        folder.entries,
        folder.top_entries,
    ):
        with pytest.raises(DataError, match="container 'no-such-container-here' does not exist"):
            act()


def test_a_wrong_key_of_azure_is_told(azure_server: AzureServer, settings: pytest.MonkeyPatch) -> None:
    text = azure_server.connection_string.replace(KEY, "AAAA" + KEY[4:])
    settings.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    with pytest.raises(AccessError, match=f"container '{CONTAINER}' was refused: the key .AZURE_STORAGE_KEY"):
        Folder(f"az://{CONTAINER}/x").publish("x", b"1")


class Undecided(http.server.BaseHTTPRequestHandler):
    """A store that answers the first two PUTs of all with ``status``, and holds nothing yet."""

    protocol_version = "HTTP/1.1"
    status: ClassVar[int] = 409
    puts: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.puts.append(str(self.headers["x-goog-if-generation-match"]))
        self._answer(self.status if len(self.puts) <= 2 else 200)

    def do_GET(self) -> None:
        self._answer(404)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        for name, value in (("ETag", '"x"'), ("x-goog-generation", "1"), ("Content-Length", "0")):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("status", [409, 412, 429, 500, 503])
def test_a_creation_that_the_store_has_not_decided_or_could_not_do_is_sent_again(
    settings: pytest.MonkeyPatch, status: int
) -> None:
    handler = type("Handler", (Undecided,), {"status": status, "puts": (puts := [])})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{server.server_port}")
    try:
        assert Folder("gs://bucket/x").publish("object", b"data") == 4
    finally:
        server.shutdown()
    assert puts == ["0", "0", "0"]


def test_an_error_shows_no_signature_of_a_uri(settings: pytest.MonkeyPatch) -> None:
    settings.setattr(remote_stores, "MAX_RETRIES", 0)
    handler = type("Handler", (Undecided,), {"status": 500, "puts": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    text = (
        f"BlobEndpoint=http://127.0.0.1:{server.server_port}/studio;SharedAccessSignature=sv=1&sig=hidden42"
    )
    settings.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    try:
        with pytest.raises(StorageError) as caught:
            Folder("az://container/x").publish("object", b"data")
    finally:
        server.shutdown()
    assert "500" in str(caught.value)
    told = "".join(traceback.format_exception(caught.value))
    assert "hidden42" not in told


class Stalling(http.server.BaseHTTPRequestHandler):
    """Gives half of an object, and for a while nothing more."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        self.send_response(200)
        for name, value in (
            ("ETag", '"x"'),
            ("Last-Modified", formatdate(usegmt=True)),
            ("Content-Length", "10"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"12345")
        self.wfile.flush()
        time.sleep(2)

    def log_message(self, *args: object) -> None:
        pass


def test_an_image_that_stands_still_is_a_timeout(settings: pytest.MonkeyPatch) -> None:
    settings.setattr(remote_stores, "READ_TIMEOUT_S", 0.3)
    settings.setattr(remote_stores, "MAX_RETRIES", 0)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{server.server_port}")
    try:
        (found,) = image_source("gs://bucket/x", ()).read_many(["a.png"])
    finally:
        server.shutdown()
    assert isinstance(found, ImageFailure)
    assert found.code == "TIMEOUT", found.detail


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_more_is_listed_and_removed_than_a_page_holds(place: str) -> None:
    folder = Folder(place)
    names = [f"deep/{i % 7}/{i:04}.json" for i in range(60)]
    for name in names:
        folder.publish(name, name.encode())
    assert folder.read_many(names) == {name: name.encode() for name in names}
    assert [entry.path for entry in folder.entries("deep/3")] == [n for n in names if n.startswith("deep/3/")]
    folder.delete([*names, "deep/gone.json"])
    assert folder.entries() == []


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_a_range_beyond_the_end_ends_there_and_an_empty_one_is_empty(place: str) -> None:
    folder = Folder(place)
    folder.publish("x", b"0123456789")
    assert folder.read_range("x", 8, 100) == b"89"
    assert folder.read_range("x", 4, 4) == b""
    assert folder.read_ranges([("x", 0, 3), ("x", 7, 10)]) == [b"012", b"789"]
    with folder.open("x") as stream:
        stream.seek(-3, os.SEEK_END)
        assert stream.read(2) == b"78"


@pytest.mark.parametrize("key", ["a//b", "./a", "a/../b", "a\x01b"])
def test_a_key_that_cannot_be_asked_for_is_not_found(
    google_server: GoogleServer, gs_place: str, key: str
) -> None:
    Folder(gs_place).publish("b", b"another")
    source = image_source(gs_place, (f"gs://{CONTAINER}",))
    (found,) = source.read_many([f"{gs_place}/{key}"])
    assert isinstance(found, ImageFailure)
    assert found.code == "NOT_FOUND"


def test_deleting_begins_the_next_ending_when_the_one_before_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[list[str]] = []

    class Store(remote.RemoteFileSystem):
        protocol = "gs"

        def new_store(self, bucket: str, options: object) -> object:
            raise AssertionError("nothing is asked")

        def _delete_all(self, places: object) -> None:
            removed.append(list(places))  # type: ignore[call-overload]

    names = [*(f"r{i}.json" for i in range(20)), *(f"p{i}.parquet" for i in range(3))]
    Store().delete_objects([f"gs://b/{name}" for name in names])
    assert [len(some) for some in removed] == [16, 4, 3]
    assert [place for some in removed for place in some] == [f"gs://b/{name}" for name in names]


def test_no_log_holds_the_key(
    azure_server: AzureServer, az_place: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        folder = Folder(az_place)
        folder.publish("x", b"1")
        with pytest.raises(FileExistsError):
            folder.publish("x", b"2")
        assert folder.entries()
    assert KEY not in caplog.text + repr(folder) + repr(folder.fs)


def test_what_is_in_a_store_is_read_by_a_process_of_its_own(place: str) -> None:
    Folder(place).publish("x", b"1")
    script = "import sys; from pix2score.storage.folder import read_place; print(read_place(sys.argv[1]))"
    words = [sys.executable, "-c", script, f"{place}/x"]
    assert subprocess.check_output(words, text=True, cwd=ROOT).strip() == "b'1'"
