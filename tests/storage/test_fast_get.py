"""Objects fetched past botocore: the same bytes and the same errors, whatever the key or the trouble."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import uuid
from typing import Any

import pytest
from fsspec.asyn import sync

from pix2score.storage import fast_get, objects
from pix2score.storage.fast_get import FastGets, fast_gets, is_verbatim
from pix2score.storage.objects import gather_objects
from pix2score.storage.places import filesystem
from tests.conftest import BUCKET

PRINTABLE = [f"a{chr(code)}b" for code in range(32, 127) if chr(code) != "/"]
PLAIN = [
    *PRINTABLE, "a/b/c.jpg", "絵/猫 1.png", "e\u0301.jpg", "é.jpg", "a%2Fb", "a%20b", "a+b c", "...",
    "a/..b/c", " a", "a ", "😀", "x" * 300, "C:\\a\\b", "a\u2028b",
    "?x=1", "#a", "a?versionId=1", "~", "a/~/b",
]  # fmt: skip
OTHERS = [
    "/a",
    "a//b",
    "a/",
    "a/./b",
    "a/../b",
    "./a",
    "../a",
    ".",
    "..",
    "a\tb",
    "\x7f",
    "a\nb",
    "a/.",
    "a/..",
]


def fs() -> Any:
    return filesystem(f"s3://{BUCKET}")


def fetched(keys: list[str], most: int = 2**20, bucket: str = BUCKET) -> list[Any]:
    wanted = [(bucket, key) for key in keys]
    return gather_objects(fs(), wanted, max_bytes=most, num_concurrent=8, timeout_s=60)


@pytest.fixture
def prefix(s3: Any) -> str:
    return f"fast-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def only_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object) -> tuple[int, bytes]:
        raise AssertionError("asked botocore")

    monkeypatch.setattr(objects, "_get_whole", refused)


def test_every_plain_key_is_asked_for_as_it_is(s3: Any, prefix: str, only_fast: None) -> None:
    keys = [f"{prefix}/{key}" for key in PLAIN]
    assert all(map(is_verbatim, keys)), [key for key in keys if not is_verbatim(key)]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    found = fetched(keys)
    wrong = [
        (key, one) for key, one in zip(keys, found, strict=True) if one != (len(key.encode()), key.encode())
    ]
    assert not wrong


@pytest.mark.parametrize("key", OTHERS)
def test_a_key_that_would_be_spelled_otherwise_is_left_to_botocore(key: str) -> None:
    assert not is_verbatim(key)


def test_a_key_next_to_another_one_is_not_mistaken_for_it(s3: Any, prefix: str) -> None:
    for key in ("a/b", "b"):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"another")
    odd = [f"{prefix}//a/b", f"{prefix}/a//b", f"{prefix}/a/b/", f"/{prefix}/a/b"]
    assert all(isinstance(one, FileNotFoundError) for one in fetched(odd))


def test_what_is_larger_is_not_read_and_what_is_missing_is_said_to_be(
    s3: Any, prefix: str, only_fast: None
) -> None:
    for name, size in (("small", 100), ("large", 101), ("empty", 0)):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"x" * size)
    small, large, empty, none = fetched(
        [f"{prefix}/{n}" for n in ("small", "large", "empty", "none")], most=100
    )
    assert (small, large, empty) == ((100, b"x" * 100), (101, b""), (0, b""))
    assert isinstance(none, FileNotFoundError)
    assert isinstance(fetched(["a"], bucket=f"no-{prefix}")[0], FileNotFoundError)


def test_trouble_is_left_to_botocore_for_a_while(
    s3: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/a", Body=b"content")
    gets = FastGets(fs())
    bucket = gets.bucket(BUCKET)
    assert bucket
    tried: list[str] = []

    class Broken:
        def get(self, key: str) -> Any:
            tried.append(key)
            raise OSError("connection reset")

    whole, bucket._store = bucket._store, Broken()
    monkeypatch.setitem(fast_get._OF_FILESYSTEM, fs(), gets)
    for _ in range(5):
        assert fetched([f"{prefix}/a"]) == [(7, b"content")]
    assert len(tried) == 3
    bucket._store, bucket._paused_until = whole, 0.0
    assert sync(fs().loop, bucket.get, f"{prefix}/a", 100) == (7, b"content")


def test_an_object_that_stalls_is_given_up_for_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_get, "READ_TIMEOUT_S", 0.2)
    bucket = FastGets(fs()).bucket(BUCKET)
    assert bucket

    class Stalled:
        def get(self, key: str) -> Any:
            ended.wait(60)

    ended, bucket._store = threading.Event(), Stalled()
    assert asyncio.run(bucket.get("a", 100)) is None
    ended.set()


@pytest.mark.parametrize("lacking", ["credentials", "certificates"])
def test_without_what_botocore_needs_there_is_no_fast_way(
    moto_server: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "credentials":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    else:
        monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere.pem")
    assert FastGets(fs()).bucket(BUCKET) is None


def test_one_for_each_filesystem(moto_server: str) -> None:
    assert fast_gets(fs()) is fast_gets(fs())


ENDS = """
import sys
from pix2score.storage.folder import Folder
assert Folder(sys.argv[1]).read_many([sys.argv[2]])
"""


@pytest.mark.endurance
@pytest.mark.timeout(900)
def test_a_process_that_read_an_object_ends_well(s3: Any, prefix: str) -> None:
    """With obstore's awaited calls 1 of 40 was aborted at its end, after its work was done."""
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/a", Body=b"content")
    for _ in range(200):
        done = subprocess.run([sys.executable, "-c", ENDS, f"s3://{BUCKET}/{prefix}", "a"], check=False)
        assert done.returncode == 0
