"""--resample, --teacher and --unlabelled on a drawn dataset: what they need, do, and say."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pix2score.cluster.session import session
from pix2score.dataset.card import PreparedDataset, open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.host import termination
from pix2score.model.card import load_card
from pix2score.train.checkpoint import IN_PROCESS, parse_state
from pix2score.train.config import TrainConfig
from pix2score.train.job import train, worker_settings
from pix2score.train.options import find_options
from pix2score.train.resample import plan_resampling
from pix2score.train.rows import training_rows
from pix2score.train.teaching import find_teacher, load_teacher
from tests.support.chain import INPUT_SIZE, TRAINING, Chain, history
from tests.support.every_head import FITTED
from tests.support.models import save_settled
from tests.support.torch_helpers import CPU, PREPROCESS

pytestmark = pytest.mark.usefixtures("ray_session")


def config(chain: Chain, out: Path, **more: Any) -> TrainConfig:
    return TrainConfig(data=chain.dataset, out=str(out), **(TRAINING | {"num_workers": 0} | more))


def test_a_head_without_classes_a_missing_one_and_a_balanced_one_are_refused_with_those_that_can(
    chain: Chain,
) -> None:
    dataset = open_dataset(chain.dataset)
    heads = [*dataset.heads, ValueHead(name="beauty", column="c"), FITTED["distribution"]]
    for name, why in (("beauty", "kind value has no classes"), ("votes", "kind dist"), ("x", "no such head")):
        with pytest.raises(ConfigError, match=rf"resample {name}: .*{why}.*can be: bookmark, view, sanity$"):
            plan_resampling(name, 0.5, dataset, heads)
    with pytest.raises(ConfigError, match=r"resample view: its loss makes up for .*\(class_weighted\)"):
        plan_resampling("view", 0.5, dataset, [replace(heads[1], loss="class_weighted")])


def test_an_epoch_is_as_long_as_the_rows_that_are_expected_and_other_heads_lose_no_label(
    chain: Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = open_dataset(chain.dataset)
    plan = plan_resampling("bookmark", 1.0, dataset, dataset.heads)
    with caplog.at_level(logging.INFO):
        train(config(chain, tmp_path / "model", resample="bookmark:1.0"))
    num_rows = dataset.num_rows("train")
    assert plan.num_rows > num_rows + 16
    assert [e["steps"] for e in history(tmp_path / "model")][-1] <= 2 * (int(plan.num_rows) // 16)
    assert [e["steps"] for e in history(tmp_path / "model")][0] >= int(plan.num_rows) // 16 - 1
    assert f"{plan.num_rows:.0f} rows instead of {num_rows}" in caplog.text


def test_a_trunk_with_weights_begins_solved_and_goes_on_with_resampled_rows(
    chain: Chain, tmp_path: Path
) -> None:
    settings = {"weights": chain.model, "resample": "sanity:0.5", "epochs": 1}
    trained = train(config(chain, tmp_path / "model", **settings))
    assert trained["skipped_steps"] == 0
    assert history(tmp_path / "model")[0]["loss"] is not None


def test_a_student_says_who_taught_it_and_another_teacher_is_another_training(
    chain: Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "model"
    asked = {"teacher": chain.model, "teacher_weight": 0.6, "unlabelled": chain.dataset, "epochs": 1}
    with caplog.at_level(logging.INFO):
        found = train(config(chain, out, **asked))
    version = load_card(chain.model).version
    assert (found["teacher"]["version"], found["teacher"]["weight"]) == (version, 0.6)
    assert load_card(str(out)).about["teacher"]["heads"] == ["bookmark", "view", "sanity"]
    num_rows = open_dataset(chain.dataset).num_rows("train")
    assert history(out)[0]["steps"] == 2 * num_rows // 16
    assert "on average 8.0 of the 16 of a step have labels" in caplog.text
    assert "weighs 0.6 in the loss of bookmark, view, sanity" in caplog.text
    elsewhere = shutil.copytree(chain.model, tmp_path / "moved")
    again = train(config(chain, out, **(asked | {"teacher": str(elsewhere)})))
    assert again["model_version"] == found["model_version"]
    with pytest.raises(ConfigError, match=rf"teacher_version: {version} there, \w+ now"):
        train(config(chain, out, **(asked | {"teacher": str(out)})))


def test_unlabelled_rows_come_between_the_labelled_ones_and_each_once(chain: Chain, tmp_path: Path) -> None:
    dataset = open_dataset(chain.dataset)
    asked = config(chain, tmp_path, teacher=chain.model, unlabelled=chain.dataset, resample="sanity:0.5")
    options = find_options(asked, dataset)
    with session() as offer:
        settings = worker_settings(asked, dataset, options, offer)
        rows = training_rows(dataset, settings, offer, options.unlabelled)["train"]
        table = list(rows.iter_batches(batch_format="pyarrow", batch_size=None))
    assert len({tuple(t.column_names) for t in table}) == 1
    has_key = np.concatenate([t.column("illust_id").is_valid().to_numpy() for t in table])
    labelled = np.concatenate([t.column("sanity_bin").is_valid().to_numpy() for t in table])
    pixels = Counter(p for t in table for p in t.column("pixels").to_pylist())
    num_rows = dataset.num_rows("train")
    assert has_key.sum() == num_rows
    assert not labelled[~has_key].any()
    assert set(pixels.values()) <= {2 * n for n in range(1, 10)}
    assert sum(pixels.values()) == 2 * num_rows


def test_a_teacher_with_other_edges_or_without_a_common_head_is_refused(chain: Chain, tmp_path: Path) -> None:
    heads = open_dataset(chain.dataset).heads
    other = save_settled(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"do not match: bookmark has edges \(10, 100, 1000\) in the model"):
        find_teacher(other, 0.7, heads, PREPROCESS)
    with pytest.raises(ConfigError, match="has heads bookmark, sanity, the dataset beauty: none"):
        find_teacher(other, 0.7, [ValueHead(name="beauty", column="c")], PREPROCESS)
    with pytest.raises(DataError, match="is not a model"):
        find_teacher(str(tmp_path), 0.7, heads, PREPROCESS)


def test_what_the_teacher_lacks_and_another_size_are_said(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    heads = [*open_dataset(chain.dataset).heads, ValueHead(name="beauty", column="c")]
    with caplog.at_level(logging.INFO):
        find_teacher(chain.model, 0.7, heads, replace(PREPROCESS, size=64, resize="pad"))
    assert "beauty: not in the teacher, learnt from labels alone" in caplog.text
    assert f"pictures of 64 px resized to its own {INPUT_SIZE} px" in caplog.text
    assert "made square by squash, and sees the student's, made so by pad" in caplog.text


def test_a_teacher_that_was_replaced_meanwhile_is_refused(chain: Chain) -> None:
    heads = open_dataset(chain.dataset).heads
    place = find_teacher(chain.model, 0.7, heads, PREPROCESS)
    with pytest.raises(DataError, match="and was 0123456789ab when this training began"):
        load_teacher(replace(place, version="0123456789ab"), heads, PREPROCESS, CPU)


def test_a_dataset_prepared_in_another_size_is_not_mixed_in(chain: Chain, tmp_path: Path) -> None:
    other = tmp_path / "dataset"
    shutil.copytree(chain.dataset, other)
    card = json.loads((other / "dataset.json").read_text())
    card["config"]["image_size"] = 128
    (other / "dataset.json").write_text(json.dumps(card))
    asked = config(chain, tmp_path / "model", teacher=chain.model, unlabelled=str(other))
    with pytest.raises(ConfigError, match="was prepared with image_size 128, the dataset with 64"):
        find_options(asked, open_dataset(chain.dataset))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"unlabelled": "u"}, "unlabelled: only a teacher can teach these rows; give --teacher"),
        ({"teacher_weight": 0.5}, "teacher_weight 0.5: give --teacher"),
        ({"teacher": "t", "teacher_weight": 1.5}, "teacher_weight 1.5: expected above 0 and at most 1"),
        ({"teacher": "t", "freeze": "trunk", "weights": "imagenet"}, "teacher: not with freeze trunk"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainConfig(data="d", out="o", **settings)


@pytest.mark.slow
def test_two_workers_train_together_on_resampled_rows_with_a_teacher(chain: Chain, tmp_path: Path) -> None:
    settings = {"batch_size": 8, "epochs": 3, "num_workers": 2, "weights": chain.model}
    asked = {"resample": "bookmark:1.0", "teacher": chain.model}
    result = train(config(chain, tmp_path / "model", **settings, **asked))
    entries = history(tmp_path / "model")
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    assert result["skipped_steps"] == 0
    (part,) = open_dataset(chain.dataset).parts("val")
    labels = pq.read_table(f"{chain.dataset}/{part.path}").column("sanity_bin").to_numpy()
    assert entries[-1]["val"]["sanity"]["num_labelled"] == (labels >= 0).sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"resample": "bookmark:1.0"}, {"teacher": "", "unlabelled": ""}], ids=str
)
def test_a_training_that_was_told_to_end_goes_on_with_the_rows_that_are_left(
    chain: Chain, tmp_path: Path, options: dict[str, Any]
) -> None:
    places = {"teacher": chain.model, "unlabelled": chain.dataset}
    asked = {name: value or places[name] for name, value in options.items()}
    settings = {**asked, "batch_size": 2, "checkpoint_minutes": 1e-3}
    out, state = tmp_path / "told", tmp_path / "told" / IN_PROCESS
    with termination.handled(), pytest.raises(termination.Terminated):
        threading.Thread(target=tell_once_there_is, args=(state,)).start()
        train(config(chain, out, **settings))
    first_epoch = int(plan_resampling("bookmark", 1.0, *of(chain)).num_rows) // 2
    assert 0 < parse_state(state.read_bytes())["fitter"]["num_steps"] < first_epoch
    with termination.handled():
        train(config(chain, out, **settings))
        train(config(chain, tmp_path / "whole", **settings))
    for entry, known in zip(history(out), history(tmp_path / "whole"), strict=True):
        same = ("epoch", "steps", "loss", "val_loss", "temperatures")
        assert {key: entry[key] for key in same} == {key: known[key] for key in same}


def of(chain: Chain) -> tuple[PreparedDataset, tuple[HeadSpec, ...]]:
    dataset = open_dataset(chain.dataset)
    return dataset, dataset.heads


def tell_once_there_is(file: Path) -> None:
    """End this process, as a cluster does, once a training has left its first checkpoint."""
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
