"""The numbers of a split told apart by the values of a column: per source, generator, year, or rater."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pix2score.metrics.verdict import HeadVerdict

MIN_PART = 30
"""Fewer labelled images of a value than this: its numbers are unreliable and have no interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The rows of a split that have one value."""

    value: str
    """As people read it; ``others`` and ``(none)`` are no values."""
    num_rows: int
    """Of the whole split, labelled or not."""
    metrics: Mapping[str, HeadVerdict]
    """By head; ``notes`` has what ``KindNumbers.part_notes`` says."""

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it."""
        metrics = {name: verdict.to_dict() for name, verdict in self.metrics.items()}
        return {"value": self.value, "num_rows": self.num_rows, "metrics": metrics}


@dataclass(frozen=True, kw_only=True, slots=True)
class ByColumn:
    """The parts that a column makes of a split; each row is in one of them."""

    column: str
    note: str
    """How its values were made parts, in a sentence."""
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it."""
        return {"note": self.note, "values": [part.to_dict() for part in self.parts]}
