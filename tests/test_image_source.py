"""Reading what a catalog names: only under its folder or an image root, only regular files and S3 objects, failures by name."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pix2score.errors import ConfigError, ImageFailure
from pix2score.image_source import ImageSource, image_source
from pix2score.images import MAX_BYTES
from tests.conftest import BUCKET


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalog's folder with one image, and a secret beside it."""
    folder = tmp_path / "catalog"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.png").write_bytes(b"image a")
    (tmp_path / "outside.png").write_bytes(b"outside")
    (tmp_path / "catalog-old").mkdir()
    (tmp_path / "catalog-old" / "x.png").write_bytes(b"sibling")
    return folder


def read(source: ImageSource, uri: str) -> bytes | str:
    """Content, or the code of the failure."""
    (result,) = source.read_many([uri])
    return result.code if isinstance(result, ImageFailure) else result


@pytest.mark.parametrize("uri", ["sub/a.png", "./sub/a.png", "sub/../sub/a.png", "sub//a.png"])
def test_a_relative_path_is_read_from_the_catalogs_folder(folder: Path, uri: str) -> None:
    assert read(image_source(str(folder), ()), uri) == b"image a"


def test_an_absolute_path_under_the_catalogs_folder_is_read(folder: Path) -> None:
    assert read(image_source(str(folder), ()), str(folder / "sub" / "a.png")) == b"image a"


@pytest.mark.parametrize(
    "uri",
    [
        "../outside.png",
        "sub/../../outside.png",
        "../catalog-old/x.png",
        "/etc/passwd",
        "http://example.org/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://host/a.png",
        "gs://bucket/a.png",
        "s3://other-bucket/a.png",
        "s3://",
        "",
        ".",
        "a\0b",
    ],
)
def test_what_leads_outside_or_is_of_another_scheme_is_forbidden(folder: Path, uri: str) -> None:
    assert read(image_source(str(folder), ()), uri) == "FORBIDDEN"


def test_a_link_that_leads_outside_is_forbidden_and_one_that_stays_inside_is_read(folder: Path) -> None:
    (folder / "out.png").symlink_to(folder.parent / "outside.png")
    (folder / "outdir").symlink_to(folder.parent)
    (folder / "in.png").symlink_to(folder / "sub" / "a.png")
    source = image_source(str(folder), ())
    assert [read(source, uri) for uri in ("out.png", "outdir/outside.png", "in.png")] == ["FORBIDDEN", "FORBIDDEN", b"image a"]


def test_a_catalog_reached_through_a_link_reads_its_images(folder: Path) -> None:
    alias = folder.parent / "alias"
    alias.symlink_to(folder)
    source = image_source(str(alias), ())
    assert read(source, "sub/a.png") == b"image a"
    assert read(source, str(alias / "sub" / "a.png")) == b"image a"


def test_an_image_root_allows_another_place(folder: Path) -> None:
    source = image_source(str(folder), (str(folder.parent / "catalog-old"),))
    assert read(source, "../catalog-old/x.png") == b"sibling"
    assert read(source, str(folder.parent / "catalog-old" / "x.png")) == b"sibling"
    assert read(source, "../outside.png") == "FORBIDDEN"


def test_an_image_root_of_another_scheme_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="http://host"):
        image_source(str(folder), ("http://host/x",))


def test_what_is_not_a_regular_file_is_forbidden_and_never_hangs(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to(folder / "loop")
    source = image_source(str(folder), ("/dev",))
    # Should the fifo be waited for, this lets it go, so that the test fails rather than hangs.
    release = threading.Timer(5, lambda: os.close(os.open(folder / "fifo", os.O_WRONLY | os.O_NONBLOCK)))
    release.start()
    assert [read(source, uri) for uri in ("fifo", "sub", "sub/", "/dev/zero", "/dev/null", "loop")] == ["FORBIDDEN"] * 6
    assert release.is_alive(), "waited for a writer"
    release.cancel()


def test_what_is_not_there_is_not_found(folder: Path) -> None:
    source = image_source(str(folder), ())
    assert [read(source, uri) for uri in ("sub/b.png", "none/b.png", "sub/a.png/b", "x" * 300)] == ["NOT_FOUND"] * 4


def test_an_empty_file_is_empty(folder: Path) -> None:
    (folder / "empty").touch()
    assert read(image_source(str(folder), ()), "empty") == "EMPTY"


def test_a_file_over_the_limit_is_too_large_without_being_read(folder: Path) -> None:
    for name, size in (("huge", 10**13), ("just over", MAX_BYTES + 1)):
        with (folder / name).open("wb") as file:
            file.truncate(size)  # sparse: reading it would take all memory
    source = image_source(str(folder), ())
    assert [read(source, name) for name in ("huge", "just over")] == ["TOO_LARGE"] * 2


S3_KEYS = [
    "plain.png",
    "with space.png",
    "a+b%20c.png",
    "ünïcødé-絵.png",
    "deep/../key.png",
    "q?x=1&y#z.png",
    "star*[0].png",
    "a//b.png",
]


@pytest.mark.parametrize("key", S3_KEYS)
def test_an_s3_key_is_taken_verbatim(s3: Any, s3_place: str, key: str) -> None:
    prefix = s3_place.removeprefix(f"s3://{BUCKET}/")
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=key.encode())
    source = image_source(s3_place, ())
    assert read(source, f"{s3_place}/{key}") == key.encode()
    assert read(source, key) == key.encode()


def test_s3_failures_have_their_names(s3: Any, s3_place: str) -> None:
    prefix = s3_place.removeprefix(f"s3://{BUCKET}/")
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/empty", Body=b"")
    source = image_source(s3_place, ("s3://no-such-bucket-here",))
    wanted = {
        f"{s3_place}/absent": "NOT_FOUND",
        f"{s3_place}/empty": "EMPTY",
        "s3://no-such-bucket-here/x": "NOT_FOUND",
        f"{s3_place}-old/x": "FORBIDDEN",
        f"s3://{BUCKET}/elsewhere": "FORBIDDEN",
        "/etc/passwd": "FORBIDDEN",
        "file:///etc/passwd": "FORBIDDEN",
    }
    assert {uri: read(source, uri) for uri in wanted} == wanted


def test_an_s3_object_over_the_limit_is_too_large(s3: Any, s3_place: str) -> None:
    prefix = s3_place.removeprefix(f"s3://{BUCKET}/")
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/huge", Body=bytes(MAX_BYTES + 1))
    assert read(image_source(s3_place, ()), "huge") == "TOO_LARGE"


def test_a_local_path_is_not_opened_for_a_catalog_on_s3_even_below_an_image_root(s3_place: str, folder: Path) -> None:
    source = image_source(s3_place, (str(folder),))
    assert read(source, "sub/a.png") == "NOT_FOUND"


def test_results_stand_in_the_order_of_the_uris(folder: Path, s3: Any, s3_place: str) -> None:
    prefix = s3_place.removeprefix(f"s3://{BUCKET}/")
    for i in range(40):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{i}", Body=b"s3 %d" % i)
        (folder / str(i)).write_bytes(b"local %d" % i)
    source = image_source(str(folder), (s3_place,))
    uris, wanted = [], []
    for i in range(40):
        uris += [f"{s3_place}/{i}", str(i), "../outside.png", f"{s3_place}/absent"]
        wanted += [b"s3 %d" % i, b"local %d" % i, "FORBIDDEN", "NOT_FOUND"]
    assert [r.code if isinstance(r, ImageFailure) else r for r in source.read_many(uris)] == wanted
    assert source.read_many([]) == []


@pytest.mark.parametrize("uri", ["../outside.png", "a/../../outside.png", "/absolute.png", ".."])
def test_a_relative_uri_that_leaves_an_s3_catalog_is_forbidden(uri: str) -> None:
    with pytest.raises(ImageFailure, match="FORBIDDEN"):
        ImageSource("s3://bucket/catalog").resolve(uri)


def test_a_relative_uri_below_an_s3_catalog_is_a_key_verbatim() -> None:
    source = ImageSource("s3://bucket/catalog")
    assert source.resolve("a//b+c d.png") == "s3://bucket/catalog/a//b+c d.png"
    assert source.resolve("a/../b.png") == "s3://bucket/catalog/a/../b.png"
