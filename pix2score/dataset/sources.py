"""Where the labels of a row come from: what is said of each source, as SQL over the rows of catalogs.

A source is a text: the number of a row's catalog, or what a column says. ``[sources.NAME]`` gives its rows
another weight in training, or brings its labels onto another scale.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.rows import SOURCE, WEIGHT
from pix2score.errors import ConfigError
from pix2score.heads.number_labels import number_sql
from pix2score.heads.spec import HeadSpec, LabelColumn, is_number
from pix2score.storage.quoting import literal
from pix2score.storage.sql import one_row

_KEYS = ("weight", "relabel")


@dataclass(frozen=True, slots=True)
class Line:
    """``slope * label + offset``."""

    slope: float
    offset: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRules:
    """What a configuration says of sources."""

    has_source: bool = False
    """Whether rows have a source."""
    has_weight: bool = False
    """Whether rows have a weight."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By source."""
    lines: Mapping[str, Mapping[str, Line]] = field(default_factory=dict)
    """Head -> source -> what becomes of the source's labels."""

    @classmethod
    def of(cls, tables: Mapping[str, Any], *, has_source: bool, has_weight: bool) -> SourceRules:
        """Of the tables ``[sources.NAME]``. Raises ``ConfigError`` naming what is wrong."""
        weights: dict[str, float] = {}
        lines: dict[str, dict[str, Line]] = {}
        for source, table in tables.items():
            _check_keys(source, table)
            if "weight" in table:
                weights[source] = _weight(source, table["weight"])
            for head, line in _relabel(source, table.get("relabel", {})).items():
                lines.setdefault(head, {})[source] = line
        return cls(
            has_source=has_source or bool(tables),
            has_weight=has_weight or bool(weights),
            weights=weights,
            lines=lines,
        )

    @property
    def named(self) -> set[str]:
        """Sources that something is said of."""
        return {*self.weights, *(source for lines in self.lines.values() for source in lines)}

    def check(self, heads: Sequence[HeadSpec]) -> None:
        """Raise ``ConfigError`` for a relabelled head that is not there, or whose labels are no numbers."""
        known = {head.name: head for head in heads}
        for name, lines in self.lines.items():
            where = f"[sources.{min(lines)}] relabel: head {name!r}"
            if name not in known:
                raise ConfigError(f"{where} is not known; heads: {', '.join(known)}")
            if known[name].label_bounds is None:
                raise ConfigError(
                    f"{where} is of kind {known[name].kind}, whose labels are no numbers on a scale; "
                    "kinds value, bins and levels with edges can be relabelled"
                )

    def fields(self) -> list[pa.Field]:
        """Of a dataset's shard, and of the plan: text, and float32 of 0 or more, only where they are used."""
        source = [pa.field(SOURCE, pa.string())] if self.has_source else []
        return source + ([pa.field(WEIGHT, pa.float32())] if self.has_weight else [])

    def label_type(self, head: HeadSpec, kind: pa.DataType) -> pa.DataType:
        """``kind``, or float64 where labels are moved along a line."""
        return pa.float64() if head.name in self.lines else kind

    def label_sql(self, head: HeadSpec, columns: Sequence[LabelColumn]) -> str:
        """SQL: the clean label; of a source with a line whatever number there is, on the line, held within
        what the head can have."""
        clean, lines = head.clean_sql(columns), self.lines.get(head.name)
        if not lines:
            return clean
        cases = " ".join(
            f"WHEN {literal(source)} THEN {_clipped(_moved(line, columns), head)}"
            for source, line in lines.items()
        )
        return f"CASE {SOURCE} {cases} ELSE CAST({clean} AS DOUBLE) END"

    def weight_sql(self) -> str:
        """SQL: the weight of a row, of its own column ``weight`` and of its source."""
        if not self.weights:
            return f"coalesce({WEIGHT}, 1)"
        cases = " ".join(f"WHEN {literal(s)} THEN {w!r}" for s, w in self.weights.items())
        return f"coalesce({WEIGHT}, 1) * CASE {SOURCE} {cases} ELSE 1.0 END"

    def check_sources(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raise ``ConfigError`` naming a source that no row of ``keyed`` has."""
        if not self.named:
            return
        found = [s for (s,) in connection.execute(f"SELECT DISTINCT {SOURCE} FROM keyed").fetchall()]
        for source in sorted(self.named - set(found)):
            shown = ", ".join(sorted(found)[:20])
            near = difflib.get_close_matches(source, found, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"[sources.{source}]: no row is of that source{hint} (sources: {shown})")

    def relabelled(
        self, connection: duckdb.DuckDBPyConnection, head: HeadSpec, columns: Sequence[LabelColumn]
    ) -> dict[str, dict[str, int]]:
        """Source -> how many labels of ``keyed`` were moved, and how many of them had to be ``clipped``."""
        counts = {}
        for source, line in self.lines.get(head.name, {}).items():
            moved = _moved(line, columns)
            labels, clipped = one_row(
                connection,
                f"SELECT count(moved), count(*) FILTER (moved <> {_clipped('moved', head)}) FROM "
                f"(SELECT {moved} AS moved FROM keyed WHERE {SOURCE} = {literal(source)})",
            )
            counts[source] = {"labels": labels, "clipped": clipped}
        return counts


def described_sources(counts: PlanCounts) -> list[str]:
    """Lines on the rows of each source, and on labels that were moved."""
    lines = [
        f"source {source}: " + ", ".join(f"{number} {_words(name)}" for name, number in found.items())
        for source, found in sorted(counts.sources.items())
    ]
    return lines + [
        f"head {head}: {moved['labels']} labels of source {source} moved onto another scale, "
        f"{moved['clipped']} of them held within the head's range"
        for head, sources in counts.relabelled.items()
        for source, moved in sources.items()
    ]


def _words(name: str) -> str:
    return "left out, as an earlier catalog has their key" if name == "key_of_another" else f"{name} rows"


def _moved(line: Line, columns: Sequence[LabelColumn]) -> str:
    """SQL: the number in the column on the line, null where there is none or no finite one."""
    number = f"CAST({number_sql(columns[0])} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {line.slope!r} * {number} + {line.offset!r} END"


def _clipped(number: str, head: HeadSpec) -> str:
    """SQL: ``number`` within the head's bounds; null stays null, as DuckDB's own greatest would not."""
    assert head.label_bounds is not None, "check() refuses such a head"
    low, high = head.label_bounds
    cases = [f"WHEN ({number}) < {low!r} THEN {low!r}"] if math.isfinite(low) else []
    cases += [f"WHEN ({number}) > {high!r} THEN {high!r}"] if math.isfinite(high) else []
    return f"CASE {' '.join(cases)} ELSE {number} END" if cases else number


def _check_keys(source: str, table: Mapping[str, Any]) -> None:
    unknown = [key for key in table if key not in _KEYS]
    if unknown:
        raise ConfigError(f"[sources.{source}]: unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}")


def _weight(source: str, value: Any) -> float:
    if not is_number(value) or not 0 <= value < math.inf:
        raise ConfigError(f"[sources.{source}] weight = {value}: expected a number of 0 or more")
    return float(value)


def _relabel(source: str, table: Any) -> dict[str, Line]:
    shape = "expected HEAD = [slope, offset], such as beauty = [0.82, -0.04]"
    if not isinstance(table, Mapping):
        raise ConfigError(f"[sources.{source}] relabel = {table}: {shape}")
    lines = {}
    for head, line in table.items():
        numbers = list(line) if isinstance(line, list | tuple) else []
        if len(numbers) != 2 or not all(is_number(n) and math.isfinite(n) for n in numbers):
            raise ConfigError(f"[sources.{source}] relabel: {head} = {line}: {shape}")
        lines[head] = Line(float(numbers[0]), float(numbers[1]))
    return lines
