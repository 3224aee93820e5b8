"""Keys that clients spell otherwise: what is listed and read is the very object, or said not to be read."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.job import catalog
from pix2score.errors import DataError, ImageFailure
from pix2score.images.source import image_source
from pix2score.storage import places, remote_listing
from pix2score.storage.azure import AzureFileSystem
from pix2score.storage.folder import Folder
from pix2score.storage.google import GoogleFileSystem
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.verbatim import ListingNotPossibleError, ListingQuery
from tests.conftest import BUCKET
from tests.support.stores import ACCOUNT, KEY, AzureServer, GoogleServer

Put = Callable[[str, bytes], None]
PLAIN = [
    "a/b.png",
    "sp ace.png",
    "per%cent.png",
    "per%20cent.png",
    "slash%2Fslash.png",
    "ha#sh.png",
    "qu?estion=1&x.png",
    "pl+us.png",
    "pl us.png",
    "絵/ü\u0308.png",
    "e\u0301.png",
    "\u00e9.png",
    "[a]*.png",
    "..dots../.a.png.png",
    "~'();:@=,.png",
]
"""Below a prefix. Each is another object."""
ODD = ["a//b.png", "./a/b.png", "a/./b.png", "a/../b.png", "../a/b.png", "/a/b.png", "a/b\t.png", "//b.png"]
"""As a client might spell them, some are one of ``PLAIN``."""


def read(place: str, uris: list[str]) -> list[bytes | ImageFailure]:
    return image_source(place, (place,)).read_many(uris)


@pytest.fixture(params=["s3", "gs", "az"])
def store(request: pytest.FixtureRequest) -> tuple[str, Put]:
    """A fresh place, and what puts an object below it, by its very key."""
    place = str(request.getfixturevalue(f"{request.param}_place"))
    prefix = place.partition(f"{BUCKET}/")[2]
    if request.param == "s3":
        client = request.getfixturevalue("s3")
        return place, lambda key, data: client.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=data)
    server = request.getfixturevalue("google_server" if request.param == "gs" else "azure_server")
    return place, lambda key, data: server.put(f"{prefix}/{key}", data)


def listed(images: str, out: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Path below the place -> uri of each row of a catalog that is made of it; what was left out."""
    told = catalog(CatalogConfig(images=images, out=str(out), id="path"))
    uris = pq.read_table(out).column("uri").to_pylist()
    return {uri.removeprefix(f"{images}/"): uri for uri in uris}, dict(told["left_out"])


def test_plain_keys_are_listed_and_read_as_they_are(store: tuple[str, Put], tmp_path: Path) -> None:
    place, put = store
    for key in PLAIN:
        put(key, key.encode())
    found, left_out = listed(place, tmp_path / "catalog.parquet")
    hidden = [key for key in PLAIN if "/." in key]
    assert sorted(found) == sorted(set(PLAIN) - set(hidden))
    assert left_out == {"hidden": len(hidden)}
    assert read(place, list(found.values())) == [key.encode() for key in found]
    assert read(place, [f"{place}/{key}" for key in hidden]) == [key.encode() for key in hidden]


def test_no_key_is_lost_or_read_as_another(store: tuple[str, Put], tmp_path: Path) -> None:
    place, put = store
    for key in [*PLAIN, *ODD, "marker/"]:
        put(key, key.encode())
    found, left_out = listed(place, tmp_path / "catalog.parquet")
    odd = read(place, [f"{place}/{key}" for key in ODD])
    assert read(place, list(found.values())) == [key.encode() for key in found]
    if place.startswith("s3"):
        assert odd == [key.encode() for key in ODD]
        assert not {*PLAIN, *ODD} - {*found} - {key for key in (*PLAIN, *ODD) if "/." in f"/{key}"}
        return
    assert left_out == {"hidden": 1, "key that is not read there": len(ODD)}
    assert sorted(found) == sorted(key for key in PLAIN if "/." not in key)
    for key, failure in zip(ODD, odd, strict=True):
        assert isinstance(failure, ImageFailure), key
        assert failure.code == "NOT_FOUND"
        assert "no object whose key has an empty part, '.', '..' or a control" in failure.detail


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_a_slash_before_a_key_is_not_lost(
    request: pytest.FixtureRequest, tmp_path: Path, scheme: str
) -> None:
    server, bucket = new_bucket(request, scheme)
    for key in ("/a.png", "b.png"):
        server.put(key, key.encode(), bucket)
    place = f"{scheme}://{bucket}"
    found, left_out = listed(place, tmp_path / "catalog.parquet")
    assert (list(found), left_out) == (["b.png"], {"key that is not read there": 1})
    server.put("a.png", b"another", bucket)
    (failure, content) = read(place, [f"{place}//a.png", f"{place}/a.png"])
    assert isinstance(failure, ImageFailure)
    assert content == b"another"


def new_bucket(request: pytest.FixtureRequest, scheme: str) -> tuple[GoogleServer | AzureServer, str]:
    name = f"top-{uuid.uuid4().hex[:12]}"
    if scheme == "gs":
        google: GoogleServer = request.getfixturevalue("google_server")
        google.create_bucket(name)
        return google, name
    azure: AzureServer = request.getfixturevalue("azure_server")
    azure.create_container(name)
    return azure, name


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_a_folder_with_an_odd_key_is_listed_level_by_level_too(
    request: pytest.FixtureRequest, scheme: str
) -> None:
    server, bucket = new_bucket(request, scheme)
    names = ["in/a//b.png", "in/a/c.png", "in/./d.png", "in/e.png", "in/f/g.png", "in/"]
    for key in names:
        server.put(key, key.encode(), bucket)
    fs = Folder(f"{scheme}://{bucket}").fs
    level = {info["name"].removeprefix(f"{bucket}/in/"): info["type"] for info in fs.ls(f"{bucket}/in")}
    assert level == {"a": "directory", ".": "directory", "f": "directory", "e.png": "file"}
    assert [entry.path for entry in Folder(f"{scheme}://{bucket}/in").entries("a")] == ["a//b.png", "a/c.png"]
    assert fs.isdir(f"{bucket}/in/a")
    assert not fs.isdir(f"{bucket}/in/z")


def rows(*ids: int) -> pa.Table:
    return pa.table({"illust_id": ids, "uri": [f"{i}.png" for i in ids]})


@pytest.mark.parametrize("store", ["gs", "az"], indirect=True)
def test_a_catalog_beside_pictures_of_odd_keys_is_read_and_a_part_of_such_a_key_is_named(
    store: tuple[str, Put],
) -> None:
    place, put = store
    put("catalog/part.parquet", parquet_bytes(rows(1, 2)))
    put("catalog/images//a.png", b"picture")
    found = open_catalog(f"{place}/catalog", Columns())
    assert [file.path for file in found.files] == ["part.parquet"]
    put("catalog//more.parquet", parquet_bytes(rows(3)))
    put("parts/x=1//more.parquet", parquet_bytes(rows(3)))
    with pytest.raises(DataError, match="parts/x=1//more.parquet"):
        list(open_catalog(f"{place}/parts", Columns()).batches())


@pytest.mark.slow
def test_a_listing_goes_on_where_the_first_one_met_an_odd_key(
    azure_server: AzureServer, az_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of Azure holds 5,000 names; obstore gives none of a page with such a key."""
    monkeypatch.setattr(remote_listing, "PAGE", 700)
    folder, prefix = Folder(az_place), az_place.partition(f"{BUCKET}/")[2]
    names = [f"{i:05}.png" for i in range(5_100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: folder.publish(name, b"1"), names))
    azure_server.put(f"{prefix}/05050//odd.png", b"2")
    azure_server.put(
        f"{prefix}/04898/", b""
    )  # the last of the first listing, which tells it without the slash
    found = [info["name"] for page in folder.fs.pages(az_place) for info in page]
    wanted = [name.rstrip("/") for name in sorted([*names, "05050//odd.png", "04898/"])]
    assert found == [f"{BUCKET}/{prefix}/{name}" for name in wanted]


def sas(**words: str) -> str:
    """Of the account, for everything; signed as the portal does."""
    given = {"sv": "2019-02-02", "ss": "b", "srt": "sco", "sp": "rwdl", "se": "2099-01-01T00:00:00Z", **words}
    signed = [
        ACCOUNT,
        *(given[name] for name in ("sp", "ss", "srt")),
        "",
        given["se"],
        "",
        "",
        given["sv"],
        "",
    ]
    digest = hmac.new(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256).digest()
    words = {**given, "sig": base64.b64encode(digest).decode()}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in words.items())


def test_with_a_sas_token_such_keys_are_listed_too(
    azure_server: AzureServer, az_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure_server.put(f"{az_place.partition(f'{BUCKET}/')[2]}/ä b//c.png", b"1")
    text = f"BlobEndpoint={azure_server.endpoint};SharedAccessSignature={sas()}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    places._filesystem.cache_clear()
    try:
        assert [entry.path for entry in Folder(az_place).entries()] == ["ä b//c.png"]
        text = text.replace("sp=rwdl", "sp=rl")  # another than was signed
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        with pytest.raises(DataError, match=f"container '{BUCKET}' was refused") as refused:
            list(AzureFileSystem().verbatim(BUCKET, "x"))
        assert "sig=" not in str(refused.value)
    finally:
        places._filesystem.cache_clear()


def test_a_container_that_cannot_be_listed_so_names_the_key_and_what_it_takes(
    azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"public-{uuid.uuid4().hex[:12]}"
    azure_server.create_container(name, is_public=True)
    azure_server.put("in/c.png", b"1", name)
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azure_server.endpoint)
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    places._filesystem.cache_clear()
    try:
        folder = Folder(f"az://{name}/in")
        assert [entry.path for entry in folder.entries()] == ["c.png"]
        azure_server.put("in/a//b.png", b"1", name)
        words = "holds an object whose key cannot be read: .*in/a//.*; with the account's key or a SAS token"
        for act in (folder.entries, (folder / "a").top_entries):
            with pytest.raises(DataError, match=words):
                act()
    finally:
        places._filesystem.cache_clear()


def test_where_such_a_listing_is_not_possible_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "of an identity")
    monkeypatch.setitem(__import__("sys").modules, "google.auth", None)
    query = ListingQuery("x/", False, None)
    with pytest.raises(ListingNotPossibleError, match=r"pip install 'pix2score\[google\]' lets such buckets"):
        GoogleFileSystem().listing_request("bucket", query)
    with pytest.raises(ListingNotPossibleError, match="with the account's key or a SAS token"):
        AzureFileSystem().listing_request("container", query)
