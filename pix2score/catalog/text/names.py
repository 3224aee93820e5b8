"""Which files are text tables, by their names."""

from __future__ import annotations

import re

_CSV = re.compile(r"\.(csv|tsv)(\.gz)?$", re.IGNORECASE)
_JSON = re.compile(r"\.(jsonl|ndjson)(\.gz)?$", re.IGNORECASE)


def is_csv(path: str) -> bool:
    """Whether it is CSV, or the same with tabs; packed by gzip or not."""
    return bool(_CSV.search(path))


def is_json_lines(path: str) -> bool:
    """Whether each of its lines is a JSON object; packed by gzip or not."""
    return bool(_JSON.search(path))


def is_text_table(path: str) -> bool:
    """Whether it is one of both."""
    return is_csv(path) or is_json_lines(path)
