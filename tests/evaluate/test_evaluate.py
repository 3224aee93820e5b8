"""evaluate: its numbers are those of the model on the split, beside the constants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.dataset.card import open_dataset
from pix2score.errors import ConfigError, DataError, NotBetterError
from pix2score.evaluate.alterations import ALTERATIONS, ORIGINAL
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.job import evaluate
from pix2score.images.decode import to_rgb
from pix2score.model.folder import load_model, save_model
from pix2score.model.predictor import Predictor
from tests.support.chain import Chain

pytestmark = pytest.mark.usefixtures("ray_session")


def assert_metrics_are_those_of_the_model(chain: Chain, split: str, found: dict[str, Any]) -> None:
    card, weights = load_model(chain.model)
    parts = open_dataset(chain.dataset).parts(split)
    rows = pa.concat_tables([pq.read_table(f"{chain.dataset}/{part.path}") for part in parts])
    pixels = np.stack([to_rgb(image, card.preprocess) for image in rows.column("image").to_pylist()])
    prediction = Predictor(card, weights, batch_size=32).predict(pixels)
    for head in card.heads:
        truth = rows.column(f"{head.name}_bin").to_numpy()
        labelled, probs = truth >= 0, prediction.heads[head.name].probs.astype(np.float64)
        metrics = found[head.name]
        assert metrics["num_labelled"] == labelled.sum()
        assert metrics["accuracy"] == pytest.approx((probs.argmax(1) == truth)[labelled].mean(), abs=1e-9)
        assert metrics["nll"] == pytest.approx(-np.log(probs[labelled, truth[labelled]]).mean(), abs=1e-4)


@pytest.mark.slow
def test_without_another_split_asked_for_it_is_the_test_split_that_is_evaluated(
    chain: Chain, tmp_path: Path
) -> None:
    found = evaluate(EvaluateConfig(model=chain.model, data=chain.dataset, out=str(tmp_path)))
    assert_metrics_are_those_of_the_model(chain, "test", found["metrics"])


def test_heads_that_do_not_match_are_named(chain: Chain, tmp_path: Path) -> None:
    card, weights = load_model(chain.model)
    bookmark = card.heads[0]
    moved = bookmark.fitted(
        edges=[*bookmark.bin_edges[:-1], 9999], counts=bookmark.counts or (), typical=bookmark.typical or ()
    )
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


def weakened(chain: Chain, place: Path) -> str:
    """The chain's model with one head's weights negated: it ranks the wrong way round."""
    card, weights = load_model(chain.model)
    changed = {
        name: -tensor if name.startswith("outputs.view") else tensor for name, tensor in weights.items()
    }
    settings = {
        "backbone": card.backbone,
        "heads": card.heads,
        "preprocess": card.preprocess,
        "embedding_dim": card.embedding_dim,
    }
    save_model(str(place), changed, **settings, temperatures=card.temperatures, about={})  # type: ignore[arg-type]
    return str(place)


@pytest.fixture(scope="module")
def compared(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The chain's model against a weakened one, on the train split: it has enough labels. What is written."""
    out = tmp_path_factory.mktemp("compared")
    config = EvaluateConfig(
        model=chain.model,
        compare=weakened(chain, out / "weak"),
        data=chain.dataset,
        out=str(out),
        split="train",
        require_better=True,
    )
    found = evaluate(config)
    written = json.loads((out / "metrics.json").read_text())
    assert written["metrics"] == json.loads(json.dumps(found["metrics"]))
    return written  # type: ignore[no-any-return]


@pytest.mark.slow
def test_metrics_equal_those_of_the_model_on_the_split(chain: Chain, compared: dict[str, Any]) -> None:
    assert_metrics_are_those_of_the_model(chain, "train", compared["metrics"])


@pytest.mark.slow
def test_every_head_has_intervals_and_references(compared: dict[str, Any]) -> None:
    for name, metrics in compared["metrics"].items():
        assert metrics["reliable"], name
        low, high = metrics["interval"]["nll"]
        assert low < metrics["nll"] < high
        assert set(metrics["constant"]) == {"nll", "rps", "mae_bins", "accuracy", "mse", "rmse", "mae"}
        assert {"spearman", "kappa", "mae_bins", "auc_top20"} <= set(metrics["ridge"])
        assert 0 <= metrics["ece"] <= 1
        assert metrics["temperature"] > 0


@pytest.mark.slow
def test_altered_copies_and_originals_are_answered(compared: dict[str, Any]) -> None:
    for detail in compared["details"].values():
        altered = detail["altered"]
        assert set(altered) == {*ALTERATIONS, ORIGINAL}
        assert all(change["images"] > 20 for change in altered.values())
        assert altered[ORIGINAL]["mean_prob_change"] <= 0.01  # prepared images stand for their originals
        assert altered["crop_top_left_5"]["mean_prob_change"] > 0


@pytest.mark.slow
def test_the_comparison_names_the_head_that_differs(compared: dict[str, Any]) -> None:
    comparison = compared["comparison"]
    assert comparison["bookmark"]["verdict"] == "no difference"
    assert comparison["bookmark"]["spearman"]["difference"] == 0
    assert comparison["view"]["verdict"] == "better"
    assert compared["is_better"] is True


@pytest.mark.slow
def test_the_gate_refuses_a_worse_candidate_after_writing_why(chain: Chain, tmp_path: Path) -> None:
    weak = weakened(chain, tmp_path / "weak")
    config = EvaluateConfig(
        model=weak,
        compare=chain.model,
        data=chain.dataset,
        out=str(tmp_path),
        split="train",
        require_better=True,
        ridge_rows=0,
    )
    with pytest.raises(NotBetterError, match="view worse") as caught:
        evaluate(config)
    assert caught.value.exit_code == 1
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["is_better"] is False
    assert written["metrics"]["view"]["ridge"] == {}


def test_a_gate_without_a_rival_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="--require-better needs --compare"):
        EvaluateConfig(model="m", data="d", out="o", require_better=True)
