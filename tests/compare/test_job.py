"""Two recipes with two seeds each on a small dataset: trained once, measured, compared; a third one fails."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.compare.config import CompareConfig
from pix2score.compare.job import compare
from pix2score.compare.measuring import measured
from pix2score.dataset.card import open_dataset
from pix2score.errors import ConfigError, DataError, TrainingError
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.job import evaluate
from pix2score.metrics.comparison import compare as compare_two
from tests.support.chain import TRAINING, Chain

pytestmark = pytest.mark.usefixtures("ray_session")
SHARED = {key: value for key, value in TRAINING.items() if key != "seed"} | {"epochs": 1, "max_steps": 3}
RUNS: tuple[dict[str, Any], ...] = (
    {"name": "slow", "learning_rate": 1e-5},
    {"name": "fast", "learning_rate": 3e-3},
    {"name": "broken", "weights": "/nowhere/model.safetensors"},
)


def config_of(chain: Chain, out: Path, **given: Any) -> CompareConfig:
    """Measured on the train split, the only one of the fixture that is large enough for intervals."""
    return CompareConfig(
        **{
            "data": chain.dataset,
            "out": str(out),
            "seeds": (0, 1),
            "split": "train",
            "train": SHARED,
            "runs": RUNS,
        }
        | given
    )


@pytest.fixture(scope="module")
def made(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareConfig, dict[str, Any]]:
    config = config_of(chain, tmp_path_factory.mktemp("compare"))
    return config, compare(config)


def written(folder: str) -> dict[str, int]:
    """Files of models and measurements, with the time of their last change."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in Path(folder).glob("*-seed*/**/*")
        if path.is_file()
    }


def test_every_run_has_its_numbers_and_a_failing_one_says_why(
    made: tuple[CompareConfig, dict[str, Any]],
) -> None:
    config, summary = made
    slow, fast, broken = summary["runs"]
    for run in (slow, fast):
        assert run["seeds"] == [0, 1]
        assert run["cost"]["epochs"] == 1
        assert run["cost"]["peak_memory_mib"] is None
        assert run["cost"]["train_images_per_s"] > 0
        assert len(run["heads"]["bookmark"]["by_seed"]) == 2
    assert slow["heads"]["bookmark"]["difference"] is None
    assert fast["heads"]["bookmark"]["difference"]["interval"] is not None
    assert broken["heads"] == {}
    assert set(broken["failures"]) == {"0", "1"}
    assert "/nowhere/model.safetensors" in broken["failures"]["0"]
    assert set(summary["references"]) == {"ridge", "constant"}
    stored = json.loads((Path(config.out) / "compare.json").read_text())
    assert stored["runs"] == json.loads(json.dumps(summary["runs"]))
    assert [run["name"] for run in stored["config"]["runs"]] == ["slow", "fast", "broken"]
    page = (Path(config.out) / "report.html").read_text()
    assert all(text in page for text in ("slow", "broken seed 0 failed", "<svg", "bookmark"))


def test_a_difference_is_that_of_the_kept_rows(
    chain: Chain, made: tuple[CompareConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, summary = made
    dataset, (slow, fast) = open_dataset(chain.dataset), config.runs[:2]

    def answers(run: dict[str, Any]) -> list[Any]:
        found = [measured(config.training(run, seed).out, "train", dataset) for seed in config.seeds]
        return [model.answers("bookmark") for model in found if model]

    ours, theirs = answers(fast), answers(slow)
    pairs = [compare_two(a, b).differences["spearman"] for a, b in zip(ours, theirs, strict=True)]
    found = summary["runs"][1]["heads"]["bookmark"]["difference"]
    assert found["value"] == pytest.approx(np.mean([pair["difference"] for pair in pairs]))
    evaluated = evaluate(
        EvaluateConfig(
            model=config.training(fast, 0).out,
            data=chain.dataset,
            out=str(tmp_path),
            split="train",
            adversarial=0,
        )
    )["metrics"]["bookmark"]
    assert summary["runs"][1]["heads"]["bookmark"]["by_seed"][0] == pytest.approx(evaluated["spearman"])
    ridge = summary["references"]["ridge"]["bookmark"]
    assert ridge["mean"] == pytest.approx(evaluated["ridge"]["spearman"], abs=1e-6)


def test_the_same_command_again_trains_and_measures_nothing(
    made: tuple[CompareConfig, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    config, summary = made
    before, names = written(config.out), [run["name"] for run in config.runs[:2]]
    with caplog.at_level(logging.INFO):
        again = compare(replace(config, runs=config.runs[:2]))
    assert "4 of 4 trainings were done before" in caplog.text
    assert "training 1 of" not in caplog.text
    assert {path: at for path, at in written(config.out).items() if path.startswith(tuple(names))} == {
        path: at for path, at in before.items() if path.startswith(tuple(names))
    }
    assert again["runs"] == summary["runs"][:2]


def test_what_was_killed_between_training_and_measuring_is_measured_alone(
    made: tuple[CompareConfig, dict[str, Any]],
) -> None:
    config, summary = made
    place = Path(config.training(config.runs[0], 1).out)
    metrics = place / "train" / "metrics.json"
    before = written(config.out)
    metrics.unlink()
    again = compare(replace(config, runs=config.runs[:2]))
    assert again["runs"][0]["heads"] == summary["runs"][0]["heads"]
    changed = {path for path, at in written(config.out).items() if before.get(path) != at}
    assert changed == {f"{place.name}/train/metrics.json", f"{place.name}/train/answers.parquet"}


def test_a_run_whose_settings_changed_is_refused_alone_and_if_all_fail_the_job_does(
    made: tuple[CompareConfig, dict[str, Any]],
) -> None:
    config, _ = made
    other = ({**config.runs[0], "learning_rate": 2e-5}, config.runs[1])
    found = compare(replace(config, runs=other))
    assert (
        "begun with another config (learning_rate: 1e-05 there, 2e-05 now)"
        in found["runs"][0]["failures"]["0"]
    )
    assert found["runs"][0]["heads"] == {}
    assert found["runs"][1]["seeds"] == [0, 1]
    with pytest.raises(
        TrainingError, match="all 2 trainings failed; the first, slow-seed0: .*another config"
    ):
        compare(replace(config, runs=other[:1]))


def test_a_split_without_labels_is_refused_before_anything_is_trained(chain: Chain, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    for path in Path(chain.dataset).rglob("*.parquet"):
        rows = pq.read_table(path)
        for head in open_dataset(chain.dataset).heads:
            name = head.target_field().name
            if "split=test" in str(path):
                missing = pa.array([-1] * rows.num_rows, pa.int16())
                rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), missing)
        target = dataset / path.relative_to(chain.dataset)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, target)
    (dataset / "dataset.json").write_bytes((Path(chain.dataset) / "dataset.json").read_bytes())
    config = replace(config_of(chain, tmp_path / "out", split="test"), data=str(dataset))
    with pytest.raises(DataError, match=r"no row of split test .* has a label \(bookmark, view, sanity\)"):
        compare(config)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_ends_the_job_at_once(chain: Chain, tmp_path: Path) -> None:
    config = config_of(chain, tmp_path / "out", train={**SHARED, "device": "gpu"})
    with pytest.raises(ConfigError, match="--device gpu"):
        compare(config)


@pytest.mark.slow
def test_side_by_side_each_is_trained_and_measured_in_a_task_of_its_own(
    chain: Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(chain, tmp_path, side_by_side=2, seeds=(0,))
    with caplog.at_level(logging.INFO):
        found = compare(config)
    begun = [record.message for record in caplog.records if record.message.startswith("training ")]
    assert [line.partition("-seed0")[0] for line in begun] == [
        f"training {number} of 3: {name}" for number, name in enumerate(("slow", "fast", "broken"), 1)
    ]
    assert "; before it" not in begun[1]  # it began while the first one was at work
    slow, fast, broken = found["runs"]
    for run in (slow, fast):
        assert run["cost"]["epochs"] == 1
        assert run["heads"]["bookmark"]["mean"] is not None
    assert "/nowhere/model.safetensors" in broken["failures"]["0"]
