"""The seam between a push and where it sends to: one module for each kind of target implements ``Target``."""

from __future__ import annotations

import os
import re
from typing import Protocol
from urllib.parse import unquote

import pyarrow as pa

from pix2score.errors import ConfigError, ConflictError
from pix2score.push.position import Position
from pix2score.push.rows import Chunk

APPLICATION = "pix2score"
MAX_CHUNK_BYTES = 256 * 2**20
_PASSWORD = re.compile(r"(?<=://)[^:/@?]*:(.+)@|password=([^&\s]+)", re.IGNORECASE | re.DOTALL)
"""In a URL, also in one whose password should have been quoted."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal, by deltalake
_IN_SOURCES = re.compile(
    r",? ?/\S*/\.cargo/\S+\.rs:\d+:\d+"
)  # of a library in Rust, on the machine that built it
_IN_URL = re.compile(r"(?<=://)([^/@\s]*):[^/\s]*@")
_IN_WORDS = re.compile(r"(password|passfile|sslpassword)=([^&\s]+)", re.IGNORECASE)


class Target(Protocol):
    """A table somewhere else. Raises ``TargetError``, or ``ConfigError`` where the user can mend it."""

    name: str
    """For a person, without a secret."""
    batch_rows: int
    """Rows that suit it."""

    def position(self) -> Position | None:
        """How far it is; None if no push has written to it."""

    def prepare(self, schema: pa.Schema, position: Position, recreate: bool) -> None:
        """Make the table if there is none, or ``recreate`` says so; it holds no row then, and ``position``.

        Raises ``ConfigError`` if there is one that does not fit, or one with rows that no push wrote.
        """

    def write(self, chunk: Chunk, position: Position) -> None:
        """Bring the rows of a chunk, and then ``position``; doing it again changes nothing.

        Raises ``ConflictError`` if another push wrote since ``position()`` or the last ``write``.
        """

    def finish(self) -> None:
        """All is written."""

    def close(self) -> None:
        """Give back what it holds."""


def of_others(where: str) -> ConfigError:
    """The error of a table that is not empty, and has no position."""
    return ConfigError(
        f"{where} holds rows that no push wrote: give another --table or place, or --recreate, which drops it"
    )


def overtaken(where: str) -> ConflictError:
    """The error of a push whose target has another position than the one that it wrote."""
    return ConflictError(f"another push wrote to {where} meanwhile: run again")


def without_secrets(text: str, url: str = "") -> str:
    """``text`` in one line, with *** for passwords in URLs and settings, and for those of ``url`` and the
    environment however they are written: libpq repeats parts of what it cannot read."""
    text = _IN_URL.sub(r"\1:***@", _IN_SOURCES.sub("", _COLOURS.sub("", text)))
    text = _IN_WORDS.sub(r"\1=***", text)
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, "***")
    return " ".join(text.split())


def _secrets(url: str) -> set[str]:
    found = {os.environ.get("PGPASSWORD", "")}
    for match in _PASSWORD.finditer(url):
        whole = next(filter(None, match.groups()))
        found |= {whole, unquote(whole), *re.split("[@/\\s]", whole)}
    return found - {""}


def suiting_rows(schema: pa.Schema, most: int) -> int:
    """At most so many rows, and embeddings of at most ``MAX_CHUNK_BYTES``."""
    width = int(schema.field("embedding").type.list_size) * 4
    return max(1, min(most, MAX_CHUNK_BYTES // width))


def check_fits(where: str, expected: dict[str, str], found: dict[str, str], *, surplus: bool = True) -> None:
    """Raise ``ConfigError`` naming what a table lacks, has of another type, or, unless it may, too much."""
    wrong = [
        f"lacks {name} {kind}" if name not in found else f"{name} is {found[name]}, not {kind}"
        for name, kind in expected.items()
        if found.get(name) != kind
    ]
    wrong += [f"has unknown {name}" for name in found if surplus and name not in expected]
    if wrong:
        raise ConfigError(
            f"{where} does not fit what this snapshot has ({'; '.join(wrong)}): give another --table, or "
            "--recreate, which drops it"
        )
