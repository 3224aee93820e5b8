"""Small catalogs, plans and snapshots that several test files write."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pix2score.catalog.catalog import Columns
from pix2score.heads.ordered import OrderedHead
from pix2score.nightly.merge import Merged, merge_range
from pix2score.nightly.ranges import Changes, sort_changes
from pix2score.snapshots.manifest import publish
from pix2score.snapshots.pieces import Origin, Receipt, write_piece
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import FAILED, OK, DataFile, Layout
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet, parquet_bytes
from pix2score.storage.parts import Part

Key = tuple[int | str, int]
HEADS = (
    OrderedHead(name="bookmark", column="bookmarks", edges=(10, 30)),
    OrderedHead(name="sanity", column="sanity", kind="levels", edges=(2,), has_median=True),
)
LAYOUT = Layout(pa.int64(), HEADS, 4, "float16")
MODEL_VERSION = "0123456789ab"


def write_catalog(place: str, columns: Mapping[str, Any] | pa.Table, name: str = "catalog.parquet") -> str:
    """The place of a folder that now holds a catalog file ``name`` with these columns."""
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    Folder(place).publish(name, parquet_bytes(table), replace=True)
    return place


def planned_rows(folder: Folder, parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Every row of a plan, part after part."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        with open_parquet(folder, part.path) as file:
            found = file.read().to_pylist()
        assert len(found) == part.rows
        rows += found
    return rows


def scores_table(
    keys: Sequence[Key], run: str, failed: Iterable[Key] = (), layout: Layout = LAYOUT
) -> pa.Table:
    """SCORES rows: every head certain of bin 1, but for the failed keys."""
    failed = set(failed)
    is_ok = [key not in failed for key in keys]
    columns: dict[str, Any] = {
        "illust_id": [key[0] for key in keys],
        "page": [key[1] for key in keys],
        "status": [OK if ok else FAILED for ok in is_ok],
        "error_code": [None if ok else "NOT_FOUND" for ok in is_ok],
        "error_detail": [None if ok else "no such file" for ok in is_ok],
        "attempts": [1] * len(keys),
        "fingerprint": [f"etag:{key[0]}" for key in keys],
        "run": [run] * len(keys),
        "embedding_run": [run if ok else None for ok in is_ok],
        "scored_at": [datetime(2026, 11, 21, tzinfo=UTC)] * len(keys),
    }
    for head in layout.heads:
        probs = [0.25, 0.75] + [0.0] * (head.num_bins - 2)
        values = {"bin": 1, "probs": probs, "score": 0.5, "expected": 20.0, "median": 1}
        columns |= {
            f"{head.name}_{name}": [value if ok else None for ok in is_ok] for name, value in values.items()
        }
    return pa.table(
        {field.name: pa.array(columns[field.name], field.type) for field in layout.scores},
        schema=layout.scores,
    )


def embedding_of(key: Key, dim: int) -> list[float]:
    """A vector that float16 holds exactly and that tells keys apart."""
    number = sum(str(key[0]).encode()) % 64
    return [float(number), float(key[1] % 64), 0.5, *range(dim)][:dim]


def embeddings_table(keys: Sequence[Key], layout: Layout = LAYOUT) -> pa.Table:
    """EMBEDDINGS rows of these keys."""
    schema = layout.embeddings
    dtype = np.float16 if layout.embedding_dtype == "float16" else np.float32
    flat = np.array([embedding_of(key, layout.embedding_dim) for key in keys], dtype=dtype).ravel()
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=schema.field("embedding").type)
    ids, pages = pa.array([k[0] for k in keys], layout.id_type), pa.array([k[1] for k in keys], pa.int32())
    return pa.Table.from_arrays([ids, pages, embedding], schema=schema)


class Here:
    """Runs what a night publishes in this very process."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    def each(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], memory_bytes: int | None = None
    ) -> Iterator[Any]:
        return (function(*call) for call in calls)


def publish_night(
    place: str,
    keys: Sequence[Key],
    *,
    failed: Sequence[Key] = (),
    layout: Layout = LAYOUT,
    run: str = "20261121T080000-00000001",
    parent: int = 0,
    num_pieces: int = 2,
) -> Snapshot:
    """A published snapshot of these keys, made by the functions that score uses."""
    folder = Folder(place)
    size = max(1, math.ceil(len(keys) / num_pieces))
    receipts = []
    for number in range(0, len(keys), size):
        chunk = keys[number : number + size]
        ok = [key for key in chunk if key not in set(failed)]
        piece = f"piece-{number:06}"
        tables = scores_table(chunk, run, failed, layout), embeddings_table(ok, layout)
        receipts.append(
            write_piece(
                folder, Origin(run=run, model_version=MODEL_VERSION, parent=parent), piece, layout, *tables
            )
        )
    scores = rewritten(folder, run, receipts, layout, len(keys)).files
    embeddings = [file for receipt in receipts if (file := receipt.file("embeddings"))]
    return publish(folder, parent, manifest(run, [*scores, *embeddings], layout, len(keys), len(failed)))


def rewritten(folder: Folder, run: str, receipts: list[Receipt], layout: Layout, num_rows: int) -> Merged:
    """The narrow table of a first night."""
    night = Changes(receipts, [], [], [], num_rows)
    ranges, merged = sort_changes(folder, f"staged/{run}/changes", run, layout, [], night)
    for keys in ranges:
        merged.add(merge_range(folder, run, layout, keys))
    return merged


def manifest(
    run: str, files: Iterable[DataFile], layout: Layout, num_rows: int, num_failed: int
) -> dict[str, Any]:
    """What ``publish`` is given."""
    return {
        "run": run,
        "model_version": MODEL_VERSION,
        "layout": layout.to_dict(),
        "files": [asdict(file) for file in files],
        "counts": {"rows": num_rows, "failed": num_failed},
        "config": {"columns": asdict(Columns())},
    }
