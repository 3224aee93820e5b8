"""An ensemble is a model folder like any other, and says what the mean of its members says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.compute as pc
import pytest

from pix2score import read_scores
from pix2score.ensemble.config import EnsembleConfig
from pix2score.ensemble.job import ensemble
from pix2score.errors import ConfigError, DataError
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.job import evaluate
from pix2score.model.folder import ModelCard, load_model, save_model
from pix2score.model.graph import graph_or_none
from pix2score.model.initial import initial_trunk
from pix2score.model.predictor import Predictor, load_predictor
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.serve.config import ExportConfig
from pix2score.serve.export import export
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live
from pix2score.snapshots.verify import verify
from pix2score.train.repair import repair
from pix2score.train.repair_config import RepairConfig
from tests.support.chain import Chain
from tests.support.torch_helpers import pixels

pytestmark = pytest.mark.usefixtures("ray_session")


def saved_as(place: Path, card: ModelCard, weights: dict[str, Any], **changes: Any) -> str:
    card = replace(card, **changes)
    save_model(
        str(place),
        weights,
        backbone=card.backbone,
        heads=card.heads,
        preprocess=card.preprocess,
        embedding_dim=card.embedding_dim,
        temperatures=card.temperatures,
        about={},
        graph=graph_or_none,
    )
    return str(place)


@pytest.fixture(scope="module")
def members(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The trained model, and two whose outputs were moved; one of them wants another normalisation."""
    root, (card, weights) = tmp_path_factory.mktemp("members"), load_model(chain.model)
    rng = np.random.default_rng(1)

    def moved() -> dict[str, Any]:
        return {
            n: w + 0.1 * rng.normal(size=w.shape).astype(w.dtype) if "outputs" in n else w
            for n, w in weights.items()
        }

    other = replace(card.preprocess, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return [
        chain.model,
        saved_as(root / "b", card, moved(), temperatures=dict.fromkeys(card.temperatures, 1.3)),
        saved_as(root / "c", card, moved(), preprocess=other),
    ]


@pytest.fixture(scope="module")
def made(
    chain: Chain, members: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    out = str(tmp_path_factory.mktemp("ensemble") / "model")
    return out, ensemble(EnsembleConfig(models=tuple(members), data=chain.dataset, out=out))


def test_it_says_what_the_mean_of_its_members_says_in_both_engines(
    members: list[str], made: tuple[str, dict[str, Any]]
) -> None:
    images = pixels(5, seed=7, size=32)
    card, weights = load_model(made[0])
    assert [member.backbone for member in card.members] == [card.backbone] * 3
    assert (Path(made[0]) / "model.onnx").is_file()
    settings: dict[str, Any] = {"batch_size": 8, "device": "cpu", "num_threads": 1}
    onnx = load_predictor(made[0], **settings)
    assert onnx.engine == "onnx"
    torchs = Predictor(card, weights, engine="torch", **settings).predict(images)
    parts = [load_predictor(place, **settings).predict(images) for place in members]
    for head in card.heads:
        mean = sum(
            m.shares[head.name] * part.heads[head.name].probs
            for m, part in zip(card.members, parts, strict=True)
        )
        warmed = np.asarray(mean) ** (1 / card.temperatures[head.name])
        expected = warmed / warmed.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(torchs.heads[head.name].probs, expected, atol=1e-4)
        np.testing.assert_allclose(onnx.predict(images).heads[head.name].probs, expected, atol=1e-4)
    np.testing.assert_allclose(torchs.embedding, parts[0].embedding, atol=1e-4)


def test_an_evaluation_of_it_finds_the_numbers_that_it_was_made_with(
    chain: Chain, made: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    place, summary = made
    assert all(sum(shares) == pytest.approx(1) for shares in summary["shares"].values())
    found = evaluate(
        EvaluateConfig(model=place, data=chain.dataset, out=str(tmp_path), split="val", ridge_rows=0)
    )
    for name, numbers in summary["val"].items():
        for measure in ("nll", "rps", "mae_bins"):  # ranks of numbers that are nearly equal are rounding's
            assert found["metrics"][name][measure] == pytest.approx(numbers[measure], abs=1e-4)


def test_what_needs_one_network_refuses_it(
    chain: Chain, members: list[str], made: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    again = EnsembleConfig(models=(made[0], chain.model), data=chain.dataset, out=str(tmp_path / "again"))
    with pytest.raises(DataError, match=r"ensemble of 3 networks: give the members"):
        ensemble(again)
    with pytest.raises(DataError, match="holds a model already; give another --out"):
        ensemble(EnsembleConfig(models=tuple(members), data=chain.dataset, out=members[1]))
    with pytest.raises(DataError, match="ensemble of 3 networks: repair its members"):
        repair(RepairConfig(model=made[0], data=chain.dataset, out=str(tmp_path / "repaired")))
    with pytest.raises(DataError, match="give one of its members as --weights"):
        initial_trunk(made[0], "resnet18")


def test_models_that_do_not_go_together_are_named(chain: Chain, members: list[str], tmp_path: Path) -> None:
    card, weights = load_model(chain.model)

    def refused(place: str) -> str:
        config = EnsembleConfig(models=(chain.model, place), data=chain.dataset, out=str(tmp_path / "out"))
        with pytest.raises(ConfigError) as caught:
            ensemble(config)
        return str(caught.value)

    fewer = {name: w for name, w in weights.items() if "sanity" not in name}
    assert "has heads bookmark, view; " in refused(
        saved_as(tmp_path / "fewer", card, fewer, heads=card.heads[:2])
    )
    smaller = replace(card.preprocess, size=64)
    assert "sees pictures of 64 px (squash)" in refused(
        saved_as(tmp_path / "size", card, weights, preprocess=smaller)
    )
    recounted = tuple(replace(head, counts=tuple(c + 1 for c in head.counts or ())) for head in card.heads)  # type: ignore[attr-defined, call-arg]
    assert "head bookmark of" in refused(saved_as(tmp_path / "counts", card, weights, heads=recounted))


def test_one_model_or_the_same_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs two or more; give --models several times"):
        EnsembleConfig(models=("a",), data="d", out="o")
    with pytest.raises(ConfigError, match="given twice"):
        EnsembleConfig(models=("a", "a"), data="d", out="o")


@pytest.mark.slow
def test_it_is_scored_verified_and_exported_as_any_other_model(
    chain: Chain, made: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    scores = str(tmp_path / "scores")
    score(ScoreConfig(catalog=chain.catalog, model=made[0], out=scores, max_failed=1.0))
    verify(VerifyConfig(scores=scores, catalog=chain.catalog))
    assert live(scores).manifest["model_version"] == made[1]["model_version"]
    first = read_scores(scores).to_table(filter=pc.field("status") == "ok").slice(0, 1).to_pylist()[0]
    assert sum(first["bookmark_probs"]) == pytest.approx(1, abs=1e-4)
    served = tmp_path / "served.onnx"
    export(ExportConfig(model=made[0], out=str(served)))
    (image,) = pixels(1, seed=3, size=32)
    session = onnxruntime.InferenceSession(str(served))
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: image}), strict=True))
    said = load_predictor(made[0], batch_size=1, device="cpu", num_threads=1).predict(image[None])
    np.testing.assert_allclose(found["bookmark_probs"], said.heads["bookmark"].probs[0], atol=1e-4)
