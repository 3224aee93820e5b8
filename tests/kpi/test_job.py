"""Fitting and applying a KPI, as a person runs it, and every mistake as one line."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.cli.main import run
from pix2score.errors import ConfigError, DataError
from pix2score.kpi.apply import apply
from pix2score.kpi.config import KpiConfig
from pix2score.kpi.job import _read, kpi
from pix2score.kpi.labels import open_labels
from pix2score.kpi.models import MODELS, load
from pix2score.kpi.rows import open_source
from pix2score.snapshots.read import read_embeddings
from tests.support.kpi import Kpis, publish_kpis, write_labels

FAILED = (5, 77)


@dataclass(frozen=True)
class Fit:
    """A world, what was asked, and what came out."""

    world: Kpis
    config: KpiConfig
    summary: dict[str, Any]

    @property
    def out(self) -> Path:
        return Path(str(self.config.out))

    @property
    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "metrics.json").read_text())
        return found


def clicks_of(world: Kpis) -> dict[str, Any]:
    """Clicks of impressions that follow the truth; one key's in two rows, and rows that are no labels."""
    rng = np.random.default_rng(1)
    impressions = rng.integers(20, 200, len(world.ids))
    clicks = rng.binomial(impressions, 1 / (1 + np.exp(2 - world.truth)))
    bad = {"clicks": [9, -1, None, 0], "impressions": [8, 5, 7, 0]}
    return {
        "illust_id": [*world.ids, 3, 10_001, 10_002, 1, 1, 1, 1],
        "group": [*world.group, 1, 9, 9, 0, 0, 0, 0],
        "clicks": [*clicks, 4, 1, 1, *bad["clicks"]],
        "impressions": [*impressions, 9, 5, 5, *bad["impressions"]],
    }


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Clicks and impressions, from the embeddings."""
    place = tmp_path_factory.mktemp("rates")
    world = publish_kpis(str(place / "scores"), failed=FAILED)
    labels = write_labels(str(place / "labels.parquet"), clicks_of(world))
    config = KpiConfig(scores=world.scores, labels=labels, out=str(place / "out"))
    return Fit(world, config, kpi(config))


@pytest.fixture(scope="module")
def revenue(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A number, from embeddings, answers and side columns, of which one says much; given splits."""
    place = tmp_path_factory.mktemp("numbers")
    world = publish_kpis(str(place / "scores"))
    shop = np.array(["a", "b", "rare"])[np.where(world.ids % 200 == 7, 2, world.ids % 2)]
    price = np.where(world.ids % 5 == 0, np.nan, world.ids % 7).astype(np.float64)
    table = {
        "illust_id": pa.array([str(i) for i in world.ids]),
        "page": [("p0", "", " ", None, "0")[i % 5] for i in range(len(world.ids))],  # none is the first
        "kpi": 1000 + 10 * world.truth + 50 * (shop == "b"),
        "split": np.array(["train", "Validation", "test"])[np.digitize(world.group % 10, [6, 8])],
        "shop": shop,
        "price": price,
    }
    labels = write_labels(str(place / "labels.parquet"), table)
    features = "embedding, scores, shop, price"
    config = KpiConfig(scores=world.scores, labels=labels, out=str(place / "out"), features=features)
    return Fit(world, config, kpi(config))


def applied(fit: Fit, place: str, **settings: Any) -> tuple[dict[str, Any], pa.Table]:
    """What ``--apply`` tells, and the table that it wrote."""
    config = KpiConfig(scores=fit.world.scores, apply=str(fit.out), out=place, **settings)
    summary = apply(config, part_rows=100)
    return summary, pq.read_table(summary["out"])


@pytest.mark.parametrize("fixture", ["rates", "revenue"])
def test_all_four_models_and_the_constant_are_told_with_intervals(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    fit = request.getfixturevalue(fixture)
    found, main = fit.metrics, fit.metrics["main"]
    assert list(found["models"]) == ["constant", *MODELS]
    for of in found["models"].values():
        low, high = of["test"]["intervals"][main]
        assert low < of["test"][main] < high
    best = found["best"]
    assert best == min(MODELS, key=lambda name: found["models"][name]["val"][main])
    assert found["models"][best]["test"][main] < found["models"]["constant"]["test"][main]
    assert found["models"][best]["test"][f"{main}_minus_constant"][1] < 0


def test_numbers_are_those_of_their_kind(rates: Fit, revenue: Fit) -> None:
    of_rate, of_number = (fit.metrics["models"]["linear"]["test"]["intervals"] for fit in (rates, revenue))
    assert set(of_rate) == {"normalised_entropy", "nll", "calibration", "auc"}
    assert set(of_number) == {"rmse", "r2", "spearman"}


def test_the_trees_find_a_step_that_a_linear_model_cannot(revenue: Fit) -> None:
    models = revenue.metrics["models"]
    assert models["trees"]["test"]["r2"] > models["linear"]["test"]["r2"] + 0.02
    assert models["linear"]["test"]["r2"] > 0.8, "the side column alone explains most"


def test_what_became_of_every_label_is_counted(rates: Fit) -> None:
    assert rates.summary["labels"] == {
        "rows": 607,
        "dropped": {"more_clicks": 1, "negative": 1, "no_impressions": 1, "no_label": 1},
        "repeated": 1,
        "unknown_key": 2,
        "without_embedding": 2,
        "usable": 598,
    }
    assert sum(rates.summary["rows"].values()) == 598


def test_given_splits_are_kept(revenue: Fit) -> None:
    nth = np.digitize(revenue.world.group % 10, [6, 8])
    assert revenue.summary["rows"] == dict(
        zip(("train", "val", "test"), np.bincount(nth).tolist(), strict=True)
    )


def test_the_folder_holds_no_pickle_and_is_what_the_fit_measured(rates: Fit) -> None:
    files = {path.name for path in rates.out.iterdir()}
    assert files <= {"kpi.json", "linear.safetensors", "trees.txt", "metrics.json", "summary.json"}
    assert load(str(rates.out))[1] == rates.summary["kpi_version"]


def test_the_same_fit_again_is_the_same_model(rates: Fit, tmp_path: Path) -> None:
    again = kpi(KpiConfig(scores=rates.world.scores, labels=rates.config.labels, out=str(tmp_path / "again")))
    assert again["kpi_version"] == rates.summary["kpi_version"]


@pytest.mark.parametrize("fixture", ["rates", "revenue"])
def test_applying_answers_every_live_embedding_once_as_the_model_does(
    fixture: str, request: pytest.FixtureRequest, place: str
) -> None:
    fit = request.getfixturevalue(fixture)
    side = {} if fixture == "rates" else {"labels": fit.config.labels}
    summary, table = applied(fit, place, **side) if not place.startswith("s3") else (None, None)
    if summary is None:
        config = KpiConfig(scores=fit.world.scores, apply=str(fit.out), out=place, **side)
        summary = apply(config)
        bucket, _, key = summary["out"][5:].partition("/")
        table = pq.read_table(f"{bucket}/{key}", filesystem=_s3_files())
    live = read_embeddings(fit.world.scores).to_table(columns=["illust_id"]).column(0).to_pylist()
    assert table.column("illust_id").to_pylist() == live
    assert summary["rows"] == len(live)
    assert table.schema.types == [pa.int64(), pa.int32(), pa.float64(), pa.float32()]
    score, expected = (table.column(name).to_numpy() for name in ("kpi_score", "kpi_expected"))
    assert 0 <= score.min() < 0.1
    assert 0.9 < score.max() <= 1
    assert (np.diff(score[np.argsort(expected)]) >= 0).all()
    assert abs(score.mean() - 0.5) < 0.1
    truth = fit.world.truth[live] if fixture == "rates" else _kpi_of(fit, live)
    assert np.corrcoef(expected, truth)[0, 1] > 0.8


def _s3_files() -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    from pix2score.storage.places import filesystem

    return PyFileSystem(FSSpecHandler(filesystem("s3://x")))


def _kpi_of(fit: Fit, live: list[int]) -> Any:
    table = pq.read_table(str(fit.config.labels))
    known = dict(zip(table.column("illust_id").to_pylist(), table.column("kpi").to_pylist(), strict=True))
    return [known[str(i)] for i in live]


def test_a_table_is_in_parts_and_its_mark_comes_last(rates: Fit, tmp_path: Path) -> None:
    summary, _ = applied(rates, str(tmp_path))
    folder = Path(summary["out"])
    assert {path.suffix for path in folder.iterdir()} == {".parquet"}
    assert summary["parts"] == len(list(folder.iterdir())) == 3
    mark = json.loads(folder.with_name(f"{folder.name}.json").read_text())
    assert (mark["rows"], mark["kpi_version"]) == (598, rates.summary["kpi_version"])


def test_a_side_value_that_is_missing_when_applying_is_answered_all_the_same(
    revenue: Fit, tmp_path: Path
) -> None:
    some = pq.read_table(str(revenue.config.labels)).slice(0, 10).select(["illust_id", "shop", "price"])
    side = write_labels(str(tmp_path / "side.parquet"), some)
    _, table = applied(revenue, str(tmp_path), labels=side)
    assert np.isfinite(table.column("kpi_expected").to_numpy()).all()


@pytest.mark.parametrize("max_rows", [200_000, 450])
def test_no_group_is_in_two_splits_or_in_both_halves_of_train(rates: Fit, max_rows: int) -> None:
    config = replace(rates.config, max_rows=max_rows)
    labels = open_labels(str(config.labels), (), with_kpi=True)
    table, _ = _read(config, open_source(config.scores), labels)
    assert len(table) == min(max_rows, 598)
    parts = {name: set(table.group_N[part].tolist()) for name, part in table.splits.items()}
    assert len(set(table.group_N.tolist())) <= len(set(rates.world.group.tolist())), "groups, not images"
    assert not parts["train"] & parts["val"]
    assert not parts["train"] & parts["test"]
    assert not parts["val"] & parts["test"]
    assert not parts["first"] & parts["second"]
    assert parts["first"] | parts["second"] == parts["train"]
    assert min(len(part) for part in parts.values()) > 10


# Mistakes


def refused(config: KpiConfig) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        kpi(config)
    return str(caught.value)


def labels_of(tmp_path: Path, columns: dict[str, Any]) -> KpiConfig:
    """The config of a fit on these labels and a small world."""
    scores = str(tmp_path / "scores")
    if not (tmp_path / "scores").exists():
        publish_kpis(scores, 300)
    labels = write_labels(str(tmp_path / "labels.parquet"), columns)
    return KpiConfig(scores=scores, labels=labels, out=str(tmp_path / "out"))


IDS = list(range(300))
HALF = [i % 2 for i in IDS]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"illust_id": IDS}, "need a column kpi, or clicks and impressions, not both; they have illust_id"),
        ({"illust_id": IDS, "clicks": HALF}, "need a column kpi, or clicks and impressions"),
        ({"kpi": HALF}, "have no column illust_id; they have kpi"),
        ({"illust_id": IDS, "kpi": ["x"] * 300}, "column kpi is string, expected numbers"),
        (
            {"illust_id": [f"x{i}" for i in IDS], "kpi": HALF},
            "300 whose id the scores cannot have.* labels: 'x0', 'x1', 'x10'; of the scores: 0, 1, 2$",
        ),
        (
            {"illust_id": [i + 900 for i in IDS], "kpi": HALF},
            "300 of keys that are not in its scores.* labels: 900, 901, 902; of the scores: 0, 1, 2$",
        ),
        ({"illust_id": IDS[:99], "kpi": HALF[:99]}, "99 labels with an embedding: too few"),
        ({"illust_id": IDS, "kpi": [1] * 300}, "the KPI is 1 in all [0-9]+ rows of split train"),
        ({"illust_id": IDS, "kpi": [7.5] * 300}, "the KPI is 7.5 in all"),
        ({"illust_id": IDS, "kpi": HALF, "split": ["train", "test"] * 150}, "no label is in split val"),
        ({"illust_id": IDS, "kpi": HALF, "group": [1] * 300}, "no label is in split"),
    ],
)
def test_labels_that_cannot_be_learnt_from_are_one_line(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    text = refused(labels_of(tmp_path, columns))
    assert re.search(message, text)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--labels and --out must be given to fit a model"),
        ({"labels": "x", "out": "y", "features": "embedding,,"}, "names with commas between"),
        ({"labels": "x", "out": "y", "val_fraction": 0.6, "test_fraction": 0.5}, "below 1 together"),
        ({"labels": "x", "out": "y", "max_rows": 5}, "max_rows 5: at least 100"),
        ({"apply": "x", "features": "scores"}, "--features goes with fitting"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KpiConfig(scores="s", **settings)


def test_a_feature_that_is_not_there_or_gives_the_answer_away_is_refused(tmp_path: Path) -> None:
    columns = {"illust_id": IDS, "kpi": HALF}
    config = labels_of(tmp_path, columns)
    for features, message in (("embedding,shop", "have no column shop"), ("kpi", "cannot be features")):
        other = KpiConfig(scores=config.scores, labels=config.labels, out=config.out, features=features)
        assert message in refused(other)


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ({"dim": 4}, "of 8 numbers; those of .* have 4"),
        ({"model_version": "ffffffffffff"}, "of model 0123456789ab"),
    ],
)
def test_embeddings_of_another_model_are_refused(
    rates: Fit, tmp_path: Path, world: dict[str, Any], message: str
) -> None:
    publish_kpis(str(tmp_path), 10, **world)
    with pytest.raises(DataError, match=message):
        kpi(KpiConfig(scores=str(tmp_path), apply=str(rates.out)))


def test_a_package_that_is_missing_is_one_line(rates: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # as Python sees a package that is not there
    assert refused(rates.config).endswith("needs lightgbm, not installed here: pip install 'pix2score[kpi]'")


def test_a_model_of_side_columns_asks_for_them(revenue: Fit) -> None:
    config = KpiConfig(scores=revenue.world.scores, apply=str(revenue.out))
    assert "predicts from shop, price, too: give --labels" in refused(config)


def test_a_folder_that_holds_a_fit_is_not_fitted_again(rates: Fit) -> None:
    assert "holds a fitted KPI already" in refused(rates.config)


def test_a_mistake_is_exit_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--scores", str(tmp_path), "--apply", str(tmp_path)]
    assert run("kpi", KpiConfig, kpi, "", words) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"jobs.kpi: {tmp_path} is not a fitted KPI")
    assert told.err.count("\n") == 1
    assert json.loads(told.out)["exit_code"] == 2
    assert list(tmp_path.iterdir()) == []
