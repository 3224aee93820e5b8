"""A scores folder whose embeddings say something of a KPI, and labels of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pix2score.snapshots.manifest import publish
from pix2score.snapshots.tables import Layout, unique_path, write_file
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from tests.support.builders import HEADS, MODEL_VERSION, manifest, scores_table

RUN, DIM = "20261121T080000-00000001", 8
LAYOUT = Layout(pa.int64(), HEADS, DIM, "float16")


@dataclass(frozen=True)
class Kpis:
    """Images of a scores folder, and how good each truly is."""

    scores: str
    ids: np.typing.NDArray[np.int64]
    embedding: np.typing.NDArray[np.float32]
    truth: np.typing.NDArray[np.float64]
    """A number that grows with some entries of the embedding, in steps with the size of another."""
    group: np.typing.NDArray[np.int64]


def publish_kpis(
    place: str,
    num: int = 600,
    *,
    failed: Sequence[int] = (),
    dim: int = DIM,
    model_version: str = MODEL_VERSION,
) -> Kpis:
    """A published snapshot of images 0 to ``num``, in three files of embeddings that are not in key order."""
    rng, folder = np.random.default_rng(0), Folder(place)
    layout = Layout(pa.int64(), HEADS, dim, "float16")
    ids, embedding = np.arange(num), rng.normal(size=(num, dim)).astype(np.float16)
    keys = [(int(i), 0) for i in ids]
    lost = [(i, 0) for i in failed]
    files = [write_file(folder, "scores", unique_path("scores", RUN), scores_table(keys, RUN, lost, layout))]
    for part in np.array_split(rng.permutation(np.setdiff1d(ids, failed)), 3):
        columns = [pa.array(part), pa.array(np.zeros(len(part), np.int32)), fixed_lists(embedding[part])]
        table = pa.Table.from_arrays(columns, schema=layout.embeddings)
        files.append(write_file(folder, "embeddings", unique_path("embeddings", RUN), table))
    facts = manifest(RUN, files, layout, num, len(lost))
    publish(folder, 0, {**facts, "model_version": model_version})
    seen = embedding.astype(np.float32)
    truth = seen[:, 0] + 2.0 * (np.abs(seen[:, 1]) > 0.7) + rng.normal(size=num) / 4
    return Kpis(place, ids, seen, truth.astype(np.float64), ids // 3)


def write_labels(place: str, columns: Mapping[str, Any] | pa.Table) -> str:
    """The place of a file of labels."""
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    whole = Folder(place)
    whole.parent.publish(whole.name, parquet_bytes(table), replace=True)
    return place
