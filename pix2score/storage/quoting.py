"""Text of others inside SQL."""

from __future__ import annotations


def literal(text: str) -> str:
    """SQL: ``text``."""
    return "'" + text.replace("'", "''") + "'"
