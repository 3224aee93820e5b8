"""Which rows that failed as UNSUPPORTED are due: those of a format that is decoded tonight and was not then.

Their own ``error_detail`` tells both: the format, and the ones that were decoded when it was written. So a
row is due once, whichever night or machine failed it, and rows of other formats stay.
"""

from __future__ import annotations

from pix2score.images.decode import FORMATS
from pix2score.images.formats.refusals import DECODED
from pix2score.images.formats.signatures import BY_EXTRAS
from pix2score.snapshots.snapshot import Snapshot

FIRST_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What versions decoded whose snapshots do not say it."""
_BEFORE_NAMES = "not one of "
"""How details began, before the decoded formats, when other formats were not told apart."""
_SAYS_WHAT = "^(an? |of no known |floating-point |[A-Z0-9]+: )"
"""Beginnings of a detail that says what the bytes are, in words of this version."""


def is_read_now_sql(detail: str, live: Snapshot | None) -> str:
    """SQL, true or false: whether an UNSUPPORTED row with that ``detail`` is of a format that is read now.

    Where the detail tells neither format nor list, the manifest of ``live`` says what was decoded.
    """
    tests = [
        f"(starts_with({detail}, '{words}; {DECODED}') AND NOT {_is_listed(detail, DECODED, name)})"
        for name, words in BY_EXTRAS.items()
        if name in FORMATS
    ]
    tests += [
        f"(starts_with({detail}, '{_BEFORE_NAMES}') AND NOT {_is_listed(detail, _BEFORE_NAMES, name)})"
        for name in FORMATS
    ]
    if live and {*FORMATS} - {*live.manifest.get("formats", FIRST_FORMATS)}:
        is_silent = (
            f"NOT starts_with({detail}, '{_BEFORE_NAMES}') AND NOT regexp_matches({detail}, '{_SAYS_WHAT}')"
        )
        tests.append(f"coalesce({is_silent}, true)")
    return f"coalesce({' OR '.join(tests)}, false)"


def _is_listed(detail: str, before: str, name: str) -> str:
    """SQL: whether a detail lists ``name`` behind the words ``before``."""
    listed = f"split_part(split_part({detail}, '{before}', 2), ';', 1)"
    return f"list_contains(string_split({listed}, ', '), '{name}')"
