"""What became of every row of a catalog when it was planned."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_ONLY_WHERE_USED = ("comparisons", "key_of_another", "bad_weight", "relabelled", "sources", "near_identical")


@dataclass(slots=True)
class PlanCounts:
    """What became of every catalog row."""

    catalog_rows: int = 0
    null_id: int = 0
    duplicate_key: int = 0
    over_max_pages: int = 0
    unknown_split: int = 0
    unlabelled: int = 0
    planned: int = 0
    dropped_labels: dict[str, dict[str, int]] = field(default_factory=dict)
    """Head -> reason -> rows whose label was dropped (the row stays)."""
    dropped_examples: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Head -> reason -> the most frequent of them, as texts."""
    unknown_splits: dict[str, int] = field(default_factory=dict)
    """Value of the split column that names no split -> rows; the most frequent ones."""
    comparisons: dict[str, Any] = field(default_factory=dict)
    """What became of a table of comparisons (``dataset.comparisons``); empty without one."""
    key_of_another: int = 0
    """Rows whose key an earlier one of several catalogs has."""
    bad_weight: int = 0
    """Rows whose weight is negative or no number."""
    relabelled: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """Head -> source -> ``labels`` that were moved, and how many of them were ``clipped``."""
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    """Source -> split -> rows planned; ``key_of_another``: its rows that lost their key."""

    near_identical: dict[str, Any] = field(default_factory=dict)
    """Groups of near-identical pictures that span splits (``dataset.near_identical``)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; without those of comparisons and sources where there are none."""
        plain = asdict(self)
        return {name: value for name, value in plain.items() if value or name not in _ONLY_WHERE_USED}
