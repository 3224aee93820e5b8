"""What is told about images that could not be read: an example of each kind, and advice only where it
helps."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.catalog.contents import ImageRows, log_failures
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.rows import catalog_rows
from pix2score.catalog.several import open_catalogs, rows_of_all
from pix2score.errors import DataError, ImageFailure
from pix2score.images.source import image_source
from pix2score.storage.folder import Folder
from tests.support.builders import write_catalog


def catalog_of(root: Path, uris: list[str | None]) -> Catalog:
    return open_catalog(
        write_catalog(str(root), {"illust_id": range(len(uris)), "uri": pa.array(uris, pa.string())}),
        Columns(),
    )


def told(
    caplog: pytest.LogCaptureFixture, catalog: Catalog, code: str = "FORBIDDEN", roots: tuple[str, ...] = ()
) -> str:
    with caplog.at_level(logging.WARNING):
        log_failures(Counter({code: 3}), catalog, roots)
    return caplog.text


def test_advice_about_image_roots_is_given_where_a_uri_is_outside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = told(caplog, catalog_of(tmp_path, [None, "a.png", "/elsewhere/b.png", "/elsewhere/c.png"]))
    assert "'/elsewhere/b.png' is outside" in text
    assert "c.png" not in text
    assert text.count("--image-root PLACE allows another place") == 1


@pytest.mark.parametrize("uri", ["http://example.org/a.png", "hdfs://bucket/a.png", r"C:\a.png"])
def test_no_advice_is_given_that_cannot_help(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    text = told(caplog, catalog_of(tmp_path, ["a.png", uri, uri]))
    assert "is not read, only s3://bucket/key (gs://, az://), https:// and paths of files" in text
    assert "--image-root" not in text


def test_no_advice_is_given_where_access_was_refused_or_files_are_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "--image-root" not in told(caplog, catalog_of(tmp_path, ["a.png"]))
    assert "--image-root" not in told(caplog, catalog_of(tmp_path, ["/elsewhere/a.png"]), code="NOT_FOUND")


def test_places_that_an_image_root_allows_are_no_example(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = catalog_of(tmp_path, ["/elsewhere/b.png", "/third/c.png"])
    text = told(caplog, catalog, roots=("/elsewhere",))
    assert "'/third/c.png' is outside" in text
    assert "b.png" not in text


def test_each_kind_has_its_example(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = told(caplog, catalog_of(tmp_path, ["http://a/1", "http://a/2", "hdfs://a/3", "../4"]))
    assert [number in text for number in ("a/1", "a/2", "a/3", "../4")] == [True, False, True, True]


def test_a_uri_whose_bytes_are_no_utf8_is_a_row_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    uris = pa.array([b"a.png", b"caf\xe9.png"], pa.binary()).view(pa.string())
    images = ImageRows(image_source(str(tmp_path), ()), Folder(str(tmp_path)), None, {})
    first, second = images.contents(pa.table({"uri": uris}))
    assert first == b"picture"
    assert isinstance(second, ImageFailure)
    assert second.code == "NOT_FOUND"


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("form", ["struct", "dotted", "dictionary", "large", "view", "flat with a dot"])
def test_embedded_images_are_read_in_every_form_that_they_are_written_in(tmp_path: Path, form: str) -> None:
    images = [b"one", None, b"three", b""]
    column = {
        "struct": pa.array([{"bytes": image, "path": "x.png"} for image in images], STRUCT),
        "dotted": pa.array([{"bytes": image, "path": "x.png"} for image in images], STRUCT),
        "dictionary": pa.array(images, pa.binary()).dictionary_encode(),
        "large": pa.array(images, pa.large_binary()),
        "view": pa.array(images, pa.binary_view()),
        "flat with a dot": pa.array(images, pa.binary()),
    }[form]
    name = "image.bytes" if form == "flat with a dot" else "image"
    asked = "image.bytes" if form in ("dotted", "flat with a dot") else None
    place = write_catalog(str(tmp_path), {"illust_id": range(4), name: column, "etag": list("abcd")})
    catalog = open_catalog(place, Columns(image=asked))
    rows = pa.table({"file": ["catalog.parquet"] * 4, "row": pa.array(range(4), pa.int64())})
    contents = list(ImageRows.of(catalog, image_source(place, ())).contents(rows))
    assert contents[0] == b"one" and contents[2] == b"three"
    assert [c.code for c in contents if isinstance(c, ImageFailure)] == ["NOT_FOUND", "EMPTY"]


@pytest.mark.parametrize("asked", [None, "image.bytes"])
def test_rows_of_a_struct_without_bytes_are_read_from_their_path(place: str, asked: str | None) -> None:
    named = {"a.png": b"one", "below/b.png": bytes(3 * 2**20), "c.png": b"three"}
    for path, content in named.items():
        Folder(place).publish(path, content)
    images = [
        {"bytes": None, "path": "a.png"},
        {"bytes": b"two", "path": "/home/someone/a.png"},
        {"bytes": None, "path": "below/b.png"},
        {"bytes": None, "path": None},
        {"bytes": None, "path": "../elsewhere.png"},
        None,
        {"bytes": b"", "path": "a.png"},
    ]
    images += [{"bytes": b"x", "path": "y"} if i % 2 else {"bytes": None, "path": "c.png"} for i in range(60)]
    write_catalog(place, {"illust_id": range(len(images)), "image": pa.array(images, STRUCT)})
    catalog = open_catalog(place, Columns(image=asked))
    rows = pa.Table.from_batches(catalog.batches())
    contents = list(ImageRows.of(catalog, image_source(place, ())).contents(rows))
    assert [contents[i] for i in (0, 1, 2)] == [b"one", b"two", bytes(3 * 2**20)]
    failed = [content.code for content in contents[3:7] if isinstance(content, ImageFailure)]
    assert failed == ["NOT_FOUND", "FORBIDDEN", "NOT_FOUND", "EMPTY"]
    assert contents[7:] == [b"x" if i % 2 else b"three" for i in range(60)]


def test_a_struct_that_only_names_files_is_told_how_to_be_read(tmp_path: Path) -> None:
    Folder(str(tmp_path)).publish("a.png", b"one")
    images = pa.array([{"bytes": None, "path": "a.png"}])  # bytes are of type null
    place = write_catalog(str(tmp_path), {"illust_id": [1], "image": images})
    with pytest.raises(
        DataError, match="none of its fields holds bytes; .* --columns.uri image.path is for it"
    ):
        open_catalog(place, Columns())
    catalog = open_catalog(place, Columns(uri="image.path"))
    rows = pa.Table.from_batches(catalog.batches())
    assert list(ImageRows.of(catalog, image_source(place, ())).contents(rows)) == [b"one"]


def test_the_fingerprint_of_a_row_is_its_bytes_or_else_its_path(tmp_path: Path) -> None:
    images = [{"bytes": b"one", "path": "a.png"}, {"bytes": None, "path": "a.png"}, None]
    place = write_catalog(str(tmp_path), {"illust_id": range(3), "image": pa.array(images, STRUCT)})
    with catalog_rows(open_catalog(place, Columns()), PlanCounts()) as connection:
        found = connection.execute("SELECT fingerprint FROM keyed ORDER BY illust_id").fetchall()
    assert found == [(f"sha256:{hashlib.sha256(b'one').hexdigest()}",), ("uri:a.png",), (None,)]


def test_paths_of_several_catalogs_are_those_of_their_own_folders(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in "ab"]
    for number, place in enumerate(places):
        Folder(place).publish("a.png", bytes([number]))
        images = pa.array([{"bytes": None, "path": "a.png"}], STRUCT)
        write_catalog(place, {"illust_id": [number], "image": images})
    catalogs = open_catalogs(places, Columns(), (), {})
    with rows_of_all(catalogs, PlanCounts()) as connection:
        rows = connection.sql('SELECT uri, file, "row" FROM keyed ORDER BY illust_id').to_arrow_table()
    assert list(ImageRows.of_all(catalogs, ()).contents(rows)) == [b"\0", b"\1"]
