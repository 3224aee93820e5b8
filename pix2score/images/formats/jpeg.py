"""JPEG markers: what may be left out of a broken file, whether one without an end is whole, and what no
decoder here reads."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

START, END = b"\xff\xd8\xff", b"\xff\xd9"
SCAN = 0xDA
_DRI, _COM, _EOI = 0xDD, 0xFE, 0xD9
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)  # those with a length, and the end
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_LOSSLESS, _ARITHMETIC, _HIERARCHICAL = (0xC3, 0xCB), (0xC9, 0xCA), (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
_KINDS = {
    **dict.fromkeys(_LOSSLESS, "a lossless"),
    **dict.fromkeys(_ARITHMETIC, "an arithmetic-coded"),
    **dict.fromkeys(_HIERARCHICAL, "a hierarchical"),
}
_UNUSUAL = re.compile(rb"\xff[\xc3\xc9-\xcb]\x00")
_SHORTEST = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
"""Segments that say how colours are coded: by libjpeg, only if at least so long."""
_EXIF = b"Exif\0\0"
_PADDINGS = (b"\x55" * 64, b"\xaa" * 64, b"\x33\xcc" * 32)


@dataclass(frozen=True, slots=True)
class Segment:
    """One marker with its content: ``data[start:end]`` has both, ``data[body:end]`` the content."""

    marker: int
    start: int
    body: int
    end: int


@dataclass(slots=True)
class _Layout:
    """What the markers say of frame and scans."""

    frame: int = 0
    bits: int = 8
    components: tuple[int, ...] = ()
    restart_interval: int = 0
    exact: dict[int, set[int]] = field(default_factory=dict)
    """Coefficients (0..63) of each component that some scan gives to the last bit."""


def segments(data: bytes, *, all_scans: bool = False) -> Iterator[Segment]:
    """Markers in order, up to the first scan, or with those between and behind scans; ends where a length
    points beyond the file."""
    at = 2
    while found := _MARKER.search(data, at):
        at, marker = found.start(), data[found.start() + 1]
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        if marker == _EOI or end > len(data):
            return
        yield Segment(marker, at, at + 4, end)
        if marker == SCAN and not all_scans:
            return
        at = end


def unusual_frame(header: bytes) -> str:
    """``lossless`` for a JPEG that has no frequencies to leave out; ``arithmetic`` for one that no browser
    reads, and of which a decoder cannot tell that it makes no sense; else empty. ``header``: the bytes up to
    the pixels."""
    if not _UNUSUAL.search(header):
        return ""
    frame = _layout(header).frame
    return "lossless" if frame in _LOSSLESS else "arithmetic" if frame in _ARITHMETIC else ""


def refusal(data: bytes) -> str:
    """Why a JPEG that was not decoded is of a kind that is not decoded, as ``a 12-bit JPEG``; empty if it is
    of an ordinary kind."""
    layout = _layout(data)
    if layout.bits != 8:
        return f"a {layout.bits}-bit JPEG: only 8 bits are decoded"
    if layout.frame in _KINDS:
        return f"{_KINDS[layout.frame]} JPEG: baseline and progressive ones are decoded"
    if layout.components and len(layout.components) not in (1, 3, 4):
        return f"a JPEG of {len(layout.components)} components: 1, 3 or 4 are decoded"
    return ""


def bare(data: bytes) -> bytes:
    """The JPEG without application segments and comments, but for sound ones that say how to read colours or
    which side is up."""
    pieces, at = [data[:2]], 2
    for segment in segments(data):
        at = segment.end
        if segment.marker & 0xF0 != 0xE0 and segment.marker != _COM or _is_sound(data, segment):
            pieces.append(data[segment.start : segment.end])
    return b"".join([*pieces, data[at:]])


def _is_sound(data: bytes, segment: Segment) -> bool:
    if segment.marker == 0xE1:
        return data.startswith(_EXIF, segment.body, segment.end)
    prefix, shortest = _SHORTEST.get(segment.marker, (b"", 2**31))
    return data.startswith(prefix, segment.body) and segment.end - segment.body >= shortest


def ended(data: bytes) -> bytes | None:
    """A JPEG that lacks nothing but its end marker, with one; None if pixels are missing.

    They are there if ``_is_whole``, and each coefficient must have had its last bit, as a file cut between
    the scans of a progressive JPEG has too few.
    """
    layout = _layout(data)
    if END in data[-2:] or not _has_all_scans(layout):
        return None
    whole = data[:-1] if data.endswith(b"\xff") else data
    return whole + END if _is_whole(whole, layout) else None


def has_all_scans(data: bytes) -> bool:
    """Whether each coefficient has its last bit, as far as the headers of scans say."""
    return _has_all_scans(_layout(data))


def lacks_pixels(data: bytes) -> bool:
    """Whether a JPEG that decodes ends, by its end mark, before its last pixels. Fill bytes (0xFF) may stand
    before a mark; what follows them would be one."""
    end = max((segment.end for segment in segments(data, all_scans=True)), default=2)
    found = next((found for found in _MARKER.finditer(data, end) if found[0][1] == _EOI), None)
    return found is not None and not _is_whole(data[: found.start()].rstrip(b"\xff"), _layout(data))


def _is_whole(data: bytes, layout: _Layout) -> bool:
    """Whether what follows the last scan changes no pixel: a decoder takes the bits of a missing block from
    there. ``data``: without an end mark."""
    wanted = _checksum(data + END)
    return wanted is not None and all(_checksum(data + tail + END) == wanted for tail in _tails(data, layout))


def _tails(data: bytes, layout: _Layout) -> Iterator[bytes]:
    """Bits that a decoder would make other pixels of, were it still in want of some; also behind the next
    restart marker."""
    yield from _PADDINGS
    if layout.restart_interval:
        last = max((data.rfind(bytes([0xFF, 0xD0 + i])), i) for i in range(8))
        restart = bytes([0xFF, 0xD0 + (last[1] + 1) % 8 if last[0] >= 0 else 0xD0])
        yield from (restart + padding for padding in _PADDINGS)


def _checksum(data: bytes) -> int | None:
    """Of the pixels at full size; None if they cannot be decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        image.load()
    except Exception:  # hostile bytes
        return None
    strips = (
        image.crop((0, top, image.width, min(top + 256, image.height))) for top in range(0, image.height, 256)
    )
    checksum = 0
    for strip in strips:
        checksum = zlib.crc32(strip.tobytes(), checksum)
    return checksum


def _has_all_scans(layout: _Layout) -> bool:
    wanted = set(range(64)) if layout.frame in _PROGRESSIVE else {0}
    return bool(layout.components) and all(
        layout.exact.get(component, set()) >= wanted for component in layout.components
    )


def _layout(data: bytes) -> _Layout:
    """Of the first frame. Never raises."""
    layout = _Layout()
    for segment in segments(data, all_scans=True):
        body = data[segment.body : segment.end]
        if segment.marker in _FRAMES and len(body) >= 6 and not layout.frame:
            layout.frame, layout.bits = segment.marker, body[0]
            layout.components = (
                tuple(body[6 : 6 + 3 * body[5] : 3])
                if len(body) >= 6 + 3 * body[5]
                else tuple(range(body[5]))
            )
        elif segment.marker == _DRI and len(body) >= 2:
            layout.restart_interval = int.from_bytes(body[:2], "big")
        elif segment.marker == SCAN and body and len(body) >= 4 + 2 * body[0]:
            _note_scan(layout, body)
    return layout


def _note_scan(layout: _Layout, body: bytes) -> None:
    components, (first, last, bits) = body[1 : 1 + 2 * body[0] : 2], body[1 + 2 * body[0] : 4 + 2 * body[0]]
    if layout.frame not in _PROGRESSIVE:
        first = last = bits = 0
    if bits & 15 == 0:
        for component in components:
            layout.exact.setdefault(component, set()).update(range(first, last + 1))
