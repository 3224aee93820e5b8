"""Lists of names as SQL: from a column of lists, or from text with a separator."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow.types as pt

from pix2score.errors import ConfigError
from pix2score.heads.spec import LabelColumn
from pix2score.heads.text_labels import spelled_sql
from pix2score.storage.quoting import literal


def names_of(
    head: str, column: str, given: LabelColumn, separator: str | None, names: Iterable[str] = ()
) -> str:
    """SQL: the names in a column as ``spelled_sql`` has them, none empty; null where there is nothing.

    Raises ``ConfigError`` for text without a separator.
    """
    raw = given.sql
    if not _is_list(given):
        if separator is None:
            raise ConfigError(
                f"head {head!r}: column {column} is text; give what stands between two tags, such as "
                "separator = ';'"
            )
        raw = f"string_split({given.sql}, {literal(separator)})"
    return (
        f"list_filter(list_transform({raw}, lambda tag: {spelled_sql('tag', names)}), lambda tag: tag <> '')"
    )


def as_text(given: LabelColumn) -> str:
    """SQL: what a column holds, as text."""
    return f"array_to_string({given.sql}, ', ')" if _is_list(given) else given.sql


def rows_of(texts: Iterable[str]) -> str:
    """SQL: a query of one column with these texts."""
    return f"SELECT unnest([{', '.join(map(literal, texts))}])"


def _is_list(given: LabelColumn) -> bool:
    return bool(pt.is_list(given.type) or pt.is_large_list(given.type))
