"""Everything below a place is listed once, by its very name, with what identifies its content."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pix2score.errors import AccessError, DataError, StorageError
from pix2score.images.source import image_source
from pix2score.storage import places
from pix2score.storage.folder import Folder
from pix2score.storage.list_disk import LINK, SPECIAL
from pix2score.storage.listed import everything_below
from tests.conftest import BUCKET
from tests.storage.test_refusals import REFUSING_SERVER
from tests.support.listing_server import listing_server

PLAIN_KEYS = ("marker/", "a b+c%20#&.jpg", "ü/日本 .jpg", "quote\"'<&>.jpg", "back\\slash.jpg")
ODD_KEYS = ("//double.jpg", "/first.jpg", "a/../up.jpg", "./here.jpg", "what?.jpg", "tab\tline\n\x01.jpg")
"""Of which moto stores none under its very name."""


def forget() -> None:
    """The next S3 filesystem is made anew."""
    places._filesystem.cache_clear()
    places.fsspec.filesystem("s3").__class__.clear_instance_cache()


def listed(place: str) -> dict[str, dict[str, Any]]:
    rows = [row for batch in everything_below(Folder(place)) for row in batch.to_pylist()]
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def test_a_listing_agrees_with_the_entries_of_the_folder(place: str) -> None:
    folder = Folder(place)
    for path in ("a.jpg", "deep/er/b.png", "deep/c"):
        folder.publish(path, path.encode())
    found = listed(place)
    assert {(path, row["size"], row["tag"]) for path, row in found.items()} == {
        (entry.path, entry.size, entry.etag) for entry in folder.entries()
    }
    times = {path: row["modified"].timestamp() for path, row in found.items()}
    assert times == pytest.approx({entry.path: entry.modified for entry in folder.entries()}, abs=1e-5)
    assert all(row["uri"] is None and row["note"] is None for row in found.values())
    assert listed(f"{place}/none") == {}


@pytest.fixture
def s3_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes another endpoint that of S3."""

    def use(endpoint: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "somebody")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        forget()

    yield use
    forget()


def test_keys_of_s3_are_verbatim(s3: Any, s3_place: str) -> None:
    prefix = s3_place.partition(f"{BUCKET}/")[2]
    for key in PLAIN_KEYS:
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"x")
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}-another/x", Body=b"x")
    assert set(listed(s3_place)) == {*PLAIN_KEYS}


@pytest.mark.parametrize("page_rows", [1, 3, 1000])
def test_pages_of_s3_are_put_together_whatever_the_keys(s3_at: Callable[[str], None], page_rows: int) -> None:
    keys = {*PLAIN_KEYS, *ODD_KEYS, *(f"{number % 7}/{number:03}.jpg" for number in range(60))}
    others = ("art-other/x", "ar", "b/art/x")
    with listing_server([*(f"art/{key}" for key in keys), *others], page_rows) as (endpoint, asked):
        s3_at(endpoint)
        found = listed("s3://bucket/art")
        assert set(found) == keys
        assert len(asked) >= len(keys) / page_rows
        assert found["0/000.jpg"] == {
            "path": "0/000.jpg",
            "uri": None,
            "size": len("art/0/000.jpg"),
            "tag": f"{len('art/0/000.jpg'):032x}",
            "modified": datetime(2026, 1, 2, 3, 4, 5, 678000, UTC),
            "note": None,
            "changed": None,
            "inode": None,
        }
        assert set(listed("s3://bucket")) == {*(f"art/{key}" for key in keys), *others}


def test_a_store_that_always_gives_its_first_page_is_told(s3_at: Callable[[str], None]) -> None:
    with listing_server(["a/1", "a/2", "a/3"], 2, starts_after=False) as (endpoint, _):
        s3_at(endpoint)
        with pytest.raises(StorageError, match="'bucket' cannot be listed: its store ignores StartAfter"):
            listed("s3://bucket/a")


def test_a_bucket_that_is_not_there_is_named(moto_server: str) -> None:
    with pytest.raises(DataError, match="bucket 'no-such-bucket' does not exist"):
        listed("s3://no-such-bucket/x")


@pytest.fixture
def refusing(s3_at: Callable[[str], None]) -> Iterator[None]:
    """Every request is answered by AccessDenied."""
    command = [sys.executable, "-c", REFUSING_SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        s3_at(f"http://127.0.0.1:{server.stdout.readline().strip()}")
        yield
        server.kill()


@pytest.mark.usefixtures("refusing")
def test_a_bucket_that_may_not_be_listed_is_told_with_the_permission() -> None:
    words = "bucket 'closed-bucket' was refused: listing .* s3:ListBucket"
    with pytest.raises(AccessError, match=words) as error:
        listed("s3://closed-bucket/art")
    assert "\n" not in str(error.value)


@pytest.fixture
def closed_folder() -> Iterator[str]:
    """A place with a folder in it that this user may not list; root is somebody else meanwhile."""
    top = Path(tempfile.mkdtemp(dir="/tmp"))
    (top / "open").mkdir()
    (top / "open/1.jpg").write_bytes(b"x")
    (top / "closed").mkdir(mode=0o700)
    top.chmod(0o755)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        else:
            (top / "closed").chmod(0)
        yield str(top)
    finally:
        os.seteuid(user)
        (top / "closed").chmod(0o700)
        shutil.rmtree(top)


def test_a_folder_that_may_not_be_listed_is_named_and_not_passed_over(closed_folder: str) -> None:
    with pytest.raises(AccessError, match=f"{closed_folder}/closed' may not be listed: .*chmod a\\+rx"):
        listed(closed_folder)


def test_a_name_that_is_no_utf_8_is_named_by_a_uri_that_can_be_read(tmp_path: Path) -> None:
    name = b"caf\xe9 %20.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(b"content")
    row = listed(str(tmp_path))["caf\\xe9 %20.jpg"]
    assert row["uri"].startswith("file:///")
    assert image_source(str(tmp_path), ()).read_many([row["uri"]]) == [b"content"]


def test_links_and_what_is_no_file_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top, other = tmp_path / "top", tmp_path / "other"
    for folder in (top / "sub", other):
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_bytes(b"x")
    (top / "within.jpg").symlink_to("sub/1.jpg")
    (top / "elsewhere.jpg").symlink_to(other / "1.jpg")
    (top / "folder").symlink_to(top / "sub")
    (top / "nowhere.jpg").symlink_to("gone.jpg")
    (top / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(top / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(top)  # the path of a socket is short
        monkeypatch.chdir(top)  # the path of a socket is short
        server.bind("socket.jpg")
    notes = {path: row["note"] for path, row in listed(str(top)).items()}
    assert notes == {
        "sub/1.jpg": None,
        "within.jpg": None,
        **dict.fromkeys(("elsewhere.jpg", "folder", "nowhere.jpg", "loop.jpg"), LINK),
        **dict.fromkeys(("fifo.jpg", "socket.jpg"), SPECIAL),
    }


def test_a_place_that_is_itself_a_link_is_listed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/1.jpg").write_bytes(b"x")
    (tmp_path / "real/2.jpg").symlink_to("1.jpg")
    (tmp_path / "link").symlink_to("real")
    assert {path: row["note"] for path, row in listed(str(tmp_path / "link")).items()} == {
        "1.jpg": None,
        "2.jpg": None,
    }
