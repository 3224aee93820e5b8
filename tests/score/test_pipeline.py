"""Decoding and predicting in one stage, as on CPUs, and in two, as with GPUs, and JPEGs decoded by the
predictor: the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.contents import ImageRows
from pix2score.cluster.session import session
from pix2score.images.source import image_source
from pix2score.model.folder import load_model
from pix2score.nightly.plan import ScoringRequest, plan_scoring
from pix2score.score.pipeline import ScorePipeline
from pix2score.snapshots.pieces import STAGED, Origin
from pix2score.snapshots.tables import Layout
from pix2score.storage.folder import Folder
from tests.support.chain import Chain

pytestmark = pytest.mark.usefixtures("ray_session")


def staged_rows(
    chain: Chain, out: Folder, *, is_apart: bool, gpu_decode: bool = False
) -> tuple[dict[Any, dict[str, Any]], int]:
    """Every row that a pipeline stages, by key, and its number of pieces."""
    card, _ = load_model(chain.model)
    catalog = open_catalog(chain.catalog, Columns())
    layout = Layout(catalog.id_type, card.heads, card.embedding_dim, "float16")
    origin = Origin(run="20260101T000000-abcdef01", model_version=card.version, parent=0)
    plan = plan_scoring(
        catalog, out, f"{STAGED}/{origin.run}/plan", ScoringRequest(origin=origin, layout=layout)
    )
    with session() as offer:
        pipeline = ScorePipeline(
            model=chain.model,
            preprocess=card.preprocess,
            origin=origin,
            layout=layout,
            images=ImageRows.of(catalog, image_source(catalog.folder.uri, ())),
            out=out,
            offer=offer,
            use_gpu=False,
            is_apart=is_apart,
            gpu_decode=gpu_decode,
            precision="auto",
            engine="auto",
            graph=None,  # the model has its own
            compiled=False,
            batch_size=8,
            part_rows=100,
        )
        assert pipeline.slots(plan.counts.to_score).is_shared == (not is_apart)
        receipts = list(pipeline.receipts(plan.parts, "piece"))
    assert sum(receipt.rows for receipt in receipts) == plan.counts.to_score
    tables = [
        pq.read_table(out.full(file.path))
        for receipt in receipts
        for file in receipt.files
        if file.table == "scores"
    ]
    rows = pa.concat_tables(tables).to_pylist()
    return {(row["illust_id"], row["page"]): row for row in rows}, len(receipts)


def assert_same_facts(ours: dict[Any, dict[str, Any]], theirs: dict[Any, dict[str, Any]]) -> None:
    """Equal but for what the model computed."""
    names = ("status", "error_code", "error_detail", "attempts")
    assert {k: [row[name] for name in names] for k, row in ours.items()} == {
        k: [row[name] for name in names] for k, row in theirs.items()
    }


@pytest.mark.slow
def test_one_stage_and_two_give_the_same_rows(chain: Chain, tmp_path: Path) -> None:
    one, num_pieces = staged_rows(chain, Folder(str(tmp_path / "one")), is_apart=False)
    two, _ = staged_rows(chain, Folder(str(tmp_path / "two")), is_apart=True)
    assert num_pieces > 0
    assert_same_facts(one, two)
    for key, row in one.items():
        if row["status"] == "ok":
            np.testing.assert_allclose(row["view_probs"], two[key]["view_probs"], atol=1e-5)


@pytest.mark.slow
def test_jpegs_decoded_by_the_predictor_move_probabilities_within_the_bound(
    chain: Chain, tmp_path: Path
) -> None:
    usual, _ = staged_rows(chain, Folder(str(tmp_path / "usual")), is_apart=True)
    there, _ = staged_rows(chain, Folder(str(tmp_path / "there")), is_apart=True, gpu_decode=True)
    assert_same_facts(usual, there)
    apart = [
        np.abs(np.subtract(row["view_probs"], there[k]["view_probs"]))
        for k, row in usual.items()
        if row["status"] == "ok"
    ]
    assert 0 < np.mean(apart) <= 0.01, "some were decoded elsewhere, and none is far off"
