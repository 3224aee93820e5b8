"""Nights whose embeddings have neighbours: themes, places around them, and copies where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.snapshots.manifest import publish
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import DataFile, Layout, write_file
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder
from tests.support.builders import HEADS, Key, scores_table

TRUNK = "a" * 12
Vectors = dict[Key, npt.NDArray[np.float32]]


def vectors_of(
    keys: Sequence[Key], dim: int = 32, seed: int = 0, dtype: Any = np.float16, themes_of: int = 100
) -> Vectors:
    """Not negative, in themes; exactly what ``dtype`` holds."""
    themes = np.random.default_rng(themes_of).standard_normal((12, dim))
    rng = np.random.default_rng(seed)
    rows = themes[rng.integers(0, 12, len(keys))] + 0.5 * rng.standard_normal((len(keys), dim))
    return dict(zip(keys, np.maximum(rows, 0).astype(dtype), strict=True))


def night(
    place: str,
    runs: dict[str, Vectors],
    *,
    parent: int = 0,
    layout: Layout | None = None,
    trunk: str | None = TRUNK,
    file_rows: int = 300,
    failed: Sequence[Key] = (),
    removed: Sequence[Key] = (),
    **facts: Any,
) -> Snapshot:
    """A snapshot with the embeddings of the runs; of a key the last one is live, unless it is ``removed``."""
    folder = Folder(place)
    dim = len(next(iter(next(iter(runs.values())).values())))
    layout = layout or Layout(pa.int64(), HEADS, dim, "float16")
    live = {key: run for run, vectors in runs.items() for key in vectors}
    files = []
    for run, vectors in runs.items():
        files += _embeddings(folder, layout, run, vectors, file_rows)
    live = {key: run for key, run in live.items() if key not in {*removed}}
    dead = [(*key, run) for run, vectors in runs.items() for key in vectors if live.get(key) != run]
    if dead:
        schema = layout.schema_of("dead")
        columns = [
            pa.array(values, field.type)
            for values, field in zip(zip(*dead, strict=True), schema, strict=True)
        ]
        path = f"dead/{parent + 1}/part-0.parquet"
        files.append(write_file(folder, "dead", path, pa.Table.from_arrays(columns, schema=schema)))
    tables = [scores_table([key for key in live if live[key] == run], run, (), layout) for run in runs]
    tables.append(scores_table(list(failed), "none", failed, layout))
    scores = pa.concat_tables(tables).sort_by([("illust_id", "ascending"), ("page", "ascending")])
    files.append(write_file(folder, "scores", f"scores/{parent + 1}/part-0.parquet", scores))
    manifest = {
        "run": list(runs)[-1],
        "model_version": "b" * 12,
        "trunk_version": trunk,
        "layout": layout.to_dict(),
        "counts": {"rows": scores.num_rows, "ok": len(live), "failed": len(failed), "failed_by_code": {}},
        "files": [asdict(file) for file in files],
        "config": {"columns": {}},
    }
    return publish(folder, parent, manifest | facts)


def _embeddings(folder: Folder, layout: Layout, run: str, vectors: Vectors, file_rows: int) -> list[DataFile]:
    """Files of a run, written once however many nights name them."""
    keys, found = sorted(vectors), []
    for start in range(0, len(keys), file_rows):
        some = keys[start : start + file_rows]
        columns = [
            pa.array([key[0] for key in some], layout.id_type),
            pa.array([key[1] for key in some], pa.int32()),
            fixed_lists(np.stack([vectors[key] for key in some])),
        ]
        table = pa.Table.from_arrays(columns, names=layout.embeddings.names).cast(layout.embeddings)
        found.append(write_file(folder, "embeddings", f"embeddings/{run}/part-{start}.parquet", table))
    return found


def cosines(vectors: Vectors, of: npt.NDArray[np.floating], k: int) -> list[tuple[Key, float]]:
    """The nearest by the textbook formula, in float64."""
    keys, rows_ND = list(vectors), np.stack([*vectors.values()]).astype(np.float64)
    lengths_N = np.sqrt((rows_ND**2).sum(axis=1) * (of.astype(np.float64) ** 2).sum())
    found = zip(keys, (rows_ND @ of.astype(np.float64) / lengths_N).tolist(), strict=True)
    return sorted(found, key=lambda one: (-one[1], one[0]))[:k]
