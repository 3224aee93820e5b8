"""Text of others inside SQL."""

from __future__ import annotations


def literal(text: str) -> str:
    """SQL: ``text``."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """SQL: the column or table ``name``."""
    return '"' + name.replace('"', '""') + '"'
