"""What is no picture to this build is named, so that nobody has to read its first bytes."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest
from PIL import Image

from pix2score.errors import ImageFailure
from pix2score.images.decode import FORMATS, to_rgb
from pix2score.images.formats import heif, jxl
from pix2score.images.formats.signatures import BY_EXTRAS, name_of
from tests.support.pictures import EIGHT, encode, noise


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    return out.getvalue()


def box(brand: bytes, *compatible: bytes) -> bytes:
    return (
        (16 + 4 * len(compatible)).to_bytes(4, "big")
        + b"ftyp"
        + brand
        + bytes(4)
        + b"".join(compatible)
        + bytes(60)
    )


NAMES = {
    "HEIC": [box(b"heic", b"mif1", b"heic"), box(b"mif1", b"heic")],
    "JPEG XL": [b"\xff\x0a" + bytes(60), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60)],
    "JPEG 2000": [encode(noise(8, 8), "JPEG2000"), b"\xff\x4f\xff\x51" + bytes(60)],
    "ICO": [encode(noise(16, 16), "ICO")],
    "CUR": [b"\0\0\2\0\1\0\x20\x20\0\0" + bytes(60)],
    "PSD": [b"8BPS\0\1" + bytes(60)],
    "SVG": [
        b"<svg/>",
        b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"\xef\xbb\xbf<svg width='9'>",
    ],
    "PDF": [b"%PDF-1.7\n" + bytes(60)],
    "EPS": [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6" + bytes(60)],
    "ZIP archive (ugoira?)": [zipped("000000.jpg", encode(noise(8, 8), "JPEG")), b"PK\x03\x04" + bytes(60)],
    "Krita": [zipped("mimetype", b"application/x-krita")],
    "RAR": [b"Rar!\x1a\x07\1\0" + bytes(60)],
    "7z": [b"7z\xbc\xaf\x27\x1c" + bytes(60)],
    "gzip": [gzip.compress(encode(noise(8, 8)))],
    "tar": [tarred()],
    "WebM": [b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm" + bytes(60)],
    "Matroska": [b"\x1aE\xdf\xa3\xa3B\x82\x88matroska" + bytes(60)],
    "MP4": [box(b"isom", b"avc1"), box(b"mp42")],
    "QuickTime": [box(b"qt  ")],
    "HTML page": [
        b"<!DOCTYPE html><html><body>403</body></html>",
        b"\n <HTML>",
        b"<!-- made by hand --><html lang='en'>",
    ],
    "XML": [
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        b"<Error><Code>NoSuchKey</Code></Error>",
    ],
    "JSON": [b'{"error": "not found"}', b'[{"a": 1}]', b"{}"],
    "plain text": [b"404 page not found\n", "Дорогой друг".encode(), "Текст".encode("utf-16")],
    "git lfs pull": [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"],
    "OpenEXR": [b"\x76\x2f\x31\x01\2\0\0\0" + bytes(60)],
    "Radiance": [b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n"],
    "QOI": [encode(noise(8, 8), "QOI")],
    "PCX": [encode(noise(8, 8), "PCX")],
    "Targa": [
        encode(noise(8, 8), "TGA"),
        encode(noise(8, 8, 1), "TGA"),
        encode(noise(8, 8, 4), "TGA", compression="tga_rle"),
    ],
    "Netpbm": [encode(noise(8, 8), "PPM")],
    "WMF": [b"\xd7\xcd\xc6\x9a" + bytes(60)],
    "EMF": [b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60)],
    "DDS": [encode(noise(8, 8), "DDS")],
    "AVI": [b"RIFF\x20\0\0\0AVI LIST" + bytes(60)],
    "zero bytes": [bytes(100)],
    "of no known format": [bytes(range(128, 180)), b"x"],
}


@pytest.mark.parametrize("name", NAMES)
def test_other_formats_are_unsupported_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for plugin in (heif, jxl):  # as without the extras
        monkeypatch.setattr(plugin, "FORMATS", ())
    for data in NAMES[name]:
        with pytest.raises(ImageFailure) as caught:
            to_rgb(data, EIGHT)
        assert caught.value.code == "UNSUPPORTED"
        assert name in caught.value.detail
        assert ", ".join(FORMATS) in caught.value.detail, "what would be decoded is said, whole"


def test_no_decoded_picture_has_a_name_of_another_format() -> None:
    for form in {*FORMATS} - {*BY_EXTRAS}:
        for picture in (Image.fromarray(noise(40, 50)), Image.new("L", (300, 200), 255)):
            assert not name_of(encode(picture, form)), form


def test_formats_are_what_this_build_decodes() -> None:
    assert FORMATS[:6] == ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    for form in FORMATS:
        assert to_rgb(encode(noise(8, 8), form), EIGHT).shape == (8, 8, 3)
