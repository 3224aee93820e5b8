"""PNG chunks: what of a PNG its pixels need. Nothing that merely describes the picture may fail it.

The standard calls errors in ancillary chunks not fatal (PNG, third edition, 13.2), browsers show such files,
and Pillow refuses them. So a decoder is given the critical chunks as they are, a sound tRNS, and what may
hold an orientation; all else is left out unread.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

from pix2score.errors import ImageFailure

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER, _EXTRA = struct.Struct(">I4s"), 12  # length and name before the content, and a checksum behind it
_HEADER_END = 33
_TURNING = {
    b"tEXt": (b"Raw profile type exif",),
    b"zTXt": (b"Raw profile type exif",),
    b"iTXt": (b"XML:com.adobe.xmp",),
}
"""Texts by key that may hold an orientation: of ImageMagick, of Adobe."""
_MAX_TEXTS = 4  # looked into: each may unpack to 1 MiB
_NEXT = re.compile(rb"IDAT|PLTE|IEND|tRNS|eXIf")
_MAX_TRIES = 64
"""Places looked at behind a chunk whose length is wrong; each costs a checksum."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_SLACK_BYTES = 2**20
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def essential(data: bytes) -> bytes:
    """A PNG of the same pixels without the chunks that they do not need; ``data`` itself where none can be
    left out.

    Where a broken chunk had to be stepped over, only if the pixels are whole by their own checksum: no pixel
    is ever made up.

    Raises ``ImageFailure``: CORRUPT for indexed colours without a palette; TRUNCATED if after a broken chunk
    too few pixels are left.
    """
    if data[12:16] != b"IHDR" or len(data) < _HEADER_END:
        return data
    walk = _Walk(data)
    kept = walk.kept()
    if walk.colour_type == 3 and not walk.num_colours and walk.has_pixels:
        raise ImageFailure("CORRUPT", "PNG: indexed colours without a palette")
    whole = b"".join([SIGNATURE, *kept]) if walk.has_dropped else data
    if not walk.is_damaged:
        return whole
    missing = num_missing(whole)
    if missing:
        raise ImageFailure(
            "TRUNCATED", f"PNG: {missing} bytes of unpacked pixels are missing behind a broken chunk"
        )
    return data if missing is None else whole


class _Walk:
    """One pass over the chunks, gathering slices to keep."""

    def __init__(self, data: bytes) -> None:
        self.data, self.view = data, memoryview(data)
        self.colour_type, self.num_colours = data[25], 0
        self.has_pixels = self.has_key = self.has_dropped = self.is_damaged = False
        self._tries_left, self._texts_left = _MAX_TRIES, _MAX_TEXTS

    def kept(self) -> list[memoryview]:
        """Critical chunks as they are, in order; of the others what ``_is_wanted``."""
        data, view, at, end_of_data = self.data, self.view, len(SIGNATURE), len(self.data)
        pieces = []
        while at + 8 <= end_of_data:
            length, name = _HEADER.unpack_from(data, at)
            end = at + _EXTRA + length
            if not name[0] & 0x20:  # critical
                pieces.append(view[at:end])
                self._note(name, at, length)
                if name == b"IEND":
                    break
            elif end <= end_of_data and name.isalpha() and _is_sound(view, at, length):
                if self._is_wanted(name, at, length):
                    pieces.append(view[at:end])
                else:
                    self.has_dropped = True
            elif (following := self._resume(at, end)) is not None:
                self.has_dropped = self.is_damaged = True
                end = following
            else:
                pieces.append(view[at:] if not self.has_pixels else view[at:at])
                self.has_dropped = self.is_damaged = self.has_pixels
                break
            at = end
        return pieces

    def _note(self, name: bytes, at: int, length: int) -> None:
        if name == b"IDAT":
            self.has_pixels = True
        elif name == b"PLTE" and not self.has_pixels:
            self.num_colours = length // 3

    def _is_wanted(self, name: bytes, at: int, length: int) -> bool:
        """A tRNS that libpng would take, and what may hold an orientation if Pillow can read it."""
        if name == b"tRNS":
            sizes = {0: range(2, 3), 2: range(6, 7), 3: range(1, self.num_colours + 1)}.get(
                self.colour_type, range(0)
            )
            is_first, self.has_key = not self.has_key and not self.has_pixels, True
            return is_first and length in sizes
        if name == b"eXIf":
            return True
        content = self.data[at + 8 : at + 8 + length] if name in _TURNING else b""
        if not content.startswith(_TURNING.get(name, ())) or self._texts_left <= 0:
            return False
        self._texts_left -= 1
        return _is_readable(name, content)

    def _resume(self, at: int, end: int) -> int | None:
        """Where the chunk behind a broken one begins: where its length says, else at the next sound chunk of
        a name that matters."""
        if self._is_chunk(end) or self.data.startswith(b"IDAT", end + 4):
            return end
        for match in _NEXT.finditer(self.data, at + 8):
            start = match.start() - 4
            if self._tries_left <= 0:
                break
            if start >= at + 8 and self._is_chunk(start):
                return start
        return None

    def _is_chunk(self, at: int) -> bool:
        self._tries_left -= 1
        if at + _EXTRA > len(self.data):
            return False
        length, name = _HEADER.unpack_from(self.data, at)
        return name.isalpha() and at + _EXTRA + length <= len(self.data) and _is_sound(self.view, at, length)


def _is_sound(view: memoryview, at: int, length: int) -> bool:
    """Whether the checksum of the chunk holds."""
    return zlib.crc32(view[at + 4 : at + 8 + length]) == int.from_bytes(
        view[at + 8 + length : at + _EXTRA + length], "big"
    )


def _is_readable(name: bytes, content: bytes) -> bool:
    try:
        PngImagePlugin.PngStream(io.BytesIO(content)).call(name, 0, len(content))
    except Exception:  # text that unpacks to too much, unknown methods
        return False
    return True


def num_missing(png: bytes) -> int | None:
    """Unpacked bytes that the pixels lack; None if what is there contradicts its own checksum or goes on far
    beyond them."""
    width, height, depth, colour_type, _, _, interlace = struct.unpack_from(">IIBBBBB", png, 16)
    wanted = _num_bytes(width, height, depth * _CHANNELS.get(colour_type, 4), bool(interlace))
    stream, found = zlib.decompressobj(), 0
    try:
        for piece in _compressed(png):
            rest: bytes | memoryview = piece
            while rest and found <= wanted + _SLACK_BYTES:
                found += len(stream.decompress(rest, _SLACK_BYTES))
                rest = stream.unconsumed_tail
    except zlib.error:
        return None
    if found < wanted:
        return wanted - found
    return 0 if stream.eof else None


def _num_bytes(width: int, height: int, bits: int, is_interlaced: bool) -> int:
    passes = _ADAM7 if is_interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _compressed(png: bytes) -> Iterator[memoryview]:
    at = len(SIGNATURE)
    while at + 8 <= len(png):
        length, name = _HEADER.unpack_from(png, at)
        if name == b"IDAT":
            yield memoryview(png)[at + 8 : at + 8 + length]
        at += _EXTRA + length
