"""Labels that are texts, as SQL: one spelling of what a person reads as one word.

Programs write accents as one character or as two (Unicode's normal forms NFC and NFD; file names of macOS are
NFD), and leave spaces of several kinds around a text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from pix2score.storage.quoting import literal

_SPACES = " \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))  # of other widths
)


def composed(text: str) -> str:
    """``text`` in the spelling of ``spelled_sql``."""
    return unicodedata.normalize("NFC", text.strip(_SPACES))


def spelled_sql(text: str, names: Iterable[str] = ()) -> str:
    """SQL: a text without spaces around it, accents composed, or as that one of ``names`` which is the same
    word in another spelling: a model keeps its names."""
    plain = f"nfc_normalize(trim({text}, {_chars(_SPACES)}))"
    known = set(names)
    others = {composed(name): name for name in known if composed(name) not in known}
    if not others:
        return plain
    cases = " ".join(f"WHEN {literal(ours)} THEN {literal(name)}" for ours, name in others.items())
    return f"CASE {plain} {cases} ELSE {plain} END"


def _chars(text: str) -> str:
    return " || ".join(f"chr({ord(character)})" for character in text)
