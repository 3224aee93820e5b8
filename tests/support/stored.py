"""A scores folder with given embeddings, as a model of some trunk left it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.model.card import ModelCard
from pix2score.snapshots.manifest import publish
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import Layout, write_file
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder
from tests.support.builders import scores_table

RUN = "20261121T080000-00000001"


def stored_night(
    place: str,
    card: ModelCard,
    embedding_ND: npt.NDArray[Any],
    *,
    failed: tuple[int, ...] = (),
    file_rows: int = 400,
    **facts: Any,
) -> Snapshot:
    """Illustrations 0 to N - 1 with these embeddings, all ok but those that ``failed``."""
    folder, layout = Folder(place), Layout(pa.int64(), card.heads, card.embedding_dim, "float16")
    keys = [(i, 0) for i in range(len(embedding_ND))]
    scores = scores_table(keys, RUN, [key for key in keys if key[0] in failed], layout)
    files = [write_file(folder, "scores", f"scores/{RUN}/part-0.parquet", scores)]
    order = np.random.default_rng(0).permutation([i for i in range(len(keys)) if i not in failed])
    for start in range(0, len(order), file_rows):
        ids = np.sort(order[start : start + file_rows])
        columns = [pa.array(ids), pa.array(np.zeros(len(ids), np.int32)), fixed_lists(embedding_ND[ids])]
        table = pa.table(columns, names=layout.embeddings.names).cast(layout.embeddings)
        files.append(write_file(folder, "embeddings", f"embeddings/{RUN}/part-{start}.parquet", table))
    manifest: dict[str, Any] = {
        "run": RUN,
        "model_version": card.version,
        "trunk_version": card.trunk_version,
        "layout": layout.to_dict(),
        "fingerprint_kind": "etag",
        "counts": {"rows": len(keys), "ok": len(order), "failed": len(failed), "failed_by_code": {}},
        "runs": {RUN: len(order)},
        "config": {},
        "files": [asdict(file) for file in files],
    }
    return publish(folder, 0, manifest | facts)
