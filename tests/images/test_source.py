"""Reading what a catalog names: only under its folder or an image root, only regular files and S3 objects,
failures by name."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pix2score.errors import ConfigError, ImageFailure
from pix2score.images.decode import MAX_BYTES
from pix2score.images.source import ImageSource, image_source, is_outside
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
    assert [read(source, uri) for uri in ("out.png", "outdir/outside.png", "in.png")] == [
        "FORBIDDEN",
        "FORBIDDEN",
        b"image a",
    ]


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
    assert [read(source, uri) for uri in ("fifo", "sub", "sub/", "/dev/zero", "/dev/null", "loop")] == [
        "FORBIDDEN"
    ] * 6
    assert release.is_alive(), "waited for a writer"
    release.cancel()


def test_what_is_not_there_is_not_found(folder: Path) -> None:
    source = image_source(str(folder), ())
    assert [read(source, uri) for uri in ("sub/b.png", "none/b.png", "sub/a.png/b", "x" * 300)] == [
        "NOT_FOUND"
    ] * 4


@pytest.mark.parametrize("end", ["\r", "\n", " ", "\ufeff", "\u200b", "e\u0301"])
def test_a_name_that_looks_like_another_is_spelt_out_where_it_is_not_found(folder: Path, end: str) -> None:
    (failure,) = image_source(str(folder), ()).read_many([f"sub/a.png{end}"])
    assert isinstance(failure, ImageFailure)
    assert failure.code == "NOT_FOUND"
    assert failure.detail.endswith(ascii(f"a.png{end}")[1:])


def test_an_empty_uri_is_called_so_and_no_image_root_is_advised() -> None:
    with pytest.raises(ImageFailure, match="FORBIDDEN: the uri of the catalog row is empty") as caught:
        image_source("/catalog", ()).resolve("")
    assert not is_outside(caught.value)


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


def test_a_local_path_is_not_opened_for_a_catalog_on_s3_even_below_an_image_root(
    s3_place: str, folder: Path
) -> None:
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


@pytest.mark.parametrize("scheme", ["s3a", "s3n", "S3", "S3A"])
def test_other_words_for_s3_name_the_same_object(scheme: str) -> None:
    source = ImageSource("s3://bucket/catalog", ("s3://works",))
    assert (
        source.resolve(f"{scheme}://bucket/catalog/a b%20c?d#e.png") == "s3://bucket/catalog/a b%20c?d#e.png"
    )
    assert source.resolve(f"{scheme}://works/a/") == "s3://works/a/"
    with pytest.raises(ImageFailure, match=r"outside .* --image-root"):
        source.resolve(f"{scheme}://other/a.png")


@pytest.mark.parametrize(
    ("spelled", "place"),
    [
        ("gs://works/img/a b%20c?d#e.png", "gs://works/img/a b%20c?d#e.png"),
        ("GCS://works/img/a.png", "gs://works/img/a.png"),
        ("az://works/img/a.png", "az://works/img/a.png"),
        ("abfs://works/img/a.png", "az://works/img/a.png"),
        ("abfss://works@studio.dfs.core.windows.net/img/a.png", "az://works/img/a.png"),
    ],
)
def test_objects_of_other_stores_are_named_in_one_spelling(
    spelled: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "studio")
    root = spelled.rpartition("/")[0]
    source = image_source("s3://bucket/catalog", (root,))
    assert source.image_roots == (place.rpartition("/")[0],)
    assert source.resolve(spelled) == place
    for other in (place.replace("works", "other"), place.replace("://", "://x/"), "s3://works/img/a.png"):
        with pytest.raises(ImageFailure, match=r"outside .* --image-root"):
            source.resolve(other)
    assert read(source, "abfss://works@another.dfs.core.windows.net/img/a.png") == "FORBIDDEN"


@pytest.mark.parametrize("form", ["file://{}", "FILE://{}", "file://localhost{}", "file:{}"])
def test_a_file_uri_is_its_path_percent_decoded(folder: Path, form: str) -> None:
    (folder / "sub" / "ä b%20.png").write_bytes(b"odd")
    source = image_source(str(folder), ())
    assert read(source, form.format(f"{folder}/sub/a.png")) == b"image a"
    assert read(source, form.format(f"{folder}/sub/%C3%A4%20b%2520.png")) == b"odd"
    assert read(source, form.format(f"{folder}/sub/../../outside.png")) == "FORBIDDEN"
    assert read(source, form.format(f"{folder}/sub/%2E%2E/%2e%2e/outside.png")) == "FORBIDDEN"
    assert read(source, form.format(f"{folder}/sub/a.png%00")) == "FORBIDDEN"


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("HTTP://example.org/a.png", "http: is not read"),
        ("hdfs://name:8020/a.png", "hdfs: is not read"),
        ("ftp://host/a.png", "ftp: is not read"),
        ("data:image/png;base64,iVBORw0KGgo=", "data: is not read"),
        (r"C:\pictures\a.png", "a path of Windows is not read"),
        ("d:/pictures/a.png", "a path of Windows is not read"),
        (r"\\server\share\a.png", "a path of Windows is not read"),
        ("file://server/share/a.png", "file: of another host is not read"),
        ("ftp://example.org/" + "a" * 500, "ftp: is not read"),
    ],
)
@pytest.mark.parametrize("place", ["/data/catalog", "s3://bucket/catalog"])
def test_a_uri_that_is_never_read_is_named_by_its_kind_with_what_is_read(
    place: str, uri: str, named: str
) -> None:
    with pytest.raises(ImageFailure) as refused:
        ImageSource(place, ("/", "s3://bucket")).resolve(uri)
    assert refused.value.code == "FORBIDDEN"
    assert refused.value.detail.startswith(
        f"{named}, only s3://bucket/key (gs://, az://), https:// and paths"
    )
    assert "--image-root" not in refused.value.detail
    assert not is_outside(refused.value)


ODD_NAMES = [
    "with space",
    "100%",
    "a%20b",
    "q?x=1",
    "a#b",
    "star*[0]",
    "絵 ünï",
    "two\nlines",
    "tab\t",
    "a:b",
    "data:1.png",
    "-",
    "~",
    "$HOME",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_path_is_taken_verbatim(folder: Path, name: str) -> None:
    (folder / name).write_bytes(name.encode())
    source = image_source(str(folder), ())
    assert read(source, name) == name.encode()
    assert read(source, str(folder / name)) == name.encode()
    assert read(source, f"{name}/") == "NOT_FOUND"


S3_NAMES = [name for name in ODD_NAMES if "\n" not in name]  # which the test server cannot route


@pytest.mark.parametrize("key", [*S3_NAMES, "folder/", "/leading", "a//b", "back\\slash"])
def test_any_s3_key_is_taken_verbatim(s3: Any, s3_place: str, key: str) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{s3_place.removeprefix(f's3://{BUCKET}/')}/{key}", Body=key.encode())
    assert read(image_source(s3_place, ()), f"{s3_place}/{key}") == key.encode()


def test_names_that_nothing_can_have_are_failures_of_their_own(folder: Path, s3_place: str) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        cwd = Path.cwd()
        os.chdir(folder)  # the path of a socket may not be long
        listening.bind("socket")
        os.chdir(cwd)
        source = image_source(str(folder), ())
        odd = ["socket", "a\0b", "\ud800.png", "\udcff.png", "a" * 300, "a/" * 5000, "sub"]
        found = [read(source, uri) for uri in odd]
    assert found == [
        "FORBIDDEN",
        "FORBIDDEN",
        "FORBIDDEN",
        "NOT_FOUND",
        "NOT_FOUND",
        "NOT_FOUND",
        "FORBIDDEN",
    ]
    remote = image_source(s3_place, ())
    assert [read(remote, uri) for uri in ("\ud800.png", "\udcff.png", "a" * 2000)] == ["NOT_FOUND"] * 3


def test_a_name_that_is_no_utf8_is_read_by_its_bytes(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(b"latin")
    assert read(image_source(str(folder), ()), "caf\udce9.png") == b"latin"


def test_names_are_read_where_python_takes_file_names_for_ascii(folder: Path) -> None:
    (folder / "絵.png").write_bytes(b"picture")
    code = (
        "import sys; from pix2score.images.source import image_source; assert sys.getfilesystemencoding() == "
        "'ascii'\n"
        "found = image_source(sys.argv[1], ()).read_many(['\\u7d75.png', '\\u7d76.png', '\\ud800', "
        "sys.argv[2]])\n"
        "print([content if isinstance(content, bytes) else content.code for content in found])"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-c", code, str(folder), str(folder / "絵.png")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **plain}, check=False)
    assert done.stdout.strip() == "[b'picture', 'NOT_FOUND', 'FORBIDDEN', b'picture']", done.stderr


def test_image_roots_may_be_given_in_the_same_forms(folder: Path) -> None:
    old = folder.parent / "catalog-old"
    for root in (f"file://{old}", f"file://localhost{old}/"):
        assert read(image_source(str(folder), (root,)), "../catalog-old/x.png") == b"sibling"
    assert image_source(str(folder), ("s3a://works/img/",)).image_roots == ("s3://works/img",)


@pytest.mark.parametrize(
    "root", ["http://example.org", "hdfs://name:8020/x", r"C:\pictures", "file://server/share"]
)
def test_an_image_root_that_cannot_be_one_is_refused_in_a_line(folder: Path, root: str) -> None:
    with pytest.raises(ConfigError) as refused:
        image_source(str(folder), (root,))
    assert str(refused.value).startswith(f"--image-root {root}: ")
    assert "is not read, only s3://" in str(refused.value)


def test_an_absolute_path_is_read_for_a_catalog_on_s3_if_an_image_root_allows_it(
    folder: Path, s3_place: str
) -> None:
    source = image_source(s3_place, (str(folder),))
    assert read(source, str(folder / "sub" / "a.png")) == b"image a"
    assert read(source, f"file://{folder}/sub/a.png") == b"image a"
    assert read(source, str(folder.parent / "outside.png")) == "FORBIDDEN"


@pytest.mark.parametrize(
    ("settings", "code", "named"),
    [
        ({"AWS_PROFILE": "artteam"}, "FORBIDDEN", "artteam"),
        ({"AWS_ENDPOINT_URL": "localhost:9000"}, "FORBIDDEN", "localhost:9000 is no URL"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "FORBIDDEN", "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "FORBIDDEN", "no AWS credentials"),
    ],
)
def test_settings_of_s3_that_cannot_work_are_named_in_a_line(
    settings: dict[str, str | None], code: str, named: str, tmp_path: Path
) -> None:
    given = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(tmp_path),
    }
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env = {name: value for name, value in (bare | given | settings).items() if value is not None}
    script = (
        "from pix2score.images.source import image_source\n"
        "found = image_source('s3://works/catalog', ()).read_many(['a.png', 'b.png'])\n"
        "print(*(f'{failure.code} {failure.detail}' for failure in found), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False, timeout=60
    )
    first, second = done.stdout.strip().splitlines()
    assert first == second
    assert first.startswith(code)
    assert named in first
