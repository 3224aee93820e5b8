"""Which rows that failed as UNSUPPORTED are due: those of a format that is decoded tonight and was not then.

Their own ``error_detail`` names the format; once it is decoded, a row that fails again says so in other
words. So a row is due once, whichever night or machine failed it, and rows of other formats stay.
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
    names = [words for name, words in BY_EXTRAS.items() if name in FORMATS]
    tests = [f"starts_with({detail}, '{words}; {DECODED}')" for words in names]
    listed = f"split_part(split_part({detail}, '{_BEFORE_NAMES}', 2), ';', 1)"
    is_listed = f"list_contains(string_split({listed}, ', '), "
    tests += [f"(starts_with({detail}, '{_BEFORE_NAMES}') AND NOT {is_listed}'{name}'))" for name in FORMATS]
    if live and {*FORMATS} - {*live.manifest.get("formats", FIRST_FORMATS)}:
        is_silent = (
            f"NOT starts_with({detail}, '{_BEFORE_NAMES}') AND NOT regexp_matches({detail}, '{_SAYS_WHAT}')"
        )
        tests.append(f"coalesce({is_silent}, true)")
    return f"coalesce({' OR '.join(tests)}, false)"
