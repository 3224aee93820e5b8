"""train with real Ray Train: what it leaves, that it repeats itself, resumes, and loses no validation row."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pix2score.dataset.card import open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.model.folder import load_model
from pix2score.train.job import TrainConfig, train
from tests.support.chain import BACKBONE, EMBEDDING_DIM, TRAINING, Chain, history

pytestmark = pytest.mark.usefixtures("ray_session")


def test_the_model_folder_holds_model_history_config_and_curves(chain: Chain) -> None:
    card, weights = load_model(chain.model)
    assert card.version == chain.trained["model_version"]
    assert (card.backbone, card.preprocess.size, card.embedding_dim) == (BACKBONE, 32, EMBEDDING_DIM)
    assert set(card.temperatures) == {"bookmark", "view", "sanity"}
    assert all(0.2 <= temperature <= 10 for temperature in card.temperatures.values())
    assert weights["outputs.bookmark_logits.weight"].shape == (15, EMBEDDING_DIM)
    assert [entry["epoch"] for entry in history(chain.model)] == [1, 2]
    assert {entry["weights"] for entry in history(chain.model)} <= {"averaged", "last"}
    assert list((Path(chain.model) / "tensorboard").glob("events.out.tfevents.*"))
    dataset = open_dataset(chain.dataset)
    assert json.loads((Path(chain.model) / "config.json").read_text())["dataset_id"] == dataset.id
    assert card.about["columns"] == dataset.card["config"]["columns"]
    assert card.about["columns"]["id"] == "illust_id"


def test_validation_counts_every_labelled_row(chain: Chain) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    (part,) = open_dataset(chain.dataset).parts("val")
    rows = pq.read_table(f"{chain.dataset}/{part.path}")
    for head in ("bookmark", "view", "sanity"):
        labelled = pc.sum(pc.greater_equal(rows.column(f"{head}_bin"), 0)).as_py()
        assert history(chain.model)[-1]["val"][head]["num_labelled"] == labelled


def test_the_same_command_again_does_nothing(chain: Chain) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(chain.model).rglob("*")}
    again = train(TrainConfig(data=chain.dataset, out=chain.model, num_workers=0, **TRAINING))
    assert again["model_version"] == chain.trained["model_version"]
    assert {path: path.stat().st_mtime_ns for path in Path(chain.model).rglob("*")} == before


def test_a_config_of_a_version_without_some_settings_means_their_defaults(
    chain: Chain, tmp_path: Path
) -> None:
    shutil.copytree(chain.model, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    begun = json.loads(config.read_text())
    known = {key: value for key, value in begun.items() if key not in ("layer_decay", "heads", "freeze")}
    config.write_text(json.dumps(known | {"augment": True}))
    out = str(tmp_path / "model")
    again = train(TrainConfig(data=chain.dataset, out=out, num_workers=0, **TRAINING))
    assert again["model_version"] == chain.trained["model_version"]
    with pytest.raises(ConfigError, match=r"layer_decay: 1\.0 there, 0\.5 now"):
        train(TrainConfig(data=chain.dataset, out=out, num_workers=0, **TRAINING, layer_decay=0.5))


def test_a_changed_config_is_refused_with_the_difference_named(chain: Chain) -> None:
    with pytest.raises(ConfigError, match=r"learning_rate: None there, 0\.01 now"):
        train(TrainConfig(data=chain.dataset, out=chain.model, num_workers=0, **TRAINING, learning_rate=0.01))


def test_fewer_rows_than_a_batch_per_worker_is_an_error_with_the_numbers(
    chain: Chain, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="rows are fewer than one batch of 5000 for each of 1 workers"):
        train(TrainConfig(data=chain.dataset, out=str(tmp_path / "model"), batch_size=5000))
    assert not (tmp_path / "model").exists()


def test_a_model_that_this_command_did_not_begin_is_not_taken_for_its_own(
    chain: Chain, tmp_path: Path
) -> None:
    import shutil

    for name in ("model.json", "model.safetensors"):
        shutil.copy(Path(chain.model) / name, tmp_path / name)
    with pytest.raises(DataError, match="did not begin"):
        train(TrainConfig(data=chain.dataset, out=str(tmp_path), **TRAINING))


def test_weights_of_another_network_are_refused(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fit \d+ % of resnet50"):
        train(
            TrainConfig(
                data=chain.dataset, out=str(tmp_path / "model"), backbone="resnet50", weights=chain.model
            )
        )
    assert not (tmp_path / "model").exists()


@pytest.mark.endurance
def test_t4_a_fixed_seed_repeats_the_loss_curve(chain: Chain, tmp_path: Path) -> None:
    train(TrainConfig(data=chain.dataset, out=str(tmp_path / "again"), **TRAINING))
    curves = [
        [(e["loss"], e["val_loss"]) for e in history(place)] for place in (chain.model, tmp_path / "again")
    ]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_two_workers_train_together_and_validate_each_row_once(chain: Chain, tmp_path: Path) -> None:
    settings = {**TRAINING, "epochs": 1, "batch_size": 8, "weights": chain.model}
    result = train(TrainConfig(data=chain.dataset, out=str(tmp_path), num_workers=2, **settings))
    (entry,) = history(tmp_path)
    assert entry["steps"] == open_dataset(chain.dataset).num_rows("train") // 2 // 8
    alone = history(chain.model)[-1]["val"]
    assert {h: m["num_labelled"] for h, m in entry["val"].items()} == {
        h: m["num_labelled"] for h, m in alone.items()
    }
    assert result["skipped_steps"] == 0


@pytest.mark.endurance
@pytest.mark.timeout(600)
def test_a_killed_job_resumes_after_its_last_epoch(chain: Chain, tmp_path: Path) -> None:
    flags = ["--data", chain.dataset, "--out", str(tmp_path), "--backbone", "resnet18", "--input-size", "32"]
    command = [sys.executable, "-m", "jobs.train", *flags, "--batch-size", "16", "--epochs", "6"]
    job = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 200
        while (
            not list((tmp_path / "checkpoints").glob("checkpoint_*/state.pt")) and time.monotonic() < deadline
        ):
            time.sleep(0.1)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    first = history(tmp_path)
    assert 1 <= len(first) < 6
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=400)
    assert json.loads(done.stdout.splitlines()[-1])["job"] == "train"
    assert "resuming after epoch" in done.stderr
    assert [entry["epoch"] for entry in history(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert history(tmp_path)[0] == first[0]


@pytest.mark.slow
def test_what_steps_make_worse_than_solved_outputs_is_not_saved(chain: Chain, tmp_path: Path) -> None:
    settings = TRAINING | {"epochs": 1, "learning_rate": 0.5}
    out = str(tmp_path / "model")
    trained = train(TrainConfig(data=chain.dataset, out=out, num_workers=0, weights=chain.model, **settings))
    assert trained["epoch"] == 0
    assert trained["val_loss"] < history(out)[0]["val_loss"]


@pytest.mark.slow
def test_from_the_second_of_eight_epochs_on_only_what_the_data_set_bears_is_done(
    chain: Chain, tmp_path: Path
) -> None:
    out = str(tmp_path / "model")
    train(TrainConfig(data=chain.dataset, out=out, num_workers=0, **(TRAINING | {"epochs": 8})))
    entries = history(out)
    assert "augment" not in entries[0]
    assert entries[-1]["augment"]["flip"] in (0.0, 0.5)
    assert entries[-1]["augment"]["shift"] in (0.0, 0.025, 0.05, 0.1)
