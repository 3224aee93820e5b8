"""Places of one small run of the whole chain, made once per session and shared by the Ray tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.demo.catalog import DrawnCatalog, draw_catalog
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.job import prepare
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.train.job import TrainConfig, train
from tests.conftest import BUCKET

NUM_PICTURES = 130
INPUT_SIZE = 32
BACKBONE = "test_resnet"  # a small one that timm has for tests: any process knows it
EMBEDDING_DIM = 96
TRAINING: dict[str, Any] = {
    "backbone": BACKBONE,
    "input_size": INPUT_SIZE,
    "batch_size": 16,
    "epochs": 2,
    "seed": 3,
}


@dataclass(frozen=True)
class Chain:
    """Where each stage's output is, and what the stage returned."""

    drawn: DrawnCatalog
    catalog: str
    dataset: str
    model: str
    scores: str
    prepared: dict[str, Any]
    trained: dict[str, Any]
    scored: dict[str, Any]

    def catalog_rows(self) -> pa.Table:
        """The catalog as drawn."""
        return pq.read_table(f"{self.catalog}/catalog.parquet")


def run_chain(catalog: str, root: str, drawn: DrawnCatalog, *, num_workers: int) -> Chain:
    """prepare, train (0 workers: in this process) and score below ``root`` (a folder or an S3 prefix)."""
    dataset, model, scores = f"{root}/dataset", f"{root}/model", f"{root}/scores"
    prepared = prepare(
        PrepareConfig(catalog=catalog, out=dataset, image_size=64, val_fraction=0.2, test_fraction=0.2)
    )
    trained = train(TrainConfig(data=dataset, out=model, num_workers=num_workers, **TRAINING))
    scored = score(ScoreConfig(catalog=catalog, model=model, out=scores, part_rows=40))
    return Chain(drawn, catalog, dataset, model, scores, prepared, trained, scored)


def local_chain(root: Path) -> Chain:
    """The chain in local folders."""
    catalog = root / "catalog"
    catalog.mkdir(parents=True)
    return run_chain(
        str(catalog), str(root), draw_catalog(catalog, num_pictures=NUM_PICTURES, seed=5), num_workers=0
    )


def upload(s3: Any, folder: str, prefix: str) -> None:
    """All files below a local folder, as objects below ``prefix``; ``s3`` is a boto3 client."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder)}")


def history(model: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(model) / "history.jsonl").read_text().splitlines()]
