"""heads: a night on which only the heads changed, answered from stored embeddings, beside pictures.

Both are the command that users type. The stored embeddings are random, in files as a GPU night leaves them:
each holds keys from all over.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.benchmark.pictures import write_photographs
from pix2score.benchmark.score import linked, output
from pix2score.cli.main import module_of
from pix2score.heads.ordered import OrderedHead
from pix2score.model.card import ModelCard, load_card
from pix2score.snapshots.manifest import publish
from pix2score.snapshots.tables import DataFile, Layout, unique_path, write_file
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder

FILE_ROWS = 16_384
RUN = "benchmark-1"


@dataclass(frozen=True, slots=True)
class HeadsTiming:
    """A night of ``rows`` answers from embeddings, and one of pictures by the same model."""

    rows: int
    embedding_dim: int
    seconds: float
    """From command to exit."""
    stages_s: dict[str, float]
    """Of it, by what the command did."""
    rows_per_s: float
    """While heads answered."""
    images: int
    images_per_s: float

    @property
    def ratio(self) -> float:
        """Answers from embeddings in the time of one from a picture."""
        return self.rows_per_s / self.images_per_s


def time_heads(place: Path, rows: int, backbone: str, size: int, num_images: int) -> HeadsTiming:
    """Write ``rows`` stored embeddings below ``place``, an empty folder, and score; then some pictures."""
    from pix2score.benchmark.forward import random_model  # imports torch

    model = str(place / "model")
    card, _ = random_model(backbone, size, model)
    catalog = _write_night(place, rows, load_card(model))
    answered = _score(catalog, model, place / "scores", "--max-drift", "100")  # from a constant answer
    photographs = place / "photographs"
    write_photographs(photographs, num_images, 500, 375)
    folder = linked(place / "images", sorted(photographs.iterdir()))
    root = ["--image-root", str(photographs)]
    seen = _score(f"{folder}.parquet", model, place / "pictures", *root)
    return HeadsTiming(
        rows=rows,
        embedding_dim=card.embedding_dim,
        seconds=answered["seconds"],
        stages_s=answered["stages_s"],
        rows_per_s=answered["answered"]["rows_per_s"],
        images=num_images,
        images_per_s=seen["images_per_s"],
    )


def _score(catalog: str, model: str, out: Path, *more: str) -> dict[str, Any]:
    flags = ["--catalog", catalog, "--model", model, "--out", str(out), *more]
    printed = output([sys.executable, "-m", module_of("score"), *flags])
    summary: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return summary


def _write_night(place: Path, rows: int, card: ModelCard) -> str:
    """The catalog and a live snapshot of it, by another model with the same trunk."""
    layout = Layout(pa.int64(), card.heads, card.embedding_dim, "float16")
    folder, ids = Folder(str(place / "scores")), np.arange(rows, dtype=np.int64)
    files = [*_scores_files(folder, layout, ids), *_embedding_files(folder, layout, ids)]
    catalog = place / "catalog.parquet"
    etags = [f"{number:032x}" for number in range(rows)]
    uris = pa.repeat(pa.scalar("images/1.jpg"), rows)
    pq.write_table(pa.table({"illust_id": ids, "uri": uris, "etag": etags}), catalog)
    facts = {
        "run": RUN,
        "model_version": "0" * 12,
        "trunk_version": card.trunk_version,
        "layout": layout.to_dict(),
        "fingerprint_kind": "etag",
        "counts": {"rows": rows, "ok": rows, "failed": 0, "failed_by_code": {}},
        "runs": {RUN: rows},
        "config": {},
        "files": [asdict(file) for file in files],
    }
    publish(folder, 0, facts)
    return str(catalog)


def _scores_files(folder: Folder, layout: Layout, ids: npt.NDArray[np.int64]) -> Iterator[DataFile]:
    for start in range(0, len(ids), 250_000):
        rows = ids[start : start + 250_000]
        columns: dict[str, Any] = {"illust_id": rows, "page": np.zeros(len(rows), np.int32)}
        columns |= {name: pa.repeat(pa.scalar(RUN), len(rows)) for name in ("run", "embedding_run")}
        columns |= {"status": pa.repeat(pa.scalar("ok"), len(rows)), "attempts": np.ones(len(rows), np.int16)}
        columns["fingerprint"] = [f"etag:{number:032x}" for number in rows.tolist()]
        columns["scored_at"] = np.full(len(rows), 1_763_000_000_000_000)
        for head in layout.heads:
            assert isinstance(head, OrderedHead)
            probs = np.full((len(rows), head.num_bins), 1 / head.num_bins, np.float32)
            columns |= head.columns(head.answer(np.log(probs), {}))
        table = pa.table(
            {
                f.name: columns[f.name] if f.name in columns else pa.nulls(len(rows), f.type)
                for f in layout.scores
            }
        )
        yield write_file(folder, "scores", unique_path("scores", RUN), table.cast(layout.scores))


def _embedding_files(folder: Folder, layout: Layout, ids: npt.NDArray[np.int64]) -> Iterator[DataFile]:
    rng = np.random.default_rng(0)
    order = rng.permutation(ids)
    for start in range(0, len(order), FILE_ROWS):
        rows = np.sort(order[start : start + FILE_ROWS])
        embedding = rng.random((len(rows), layout.embedding_dim), dtype=np.float32).astype(np.float16)
        columns = [pa.array(rows), pa.array(np.zeros(len(rows), np.int32)), fixed_lists(embedding)]
        table = pa.table(columns, names=layout.embeddings.names).cast(layout.embeddings)
        yield write_file(folder, "embeddings", unique_path("embeddings", RUN), table)
