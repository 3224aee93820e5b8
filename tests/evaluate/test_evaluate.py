"""evaluate: its numbers are those of the model on the split, beside the constants."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from pix2score.dataset.card import open_dataset
from pix2score.errors import ConfigError, DataError, NotBetterError
from pix2score.evaluate.alterations import ALTERATIONS, ORIGINAL
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.job import evaluate
from pix2score.images.decode import to_rgb
from pix2score.model.folder import load_model, save_model
from pix2score.model.predictor import Predictor
from pix2score.serve.config import ExportConfig
from pix2score.serve.export import export
from tests.support.chain import Chain
from tests.support.engines import permute_scales

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
        by=("artist_id", "bookmarks"),
        perturb=("jpeg=90..10,noise=.2",),
        perturb_rows=60,
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
def test_the_numbers_of_each_quarter_are_those_of_its_rows(chain: Chain, compared: dict[str, Any]) -> None:
    parts = open_dataset(chain.dataset).parts("train")
    rows = pa.concat_tables([pq.read_table(f"{chain.dataset}/{part.path}") for part in parts])
    labels = rows.column("bookmark_label").to_pylist()
    quarters = compared["by"]["bookmarks"]["values"]
    known = np.array([label for label in labels if label is not None])
    part = np.digitize(known, np.quantile(known, [0.25, 0.5, 0.75]))
    found = [q["metrics"]["bookmark"]["num_labelled"] for q in quarters if q["value"] != "(none)"]
    assert found == np.bincount(part).tolist()
    assert sum(q["num_rows"] for q in quarters) == rows.num_rows
    for column in ("bookmarks", "artist_id"):
        views = [v["metrics"]["view"] for v in compared["by"][column]["values"]]
        weights = [m["num_labelled"] for m in views]
        nll = np.average([m.get("nll", 0.0) for m in views], weights=weights)
        assert nll == pytest.approx(compared["metrics"]["view"]["nll"])


@pytest.mark.slow
def test_perturbed_copies_are_answered_beside_the_same_images(compared: dict[str, Any]) -> None:
    perturbed = compared["perturbed"]
    assert 30 < perturbed["num_rows"] < 80
    for head in perturbed["heads"].values():
        assert [at["strength"] for at in head["jpeg"]] == [90, 63, 37, 10]
        moved = [at["mean_prob_change"] for at in (*head["jpeg"], *head["noise"])]
        assert 0 < moved[0] < moved[3]
        assert all(at["images"] == perturbed["num_rows"] for at in head["jpeg"])
        assert head["jpeg"][0]["difference"] == pytest.approx(
            head["jpeg"][0][head["main"]] - head["unperturbed"][head["main"]]
        )


@pytest.mark.slow
def test_how_heads_go_together_is_told_of_answers_and_labels(chain: Chain, compared: dict[str, Any]) -> None:
    found = compared["correlations"]
    assert found["heads"] == ["bookmark", "view", "sanity"]
    parts = open_dataset(chain.dataset).parts("train")
    rows = pa.concat_tables([pq.read_table(f"{chain.dataset}/{part.path}") for part in parts])
    both = rows.filter(pc.is_valid(rows.column("bookmark_label"))).filter(pc.field("view_label").is_valid())
    labels = [both.column(f"{name}_label").to_numpy().astype(float) for name in ("bookmark", "view")]
    assert found["labels"]["spearman"][0][1] == pytest.approx(spearmanr(*labels).statistic)
    assert found["labels"]["num_rows"][0][1] == both.num_rows
    assert found["answers"]["num_rows"][0][1] == rows.num_rows


@pytest.mark.slow
def test_without_a_gpu_few_images_are_led_to_other_answers(compared: dict[str, Any]) -> None:
    for detail in compared["details"].values():
        assert 4 < detail["adversarial"]["images"] < 30  # of 70; with a GPU nearly all would be tried


def test_an_unknown_column_is_a_mistake_before_anything_runs(chain: Chain, tmp_path: Path) -> None:
    config = EvaluateConfig(model=chain.model, data=chain.dataset, out=str(tmp_path / "out"), by=("artist",))
    with pytest.raises(DataError, match=r"--by artist: .* \(did you mean artist_id\?\)"):
        evaluate(config)
    assert not (tmp_path / "out").exists()


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


@pytest.mark.slow
def test_an_engine_that_answers_otherwise_is_told_and_the_numbers_are_float32s(
    chain: Chain, tmp_path: Path
) -> None:
    model = shutil.copytree(chain.model, tmp_path / "model")
    export(ExportConfig(model=str(model), engine="int8", calibrate=chain.dataset))
    permute_scales(model)
    settings: dict[str, Any] = {"data": chain.dataset, "split": "val", "ridge_rows": 0, "adversarial": 0}
    exact = evaluate(EvaluateConfig(model=chain.model, out=str(tmp_path / "exact"), **settings))
    found = evaluate(EvaluateConfig(model=str(model), out=str(tmp_path / "out"), engine="int8", **settings))
    assert found["engine"] == {"name": "float32", "asked": "int8"}
    assert "engine" not in exact
    assert found["metrics"]["bookmark"]["nll"] == exact["metrics"]["bookmark"]["nll"]


def test_an_engine_without_its_files_ends_before_anything_runs(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="python -m jobs.export --model .* --engine int8 --calibrate DATASET"):
        evaluate(
            EvaluateConfig(model=chain.model, data=chain.dataset, out=str(tmp_path / "out"), engine="int8")
        )
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="engine int8 runs on the CPU only"):
        EvaluateConfig(model=chain.model, data=chain.dataset, out="x", device="gpu", engine="int8")


def test_a_gate_without_a_rival_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="--require-better needs --compare"):
        EvaluateConfig(model="m", data="d", out="o", require_better=True)
