"""Pictures inside archives, of honest and of hostile makers."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.catalog.pictures import archive
from pix2score.catalog.pictures.archive import DamagedArchive, Member, pictures_in

JPEG = b"\xff\xd8\xff" + bytes(range(200))
HONEST = [("a/000.jpg", JPEG), ("a/000.txt", b"cat, owl"), ("a/001.png", b"\x89PNG"), ("a/001.cls", b"7")]


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size, info.mtime = len(member[1]), 1_700_000_000
            file.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as file:
        for name, data in members:
            file.writestr(name, data)
    return out.getvalue()


def read(data: bytes, name: str) -> tuple[list[Member], Counter[str]]:
    """The pictures, and how many were left out for each reason."""
    told: Counter[str] = Counter()
    stream = io.BytesIO(data)
    members = pictures_in(
        stream,
        name,
        len(data),
        lambda n: n.endswith((".jpg", ".png")),
        lambda reason, _: told.update([reason]),
    )
    return list(members), told


FORMS: dict[str, Any] = {
    "x.tar": tar,
    "x.tar.gz": lambda *members: tar(*members, mode="w:gz"),
    "x.zip": zipped,
}
every_form = pytest.mark.parametrize("name", FORMS)


@every_form
def test_pictures_come_with_what_lies_beside_them(name: str) -> None:
    members, told = read(FORMS[name](*HONEST), name)
    assert [(member.name, member.data, member.beside) for member in members] == [
        ("a/000.jpg", JPEG, {"txt": b"cat, owl"}),
        ("a/001.png", b"\x89PNG", {"cls": b"7"}),
    ]
    assert told == {}


@every_form
def test_what_lies_before_a_picture_belongs_to_it_too(name: str) -> None:
    members, _ = read(FORMS[name](("1.cls", b"3"), ("1.jpg", JPEG), ("2.jpg", JPEG), ("2.json", b"{}")), name)
    assert [member.beside for member in members] == [{"cls": b"3"}, {"json": b"{}"}]


@every_form
def test_names_that_begin_at_the_folder_itself_are_plain_names(name: str) -> None:
    given = [("./a/000.jpg", JPEG), ("./a/./000.cls", b"3"), (".//001.jpg", JPEG), ("./.hidden.jpg", JPEG)]
    members, told = read(FORMS[name](*given), name)  # as of: tar -cf x.tar .
    assert {member.name: member.beside for member in members} == {"a/000.jpg": {"cls": b"3"}, "001.jpg": {}}
    assert told == {"hidden": 1}
    assert read(FORMS[name](("./../up.jpg", JPEG)), name)[1] == {"unsafe name in an archive": 1}


@every_form
@pytest.mark.parametrize(
    "path", ["../up.jpg", "a/../../up.jpg", "/etc/abs.jpg", "C:\\x.jpg", "a\\..\\b.jpg", "line\nbreak.jpg"]
)
def test_a_name_that_leads_elsewhere_is_left_out_and_told(name: str, path: str) -> None:
    members, told = read(FORMS[name](("1.jpg", JPEG), (path, JPEG)), name)
    assert [member.name for member in members] == ["1.jpg"]
    assert told == {"unsafe name in an archive": 1}


def test_links_and_devices_of_a_tar_are_left_out_and_told() -> None:
    def special(name: str, kind: bytes) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        return info

    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    members, told = read(
        tar(*(special(f"{i}.jpg", kind) for i, kind in enumerate(kinds)), ("9.jpg", JPEG)), "x.tar"
    )
    assert [member.name for member in members] == ["9.jpg"]
    assert told == {"link or device in an archive": 4}


def test_links_and_encrypted_members_of_a_zip_are_left_out_and_told() -> None:
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    data = bytearray(zipped((link, b"/etc/passwd"), ("1.jpg", JPEG), ("2.jpg", JPEG)))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of the last member
        data[data.rindex(mark) + offset] |= 1
    members, told = read(bytes(data), "x.zip")
    assert [member.name for member in members] == ["1.jpg"]
    assert told == {"link or device in an archive": 1, "encrypted in an archive": 1}


def test_a_member_that_is_damaged_costs_the_others_of_a_zip_nothing() -> None:
    data = bytearray(zipped(("1.jpg", JPEG), ("2.jpg", JPEG[::-1]), how=zipfile.ZIP_STORED))
    data[data.index(JPEG[::-1]) + 5] ^= 255
    members, told = read(bytes(data), "x.zip")
    assert [member.name for member in members] == ["1.jpg"]
    assert told == {"damaged in an archive": 1}


def test_other_compressions_of_a_zip_are_told() -> None:
    members, told = read(zipped(("1.jpg", JPEG), how=zipfile.ZIP_LZMA), "x.zip")
    assert (members, told) == ([], {"compressed otherwise than by deflate": 1})


@pytest.mark.parametrize("cut", [1, 300, 700, 1300])
def test_a_tar_that_is_cut_within_a_member_is_damaged(cut: int) -> None:
    whole = tar(("1.jpg", JPEG), ("2.jpg", JPEG * 3))
    end = whole.rindex(JPEG) + len(JPEG)
    with pytest.raises(DamagedArchive):
        read(whole[: end - cut], "x.tar")
    with pytest.raises(DamagedArchive):
        read(gzip.compress(whole[: end - cut]), "x.tar.gz")


def test_a_gzipped_tar_that_is_cut_is_damaged() -> None:
    noise = random.Random(0).randbytes(50_000)
    whole = gzip.compress(tar(("1.jpg", JPEG), ("2.jpg", noise)))
    with pytest.raises(DamagedArchive):
        read(whole[: len(whole) // 2], "x.tar.gz")


def test_a_header_that_is_damaged_is_not_taken_for_the_end() -> None:
    whole = bytearray(tar(("1.jpg", JPEG), ("2.jpg", JPEG)))
    whole[whole.index(b"2.jpg") + 148] ^= 7  # its checksum
    with pytest.raises(DamagedArchive, match="is no header"):
        read(bytes(whole), "x.tar")


def test_a_tar_without_its_end_mark_is_read() -> None:
    whole = tar(("1.jpg", JPEG))
    assert len(read(whole[:1024], "x.tar")[0]) == 1


def test_an_archive_that_is_none_is_damaged() -> None:
    for name in FORMS:
        for data in (b"", b"hello", bytes(2000) + b"x", b"\x1f\x8bnot gzip"):
            if name != "x.zip" and not data.strip(b"\0x"):
                continue
            with pytest.raises(DamagedArchive):
                read(data, name)


def test_members_over_the_limit_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    for name, make in FORMS.items():
        members, told = read(make(("1.jpg", bytes(1001)), ("2.jpg", bytes(1000))), name)
        assert [member.name for member in members] == ["2.jpg"]
        assert sum(told.values()) == 1


@every_form
def test_what_expands_beyond_all_measure_is_damaged(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FREE_BYTES", 2**20)
    bomb = FORMS[name](*((f"{number}.jpg", bytes(2**20)) for number in range(200)))
    if name == "x.tar":
        assert len(read(bomb, name)[0]) == 200  # as large as it is
        return
    with pytest.raises(DamagedArchive, match="expands to over"):
        read(bomb, name)


def test_a_zip_that_lies_about_a_size_makes_no_more_than_it_says() -> None:
    data = bytearray(zipped(("1.jpg", bytes(200 * 2**20))))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(mark) + offset
        data[at : at + 4] = struct.pack("<I", 1000)
    tracemalloc.start()
    members, told = read(bytes(data), "x.zip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert (members, told) == ([], {"damaged in an archive": 1})


@pytest.mark.parametrize("size", [2**40, 2**33])
def test_a_header_that_claims_much_is_not_believed(size: int) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, size
    with pytest.raises(DamagedArchive, match="claims"):
        read(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024), "x.tar")
    picture = tarfile.TarInfo("1.jpg")
    picture.size = size
    with pytest.raises(DamagedArchive):
        read(picture.tobuf(tarfile.GNU_FORMAT) + bytes(1024), "x.tar")


def test_headers_that_go_back_or_on_for_ever_end() -> None:
    back = tarfile.TarInfo("1.jpg")
    back.pax_headers = {"size": "-2048"}
    long = tarfile.TarInfo("x" * 200)
    start = time.process_time()
    for data in (
        tar(("0.jpg", JPEG))[:1024] + back.tobuf(tarfile.PAX_FORMAT) + bytes(2048),
        long.tobuf(tarfile.GNU_FORMAT)[:1024] * 5000,
    ):
        with pytest.raises(DamagedArchive):
            read(data, "x.tar")
    assert time.process_time() - start < 10


WHOLE = {name: make(*HONEST, ("b.jpg", JPEG * 9), ("c.json", b"{}")) for name, make in FORMS.items()}


@settings(max_examples=300)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_bytes_that_are_changed_give_pictures_or_a_damaged_archive(name: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(len(content) // 2, len(content)))
    try:
        members, _ = read(bytes(content[:kept]), name)
    except DamagedArchive as exc:
        assert str(exc)
    else:
        assert all(len(member.data) <= 10 * len(JPEG) for member in members)
