"""Made-up embeddings that look like a network's, and nights of them.

A row is one of 4,000 themes of unequal size in 48 hidden dimensions, with its own place around it, taken
through two random layers with a ReLU each, plus noise in every number: not negative, half of it zeros, 84 %
of the variance on 256 axes, its nearest neighbour at a cosine of 0.78 to 0.91 beside a median of 0.53.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.neighbours.vectors import Floats
from pix2score.snapshots.manifest import publish
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import DataFile, Layout, unique_path, write_file
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder

HIDDEN, WIDTH, THEMES = 48, 384, 4_000
AROUND, NOISE = 0.6, 0.15
FILE_ROWS = 16_384
SCORES_ROWS = 250_000
TRUNK = "benchmark000"


class MadeUp:
    """Embeddings of ``dim`` numbers; a block has the same ones whenever it is asked for."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._dim, self._seed = dim, seed
        scale = np.exp(rng.normal(0, 0.5, HIDDEN)).astype(np.float32)
        self._scale = scale / np.sqrt((scale**2).mean())
        self._themes = rng.standard_normal((THEMES, HIDDEN), dtype=np.float32) * self._scale
        self._first = rng.standard_normal((HIDDEN, WIDTH), dtype=np.float32) / np.sqrt(HIDDEN)
        self._second = rng.standard_normal((WIDTH, dim), dtype=np.float32) / np.sqrt(WIDTH)
        self._bias = rng.standard_normal(dim, dtype=np.float32) / 4
        share = np.arange(1, THEMES + 1) ** -0.7
        self._share = share / share.sum()

    def block(self, number: int, rows: int) -> npt.NDArray[np.float16]:
        """[rows, dim]."""
        rng = np.random.default_rng([self._seed + 1, number])
        theme = rng.choice(THEMES, rows, p=self._share)
        own = AROUND * self._scale * rng.standard_normal((rows, HIDDEN), dtype=np.float32)
        wide: Floats = np.maximum((self._themes[theme] + own) @ self._first, 0) @ self._second + self._bias
        wide += NOISE * rng.standard_normal(wide.shape, dtype=np.float32)
        return np.maximum(wide, 0).astype(np.float16)


def first_night(folder: Folder, rows: int, dim: int) -> Snapshot:
    """A live snapshot of ``rows`` made-up embeddings, in files that each hold keys from all over."""
    layout, made, run = Layout(pa.int64(), (), dim, "float16"), MadeUp(dim), "benchmark-1"
    order = np.random.default_rng(0).permutation(rows)
    files = [
        _embedding_file(folder, layout, run, np.sort(order[i : i + FILE_ROWS]), made, i)
        for i in range(0, rows, FILE_ROWS)
    ]
    files += _scores_files(folder, layout, rows, run, np.empty(0, np.int64), "")
    return publish(folder, 0, _facts(run, layout, files, rows))


def later_night(folder: Folder, before: Snapshot, share: float) -> Snapshot:
    """The next snapshot, in which ``share`` of the rows have another embedding."""
    layout, run = before.layout, "benchmark-2"
    rows = before.manifest["counts"]["rows"]
    changed = np.sort(np.random.default_rng(1).permutation(rows)[: int(rows * share)])
    made = MadeUp(layout.embedding_dim)
    files = before.files_of("embeddings")
    files += [
        _embedding_file(folder, layout, run, changed[i : i + FILE_ROWS], made, rows + i)
        for i in range(0, len(changed), FILE_ROWS)
    ]
    dead = pa.table(
        {
            "illust_id": changed,
            "page": np.zeros(len(changed), np.int32),
            "run": pa.repeat(pa.scalar("benchmark-1"), len(changed)),
        }
    )
    files.append(write_file(folder, "dead", unique_path("dead", run), dead.cast(layout.schema_of("dead"))))
    files += _scores_files(folder, layout, rows, "benchmark-1", changed, run)
    return publish(folder, before.number, _facts(run, layout, files, rows))


def _embedding_file(
    folder: Folder, layout: Layout, run: str, ids: npt.NDArray[np.int64], made: MadeUp, number: int
) -> DataFile:
    columns = [
        pa.array(ids), pa.array(np.zeros(len(ids), np.int32)), fixed_lists(made.block(number, len(ids)))
    ]  # fmt: skip
    table = pa.table(columns, names=layout.embeddings.names).cast(layout.embeddings)
    return write_file(folder, "embeddings", unique_path("embeddings", run), table)


def _scores_files(
    folder: Folder, layout: Layout, num_rows: int, run: str, changed: npt.NDArray[np.int64], later: str
) -> Iterator[DataFile]:
    """Ok rows without an answer; those of ``changed`` have the embedding of ``later``."""
    for start in range(0, num_rows, SCORES_ROWS):
        ids = np.arange(start, min(start + SCORES_ROWS, num_rows))
        columns: dict[str, Any] = {"illust_id": ids, "page": np.zeros(len(ids), np.int32)}
        columns |= {
            "status": pa.repeat(pa.scalar("ok"), len(ids)),
            "run": pa.repeat(pa.scalar(run), len(ids)),
        }
        columns["embedding_run"] = np.where(np.isin(ids, changed), later, run).tolist()
        columns["attempts"] = np.ones(len(ids), np.int16)
        columns["scored_at"] = np.full(len(ids), 1_763_000_000_000_000)
        table = pa.table({f.name: columns.get(f.name, pa.nulls(len(ids), f.type)) for f in layout.scores})
        yield write_file(folder, "scores", unique_path("scores", run), table.cast(layout.scores))


def _facts(run: str, layout: Layout, files: Sequence[DataFile], rows: int) -> dict[str, Any]:
    return {
        "run": run,
        "model_version": "0" * 12,
        "trunk_version": TRUNK,
        "layout": layout.to_dict(),
        "fingerprint_kind": "etag",
        "counts": {"rows": rows, "ok": rows, "failed": 0, "failed_by_code": {}},
        "config": {},
        "files": [asdict(file) for file in files],
    }
