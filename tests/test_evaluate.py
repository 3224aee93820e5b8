"""evaluate: its numbers are those of the model on the split, beside the constants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pix2score.artifact import load_model, save_model
from pix2score.dataset import open_dataset
from pix2score.errors import DataError
from pix2score.evaluate import EvaluateConfig, evaluate
from pix2score.images import to_rgb
from pix2score.predictor import Predictor
from tests.chain import Chain

pytestmark = pytest.mark.usefixtures("ray_session")


def test_metrics_equal_those_of_the_model_on_the_split(chain: Chain) -> None:
    card, weights = load_model(chain.model)
    dataset = open_dataset(chain.dataset)
    rows = pq.read_table(f"{chain.dataset}/{dataset.parts('test')[0].path}")
    pixels = np.stack([to_rgb(image, card.preprocess) for image in rows.column("image").to_pylist()])
    prediction = Predictor(card, weights, batch_size=32).predict(pixels)
    for head in card.heads:
        truth = rows.column(f"{head.name}_bin").to_numpy()
        labelled, probs = truth >= 0, prediction.heads[head.name].probs.astype(np.float64)
        metrics = chain.evaluated["metrics"][head.name]
        assert metrics["num_labelled"] == labelled.sum()
        assert metrics["accuracy"] == pytest.approx((probs.argmax(1) == truth)[labelled].mean(), abs=1e-9)
        assert metrics["nll"] == pytest.approx(-np.log(probs[labelled, truth[labelled]]).mean(), abs=1e-4)


def test_metrics_json_stands_at_the_output(chain: Chain) -> None:
    written = json.loads((Path(chain.model).parent / "evaluation" / "metrics.json").read_text())
    assert written["metrics"] == json.loads(json.dumps(chain.evaluated["metrics"]))


def test_heads_that_do_not_match_are_named(chain: Chain, tmp_path: Path) -> None:
    card, weights = load_model(chain.model)
    bookmark = card.heads[0]
    moved = bookmark.fitted(edges=[*bookmark.bin_edges[:-1], 9999], counts=bookmark.counts or (), typical=bookmark.typical or ())
    save_model(
        str(tmp_path / "model"),
        weights,
        backbone=card.backbone,
        heads=(moved, *card.heads[1:]),
        preprocess=card.preprocess,
        embedding_dim=card.embedding_dim,
        temperatures=card.temperatures,
        about={},
    )
    with pytest.raises(DataError, match="bookmark has edges"):
        evaluate(EvaluateConfig(model=str(tmp_path / "model"), data=chain.dataset, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
