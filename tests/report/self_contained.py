"""What every report must be."""

from __future__ import annotations

import re


def assert_self_contained(text: str) -> None:
    """Nothing is loaded: every address left is a name of an XML namespace or a picture inside the file."""
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"<(link|script)[^>]+(src|href)=\"(?!data:)", text)
