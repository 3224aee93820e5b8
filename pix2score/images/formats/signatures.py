"""Names of formats by their first bytes, for the one line that says why something is no picture to this
build."""

from __future__ import annotations

import re

BY_EXTRAS = {"AVIF": "an AVIF picture", "HEIF": "a HEIC picture (HEIF)", "JXL": "a JPEG XL picture"}
"""Formats that some installations read and others do not, by Pillow's names: what ``name_of`` says of them. A
row that failed is found by it when they are read: the words stay."""
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_BY_START: tuple[tuple[bytes, str], ...] = (
    *((start, BY_EXTRAS["JXL"]) for start in _JXL),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\xff\xd8\xff\xf7", "a JPEG-LS picture"),
    (b"II\xbc", "a JPEG XR picture"),
    (b"8BPS\0\2", "a Photoshop document (PSB)"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"gimp xcf", "a GIMP document (XCF)"),
    (b"CSFCHUNK", "a Clip Studio document (CLIP)"),
    (b"SAI-CANVAS", "a PaintTool SAI document (SAI2)"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "an EPS document"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance picture (HDR)"),
    (b"#?RGBE", "a Radiance picture (HDR)"),
    (b"qoif", "a QOI picture"),
    (b"DDS ", "a DDS texture"),
    (b"\xabKTX ", "a KTX texture"),
    (b"icns", "an Apple icon (ICNS)"),
    (b"BPG\xfb", "a BPG picture"),
    (b"FLIF", "a FLIF picture"),
    (b"\x8aMNG\r\n\x1a\n", "an MNG animation"),
    (b"\x8bJNG\r\n\x1a\n", "a JNG picture"),
    (b"AT&TFORM", "a DjVu document"),
    (b"SIMPLE  =", "a FITS picture"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (b"\1\0\x09\0\0\3", "a Windows metafile (WMF)"),
    (b"/* XPM */", "an XPM picture"),
    (b"FUJIFILMCCD-RAW", "a camera's raw picture (RAF)"),
    (b"IIU\0", "a camera's raw picture (RW2)"),
    (b"IIRO", "a camera's raw picture (ORF)"),
    (b"FOVb", "a camera's raw picture (X3F)"),
    (b"\x59\xa6\x6a\x95", "a Sun raster picture"),
    (b"\x01\xda", "an SGI picture"),
    (b"Rar!\x1a\x07", "a RAR archive, not a picture"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, not a picture"),
    (b"\x1f\x8b", "a gzip file, not a picture: unpack it"),
    (b"BZh", "a bzip2 file, not a picture: unpack it"),
    (b"\xfd7zXZ\0", "an xz file, not a picture: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file, not a picture: unpack it"),
    (b"FLV\1", "an FLV video, not a picture"),
    (b"FWS", "a Flash file (SWF), not a picture"),
    (b"CWS", "a Flash file (SWF), not a picture"),
    (b"ZWS", "a Flash file (SWF), not a picture"),
    (b"OggS", "an Ogg file, not a picture"),
    (b"ID3", "an MP3 file, not a picture"),
    (b"fLaC", "a FLAC file, not a picture"),
    (b"\0\0\1\xba", "an MPEG video, not a picture"),
    (b"\0\0\1\xb3", "an MPEG video, not a picture"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file, not a picture"),
    (b"PAR1", "a Parquet file, not a picture"),
    (b"SQLite format 3\0", "an SQLite database, not a picture"),
    (b"\x7fELF", "a program, not a picture"),
    (b"\x93NUMPY", "a NumPy array, not a picture"),
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not a picture: fetch the file itself with git lfs pull",
    ),
)
_BRANDS = (
    (("avif", "avis"), BY_EXTRAS["AVIF"]),
    (
        ("heic", "heix", "hevc", "hevx", "heim", "heis", "hevm", "hevs", "mif1", "msf1", "mif2"),
        BY_EXTRAS["HEIF"],
    ),
    (("crx ",), "a camera's raw picture (CR3)"),
    (("qt  ",), "a QuickTime video, not a picture"),
)
_RIFF = {
    b"AVI ": "an AVI video, not a picture",
    b"WAVE": "a WAV file, not a picture",
    b"ACON": "a Windows cursor (ANI)",
}
_ZIPPED = (
    (b"mimetypeapplication/x-krita", "a Krita document (KRA)"),
    (b"mimetypeimage/openraster", "an OpenRaster document (ORA)"),
    (b"mimetypeapplication/epub", "an EPUB book, not a picture"),
    (b"[Content_Types].xml", "an Office document, not a picture"),
)
_BY_PATTERN = (
    (rb"P[1-7][\s#]", "a Netpbm picture (PBM, PGM, PPM)"),
    (rb"P[Ff]\s", "a PFM picture"),
    (rb"\x0a[\x00\x02-\x05][\x00\x01][\x01\x02\x04\x08]", "a PCX picture"),
)
_DECODED = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"))
_MAX_BEFORE = 1024
"""Bytes that a server or a careless tool may have put before a picture: headers, an empty line, a byte order
mark."""


def is_webp(data: bytes) -> bool:
    """Whether the bytes begin as a WebP does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def is_avif(data: bytes) -> bool:
    """Whether the bytes begin as an AVIF does."""
    return name_of(data[:64]) == BY_EXTRAS["AVIF"]


def is_heif(data: bytes) -> bool:
    """Whether the bytes begin as a HEIC or another HEIF does that is no AVIF."""
    return name_of(data[:64]) == BY_EXTRAS["HEIF"]


def is_jxl(data: bytes) -> bool:
    """Whether the bytes begin as a JPEG XL does."""
    return data.startswith(_JXL)


def is_cut(data: bytes) -> bool:
    """Whether a WebP, AVIF, HEIC or JPEG XL is shorter than it says; their decoders do not tell that from
    other damage. Of a JPEG XL without boxes nothing says it."""
    if is_webp(data):
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    has_boxes = data.startswith(_JXL[1]) or is_avif(data) or is_heif(data)
    return has_boxes and _ends_within_a_box(data)


def _ends_within_a_box(data: bytes) -> bool:
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:  # to the end of the file, or nonsense
            return False
        at += size
    return at > len(data)


def inside(data: bytes) -> tuple[str, int] | None:
    """Name of a decoded format that begins soon, and the number of bytes before it; None if there is none."""
    found = ((data.find(start, 1, _MAX_BEFORE), name) for start, name in _DECODED)
    first = min((place for place in found if place[0] > 0), default=None)
    return None if first is None else (first[1], first[0])


def name_of(data: bytes) -> str:
    """What the bytes are, with an article, as far as their beginning and end tell; empty if they do not."""
    for start, name in _BY_START:
        if data.startswith(start):
            return name
    if not data.strip(b"\0"):
        return "nothing but zero bytes, not a picture"
    return _boxed(data) or _packed(data) or _icon(data) or _numbered(data) or _text(data)


def _boxed(data: bytes) -> str:
    """ISO media files by brand, RIFF files by kind, Matroska by its document type."""
    if data[4:8] == b"ftyp":
        size = int.from_bytes(data[:4], "big")
        brands = [data[at : at + 4].decode("latin-1") for at in (8, *range(16, max(20, min(size, 128)), 4))]
        if set(_BRANDS[0][0]) & set(brands):
            return _BRANDS[0][1]
        return next((name for known, name in _BRANDS if brands[0] in known), "an MP4 video, not a picture")
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], "")
    if data.startswith(b"\x1aE\xdf\xa3"):
        return f"a {'Matroska' if b'matroska' in data[:64] else 'WebM'} video, not a picture"
    return ""


def _packed(data: bytes) -> str:
    if data.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")):
        kind = next((name for start, name in _ZIPPED if data.startswith(start, 30)), "")
        return kind or "a ZIP archive (ugoira?), not a picture"
    return "a tar archive, not a picture" if data[257:262] == b"ustar" else ""


def _icon(data: bytes) -> str:
    """Windows icons and cursors: a count, then 16 bytes for each picture with a zero at a known place."""
    if (
        data[:2] == b"\0\0"
        and data[2:4] in (b"\1\0", b"\2\0")
        and 0 < int.from_bytes(data[4:6], "little") < 256
        and data[9:10] == b"\0"
    ):
        return "a Windows icon (ICO)" if data[2] == 1 else "a Windows cursor (CUR)"
    return ""


def _numbered(data: bytes) -> str:
    """Formats recognised by small numbers in their header or by their end."""
    for pattern, name in _BY_PATTERN:
        if re.match(pattern, data):
            return name
    if data[40:44] == b" EMF":
        return "a Windows metafile (EMF)"
    if data[128:132] == b"DICM":
        return "a DICOM picture"
    if data[-18:-2] == b"TRUEVISION-XFILE" or _is_targa(data[:18]):
        return "a Targa picture (TGA)"
    return ""


def _is_targa(header: bytes) -> bool:
    """Whether every field of an old Targa header, which has no mark of its own, is in its range."""
    if len(header) < 18 or header[1] > 1 or header[2] not in (1, 2, 3, 9, 10, 11):
        return False
    has_map, is_mapped = header[1] == 1, header[2] in (1, 9)
    depths = {1: (8, 16), 2: (15, 16, 24, 32), 3: (8, 16)}[header[2] & 7]
    size = header[12:14] != b"\0\0" and header[14:16] != b"\0\0"
    map_fits = header[7] in (15, 16, 24, 32) if has_map else header[3:8] == bytes(5)
    return has_map >= is_mapped and map_fits and size and header[16] in depths and header[17] & 0xC0 == 0


def _text(data: bytes) -> str:
    """Pages, error answers and other words."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = start.lower()
    if re.search(rb"<svg[\s>/]", lower):
        return "an SVG drawing"
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or re.search(
        rb"<html[\s>]", lower
    ):
        return "an HTML page, not a picture"
    if lower.startswith(b"<?xml") or re.match(rb"<[a-z][\w:.-]*[\s/>]", lower):
        return (
            "an XML document, not a picture: an error answer of the store?"
            if b"<error>" in lower
            else "an XML document, not a picture"
        )
    if re.match(rb'[{\[]\s*["{\[\]}]', start):
        return "a JSON document, not a picture"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "plain text (UTF-16), not a picture"
    return "plain text, not a picture" if _is_plain(data[:1024]) else ""


def _is_plain(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as exc:
        if exc.start < len(start) - 3:  # more than a last character cut
            return False
        text = start[: exc.start].decode("utf-8")
    return len(text) > 3 and all(
        character.isprintable() or character in "\t\r\n\f\ufeff" for character in text
    )
