"""A night of tags: its rows survive the folder, and its embeddings give every probability again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import pix2score
from pix2score.errors import DataError
from pix2score.heads.tags import TagsHead, probabilities
from pix2score.model.folder import load_model, save_model
from pix2score.model.network import MultiHeadModel
from pix2score.model.prediction import Prediction
from pix2score.model.predictor import Predictor
from pix2score.serve.export import facts
from pix2score.serve.graph import ServedModel
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import publish
from pix2score.snapshots.pieces import Origin, write_piece
from pix2score.snapshots.tables import Layout
from pix2score.snapshots.verify import verify
from pix2score.storage.folder import Folder
from tests.support.builders import manifest, rewritten
from tests.support.models import save_settled
from tests.support.torch_helpers import NARROW, PREPROCESS, pixels, save_network

RUN = "20261121T080000-00000001"
NAMES = ("sky", "it's", "cloud", "cat")
CALIBRATION = {"slope": 1.5, "offset": -0.25, "threshold": 0.4, "thresholds": [0.4, 0.45, 0.5, 0.99]}
KEYS = [(number, page) for number in range(5, 9) for page in range(2)]


def tags_head(**more: Any) -> TagsHead:
    counts = {"tags": NAMES, "counts": (50, 40, 30, 20), "num_tagged": 100}
    return TagsHead(name="tag", column="tags", **counts, **more)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained network whose answers spread."""
    place, heads = str(tmp_path_factory.mktemp("model")), (tags_head(),)
    torch.manual_seed(0)
    network = MultiHeadModel(NARROW, heads)
    with torch.no_grad():
        network.outputs["tag_logits"].weight *= 8
    save_network(place, network, heads=heads, calibrations={"tag": CALIBRATION})
    return place


@pytest.fixture(scope="module")
def prediction(model: str) -> Prediction:
    return Predictor(*load_model(model), batch_size=4).predict(pixels(len(KEYS)))


@pytest.fixture(scope="module")
def scores(model: str, prediction: Prediction, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A published night of these answers."""
    folder = Folder(str(tmp_path_factory.mktemp("scores")))
    card, _ = load_model(model)
    layout = Layout(pa.int64(), card.heads, card.embedding_dim, "float16")
    num = len(KEYS)
    columns: dict[str, Any] = {
        "illust_id": [key[0] for key in KEYS],
        "page": [key[1] for key in KEYS],
        "status": ["ok"] * num,
        "error_code": [None] * num,
        "error_detail": [None] * num,
        "attempts": [1] * num,
        "fingerprint": ["x"] * num,
        "run": [RUN] * num,
        "embedding_run": [RUN] * num,
        "scored_at": [datetime(2026, 11, 21, tzinfo=UTC)] * num,
        **card.heads[0].columns(prediction.heads["tag"]),
    }
    rows = pa.table({f.name: pa.array(columns[f.name], f.type) for f in layout.scores}, schema=layout.scores)
    flat = pa.array(prediction.embedding.astype(np.float16).ravel())
    embedding = pa.FixedSizeListArray.from_arrays(flat, type=layout.embeddings.field("embedding").type)
    embeddings = pa.Table.from_arrays([*rows.columns[:2], embedding], schema=layout.embeddings)
    origin = Origin(run=RUN, model_version=card.version, parent=0)
    receipt = write_piece(folder, origin, "piece-000000", layout, rows, embeddings)
    files = [*rewritten(folder, RUN, [receipt], layout, num).files, receipt.file("embeddings")]
    content = manifest(RUN, (file for file in files if file), layout, num, 0)
    publish(folder, 0, content | {"model_version": card.version})
    return folder.uri


def test_rows_of_tags_survive_the_folder_and_are_verified(scores: str, prediction: Prediction) -> None:
    rows = pix2score.read_scores(scores).to_table()
    wanted = tags_head().columns(prediction.heads["tag"])
    for name, column in wanted.items():
        assert rows.column(name).to_pylist() == column.to_pylist(), name
    assert len({tuple(probs) for probs in rows.column("tag_probs").to_pylist()}) == len(KEYS)
    assert verify(VerifyConfig(scores=scores))["rows"] == len(KEYS)


def test_the_probability_of_every_tag_comes_from_the_stored_embedding(
    scores: str, model: str, prediction: Prediction
) -> None:
    wanted = probabilities(prediction.heads["tag"].logits)
    asked = [KEYS[3], KEYS[0], 6]
    found = pix2score.tag_vectors(scores, model, asked)
    assert found.select(["illust_id", "page"]).to_pylist() == [
        {"illust_id": i, "page": p} for i, p in (KEYS[3], KEYS[0], (6, 0))
    ]
    rows = np.array(found.column("tag_probs").to_pylist())
    np.testing.assert_allclose(rows, wanted[[3, 0, KEYS.index((6, 0))]], atol=2e-3)
    assert json.loads(found.schema.field("tag_probs").metadata[b"tags"]) == list(NAMES)
    assert np.ptp(wanted) > 0.1
    one = pix2score.tag_vectors(scores, model, KEYS[3])
    np.testing.assert_allclose(one.column("tag_probs").to_pylist(), rows[:1], rtol=1e-5)


def test_what_cannot_be_answered_is_named(scores: str, model: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="99, page 0, has no embedding"):
        pix2score.tag_vectors(scores, model, [KEYS[0], 99])
    with pytest.raises(DataError, match="the ids of .* are int64"):
        pix2score.tag_vectors(scores, model, "five")
    with pytest.raises(DataError, match="no head of kind tags"):
        pix2score.tag_vectors(scores, save_settled(tmp_path / "other"), KEYS[0])
    card, weights = load_model(model)
    changed = str(tmp_path / "changed")
    save_model(
        changed,
        weights,
        backbone=card.backbone,
        heads=(tags_head(top=3),),
        preprocess=PREPROCESS,
        embedding_dim=card.embedding_dim,
        temperatures={},
        about={},
    )
    with pytest.raises(DataError, match="was scored with model"):
        pix2score.tag_vectors(scores, changed, KEYS[0])


def test_the_graph_answers_all_probabilities_and_says_their_names(model: str, prediction: Prediction) -> None:
    card, weights = load_model(model)
    served = ServedModel(card, weights).eval()
    with torch.inference_mode():
        found = served(torch.from_numpy(pixels(1)[0]))
    wanted = probabilities(prediction.heads["tag"].logits[0])
    np.testing.assert_allclose(found["tag_probs"].numpy(), wanted, atol=1e-3)
    assert found["tag_score"].item() == pytest.approx(wanted.max(), abs=1e-3)
    assert facts(card)["tag_tags"] == list(NAMES)
    assert facts(card)["tag_thresholds"] == CALIBRATION["thresholds"]
