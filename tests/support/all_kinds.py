"""A catalog with a label for every kind of head, and a head of each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.demo.catalog import draw_catalog

EXAMPLES: dict[str, dict[str, Any]] = {
    "bins": {"name": "bookmark", "column": "bookmarks", "size": 4},
    "levels": {"name": "sanity", "column": "sanity", "edges": [2, 4, 6, 7]},
    "binary": {"name": "liked", "column": "liked", "positive": ["good"]},
    "value": {"name": "beauty", "column": "beauty", "range": [0, 20]},
    "classes": {"name": "sort", "column": "liked"},
    "distribution": {"name": "votes", "column": "votes", "values": [1, 2, 3]},
    "tags": {"name": "tag", "column": "tags", "min_images": 3},
    "preference": {"name": "preferred"},
}
"""Kind -> a head of it, on what ``labelled_catalog`` writes."""
COMPARISONS = "preferred.parquet"
"""Beside the catalog's folder: which of two or three images has most bookmarks."""


def _labels(row: dict[str, Any]) -> dict[str, Any]:
    """Labels of every type that depend on what is drawn; about a tenth of each is missing."""
    count, level, number = row["bookmarks"], row["sanity"], row["illust_id"] or 0
    strength = None if count is None or count < 0 else math.log1p(count)
    votes = None if level is None or level < 0 else [7 - min(level, 7), 4, min(level, 7)]
    tags = [f"level_{level}", *(["loved"] if (count or 0) > 100 else []), *(["even"] if number % 2 else [])]
    return {
        "liked": None if strength is None else ("good" if strength > 4.5 else "bad"),
        "beauty": None if number % 10 == 3 else strength,
        "votes": None if number % 10 == 4 else votes,
        "tags": None if number % 10 == 5 else tags,
    }


LABEL_TYPES = {
    "liked": pa.string(),
    "beauty": pa.float64(),
    "votes": pa.list_(pa.int32()),
    "tags": pa.list_(pa.string()),
}


def labelled_catalog(folder: Path, num_pictures: int = 110) -> str:
    """The place of a drawn catalog with a column for every example."""
    folder.mkdir(parents=True)
    draw_catalog(folder, num_pictures=num_pictures, seed=5)
    place = folder / "catalog.parquet"
    rows = pq.read_table(place)
    labels = [_labels(row) for row in rows.to_pylist()]
    for name, kind in LABEL_TYPES.items():
        rows = rows.append_column(name, pa.array([label[name] for label in labels], kind))
    pq.write_table(rows, place)
    pq.write_table(_comparisons(rows.to_pylist()), folder.parent / COMPARISONS)
    return str(folder)


def _comparisons(rows: list[dict[str, Any]]) -> pa.Table:
    """Sets of two or three images that stand near each other in the catalog."""
    counted = [row for row in rows if row["illust_id"] is not None and (row["bookmarks"] or -1) >= 0]
    sets = [counted[i : i + 2 + i % 2 * step : step] for step in (1, 2, 3) for i in range(len(counted) - 6)]
    sets = [some for some in sets if len(some) > 1]
    members = [
        (i, row["illust_id"], row["page"], -row["bookmarks"]) for i, some in enumerate(sets) for row in some
    ]
    return pa.table(
        dict(zip(("set", "illust_id", "page", "rank"), map(list, zip(*members, strict=True)), strict=True))
    )
