"""SQL expressions over the columns of a catalog, as flags give them: which rows, and in what order.

DuckDB parses them, and what it parsed is looked at: nothing but expressions pass, no statement and no
subquery, hence nothing that could read a file or another table.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.shape import Shape
from pix2score.errors import ConfigError

_CONDITION, _ORDER = "SELECT (\n", "SELECT 1 ORDER BY\n"
_CLAUSES = ("where_clause", "group_expressions", "having", "sample", "qualify")
_REFUSED = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "*",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a column by its number",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """What a flag says of a catalog's columns: a condition that rows meet, or an order of rows."""

    flag: str
    """As the user gave it, such as ``--where``; for messages."""
    text: str
    is_order: bool = False

    def names(self, shape: Shape) -> list[str]:
        """The catalog's columns that it names, letters in any case; fields of a struct by dotted paths.

        Raises ``ConfigError`` for wrong syntax, or naming a column that there is not and the nearest one.
        """
        known = {name.lower(): name for name in reversed(shape.names)}

        def found(name: str) -> str:
            if not shape.has(name) and name.lower() not in known:
                self._refuse(_absent(name, shape.names))
            return name if shape.has(name) else known[name.lower()]

        names = [found(_path(node)) for node in _columns(self._parsed(), self._refuse)]
        if self.is_order and not names:
            self._refuse("it names no column")
        return list(dict.fromkeys(names))

    def sql(self, catalog: Catalog) -> str:
        """The same over the rows of view ``keyed``: true or false, or terms of an ORDER BY.

        ``catalog`` reads the columns along.
        """
        node = self._renamed(catalog)
        return (
            _sql(node).removeprefix("SELECT 1 ORDER BY ")
            if self.is_order
            else f"coalesce({_terms(node)}, false)"
        )

    def terms(self, catalog: Catalog) -> list[tuple[str, str]]:
        """Of an order: each term over the rows of view ``keyed``, and how it orders: ``DESC NULLS LAST``."""
        node = self._renamed(catalog)
        orders = [order for modifier in node["modifiers"] for order in modifier["orders"]]
        return [
            (
                _terms({**node, "modifiers": [], "select_list": [order["expression"]]}),
                f"{'DESC' if order['type'] == 'DESCENDING' else 'ASC'} "
                f"NULLS {'FIRST' if order['null_order'] == 'NULLS FIRST' else 'LAST'}",
            )
            for order in orders
        ]

    def check(self, catalog: Catalog) -> None:
        """Raise ``ConfigError`` unless it fits the types of the columns that ``catalog`` reads along."""
        node, schema = self._renamed(catalog), catalog.rows_schema()
        fields = [schema.field(f"label_{i}") for i in range(len(catalog.labels))]
        one_row = pa.table({"row": [0], **{field.name: pa.nulls(1, field.type) for field in fields}})
        with _database(os.getpid()).cursor() as connection:
            connection.register("given", one_row)
            try:
                found = connection.sql(
                    f"SELECT {_terms(node)} FROM given WHERE row({_terms(node)}) IS NOT NULL"
                )
                found.fetchall()
            except duckdb.Error as exc:
                raise self.misfit(catalog, exc) from None
            if not self.is_order and str(found.types[0]) not in ("BOOLEAN", '"NULL"'):
                self._refuse(f"it gives {found.types[0]}; expected true or false, such as bookmarks > 100")

    def misfit(self, catalog: Catalog, exc: duckdb.Error) -> ConfigError:
        """The error for values or types that it does not fit, in the catalog's names."""
        text = str(exc).partition("\n")[0]
        for i, name in reversed([*enumerate(catalog.labels)]):
            text = text.replace(f"label_{i}", name)
        return ConfigError(f"{self.flag} {self.text!r}: {text}")

    def _renamed(self, catalog: Catalog) -> dict[str, Any]:
        """As parsed, its columns in the names of view ``keyed``."""
        places = {name.lower(): i for i, name in reversed([*enumerate(catalog.labels)])}
        places |= {name: i for i, name in enumerate(catalog.labels)}
        node = self._parsed()
        for column in [*_columns(node, self._refuse)]:
            name = _path(column)
            column["column_names"] = [f"label_{places[name if name in places else name.lower()]}"]
        return node

    def _parsed(self) -> dict[str, Any]:
        """DuckDB's tree of a SELECT without FROM, whose columns or order it is."""
        begin, end = (_ORDER, "\n") if self.is_order else (_CONDITION, "\n)")
        sql = f"{begin}{self.text}{end}"
        found = json.loads(_ask("SELECT json_serialize_sql(?::VARCHAR)", sql))
        if found["error"]:
            self._refuse(_syntax(found, self.text, len(begin)))
        node: dict[str, Any] = found["statements"][0]["node"]
        kinds = [modifier["type"] for modifier in node.get("modifiers", ())]
        is_plain = (
            len(found["statements"]) == 1
            and node["type"] == "SELECT_NODE"
            and node["from_table"]["type"] == "EMPTY"
            and kinds == (["ORDER_MODIFIER"] if self.is_order else [])
            and len(node["select_list"]) == 1
            and not any(node.get(clause) for clause in _CLAUSES)
        )
        if not is_plain:
            self._refuse("expected an expression over columns of the catalog, and nothing else")
        return node

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigError(f"{self.flag} {self.text!r}: {why}")


@functools.cache
def _database(process: int) -> duckdb.DuckDBPyConnection:  # noqa: ARG001 - a forked one makes its own
    """An empty database, for ``process`` alone, that opens no file."""
    return duckdb.connect(config={"enable_external_access": "false", "threads": "1"})


def _ask(sql: str, value: str) -> str:
    with _database(os.getpid()).cursor() as connection:
        row = connection.execute(sql, [value]).fetchone()
    assert row is not None
    return str(row[0])


def _syntax(found: dict[str, Any], text: str, offset: int) -> str:
    if found.get("error_type") != "parser":
        return "expected an expression over columns of the catalog, and nothing else"
    place = int(found.get("position") or offset) - offset
    where = "at its end" if place >= len(text) else f"at {text[max(0, place) :][:20]!r}"
    return f"syntax error {where}; expected SQL over columns of the catalog, such as bookmarks > 100"


def _absent(name: str, names: Sequence[str]) -> str:
    lower = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f" (did you mean {lower[near[0]]}?)" if near else ""
    return f"the catalog has no column {name!r}{hint}; it has {', '.join(names)}"


def _path(column: dict[str, Any]) -> str:
    return ".".join(column["column_names"])


def _expressions(node: dict[str, Any]) -> list[Any]:
    orders = [order for modifier in node["modifiers"] for order in modifier["orders"]]
    return [order["expression"] for order in orders] or list(node["select_list"])


def _columns(node: dict[str, Any], refuse: Callable[[str], NoReturn]) -> Iterator[dict[str, Any]]:
    """Every column that is named, as DuckDB's node of it; ``refuse`` is told what must not be there."""
    for expression in _expressions(node):
        yield from _columns_of(expression, frozenset(), refuse)


def _columns_of(
    tree: Any, bound: frozenset[str], refuse: Callable[[str], NoReturn]
) -> Iterator[dict[str, Any]]:
    if isinstance(tree, list):
        for part in tree:
            yield from _columns_of(part, bound, refuse)
    if not isinstance(tree, dict):
        return
    kind = tree.get("class")
    if kind in _REFUSED:
        refuse(f"{_REFUSED[kind]} cannot be in it; expected an expression over columns of the catalog")
    if kind == "COLUMN_REF":
        if tree["column_names"][0] not in bound:
            yield tree
        return
    if kind == "LAMBDA":  # list_filter(tags, lambda t: t = 'a')
        bound |= {column["column_names"][0] for column in _columns_of(tree["lhs"], frozenset(), refuse)}
        tree = tree["expr"]
    for part in tree.values() if isinstance(tree, dict) and kind != "LAMBDA" else [tree]:
        yield from _columns_of(part, bound, refuse)


def _terms(node: dict[str, Any]) -> str:
    """SQL of the expressions alone."""
    return _sql({**node, "modifiers": [], "select_list": _expressions(node)}).removeprefix("SELECT ")


def _sql(node: dict[str, Any]) -> str:
    tree = {"error": False, "statements": [{"node": node, "named_param_map": []}]}
    return _ask("SELECT json_deserialize_sql(?::JSON)", json.dumps(tree))
