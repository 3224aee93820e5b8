"""T3: what is killed goes on where it stood; workers of any number take the same steps; bad input is one
clear line."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.cluster import local
from pix2score.dataset.card import PreparedDataset, open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.model.folder import load_model
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.job import prepare
from pix2score.train.checkpoint import IN_PROCESS, OF_WORKERS, RunState
from pix2score.train.history import rank_value
from pix2score.train.job import TrainConfig, _refuse_unlearnable, train
from pix2score.train.settings import WorkerSettings
from tests.support.chain import TRAINING, Chain, history

pytestmark = pytest.mark.usefixtures("ray_session")


def eventually(what: Callable[[], Any], timeout_s: float = 250) -> Any:
    """What ``what`` gives, once it is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s")


def descendants(pid: int) -> dict[int, str]:
    """Process id -> command line of all children of children."""
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, queue = {}, [pid]
    while queue:
        parent = queue.pop()
        children = [child for child, of in parents.items() if of == parent]
        found |= {child: commands[child] for child in children}
        queue += children
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_worker_killed_in_epoch_2_ends_with_the_same_epochs_and_the_same_metrics(
    chain: Chain, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**TRAINING, "epochs": 3, "num_workers": 1}
    whole = train(TrainConfig(data=chain.dataset, out=str(tmp_path / "whole"), **settings))
    place, results = tmp_path / "killed", {}
    job = threading.Thread(
        target=lambda: results.update(train(TrainConfig(data=chain.dataset, out=str(place), **settings)))
    )
    job.start()
    eventually(lambda: list(place.glob("checkpoints/checkpoint_*/state.pt")))
    workers = [pid for pid, command in descendants(os.getpid()).items() if "RayTrainWorker" in command]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    job.join(timeout=300)
    assert [entry["epoch"] for entry in history(place)] == [1, 2, 3]
    assert [e["val_loss"] for e in history(place)] == [e["val_loss"] for e in history(tmp_path / "whole")]
    assert results["model_version"] == whole["model_version"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_killed_within_an_epoch_goes_on_there_with_the_same_order(chain: Chain, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **TRAINING,
        "epochs": 2,
        "batch_size": 2,
        "num_workers": 0,
        "checkpoint_minutes": 1e-3,
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [
        sys.executable,
        "-m",
        "jobs.train",
        "--data",
        chain.dataset,
        "--out",
        str(tmp_path / "killed"),
        *flags,
    ]
    job = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        eventually((tmp_path / "killed" / IN_PROCESS).exists)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert not (tmp_path / "killed" / "history.jsonl").exists(), "it was to be killed within its first epoch"
    train(TrainConfig(data=chain.dataset, out=str(tmp_path / "killed"), **settings))
    train(TrainConfig(data=chain.dataset, out=str(tmp_path / "whole"), **settings))
    for killed, whole in zip(history(tmp_path / "killed"), history(tmp_path / "whole"), strict=True):
        same = ("epoch", "steps", "loss", "val_loss", "ridge_spearman", "temperatures")
        assert {k: killed[k] for k in same} == {k: whole[k] for k in same}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_begun_in_one_process_goes_on_in_a_worker(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        **TRAINING,
        "epochs": 2,
        "batch_size": 2,
    }  # no number of workers: as the machines offer
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "jobs.train", "--data", chain.dataset, "--out", str(tmp_path), *flags]
    job = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        eventually((tmp_path / "history.jsonl").exists)
        eventually((tmp_path / IN_PROCESS).exists)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert not (tmp_path / OF_WORKERS).exists()
    (first, *_) = history(tmp_path)
    monkeypatch.setattr(local, "LOCAL", threading.Event())  # the tests' Ray is a cluster
    train(TrainConfig(data=chain.dataset, out=str(tmp_path), **settings))
    assert (tmp_path / OF_WORKERS).exists()
    assert history(tmp_path)[0] == first
    steps = history(tmp_path)[0]["steps"]
    assert [(entry["epoch"], entry["steps"]) for entry in history(tmp_path)] == [(1, steps), (2, 2 * steps)]


@pytest.mark.slow
def test_the_model_of_one_worker_is_that_made_in_this_process(chain: Chain, tmp_path: Path) -> None:
    found = train(TrainConfig(data=chain.dataset, out=str(tmp_path), num_workers=1, **TRAINING))
    assert [e["steps"] for e in history(tmp_path)] == [e["steps"] for e in history(chain.model)]
    assert found["val_loss"] == pytest.approx(chain.trained["val_loss"], rel=1e-3)
    assert load_model(str(tmp_path))[0].version == found["model_version"]


@pytest.mark.endurance
def test_an_elastic_run_takes_the_steps_of_its_greatest_number_of_workers(
    chain: Chain, tmp_path: Path
) -> None:
    settings = {**TRAINING, "epochs": 1, "batch_size": 8}
    train(TrainConfig(data=chain.dataset, out=str(tmp_path), num_workers="1..2", **settings))
    (entry,) = history(tmp_path)
    assert entry["steps"] == open_dataset(chain.dataset).num_rows("train") // 16
    assert entry["workers"] in (1, 2)
    alone = history(chain.model)[-1]["val"]
    assert {h: m["num_labelled"] for h, m in entry["val"].items()} == {
        h: m["num_labelled"] for h, m in alone.items()
    }


# What is said before any worker starts


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ("2..", "a number, or a range"),
        ("8..2", "ends above"),
        ("0..3", "ends above"),
        ("x", "a number"),
        ("3..40", "so wide"),
    ],
)
def test_a_number_of_workers_that_makes_no_sense_is_refused(workers: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(data="d", out="o", num_workers=workers)


def test_ranges_and_numbers_are_read(chain: Chain) -> None:
    assert TrainConfig(data="d", out="o", num_workers="2..8").worker_range(1) == (2, 8)
    assert TrainConfig(data="d", out="o", num_workers=3).worker_range(1) == (3, 3)
    assert TrainConfig(data="d", out="o", num_workers=0).worker_range(1) == (0, 0)
    assert TrainConfig(data="d", out="o").worker_range(4) == (4, 4)


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 4, "accumulate": 4}])
def test_one_small_image_at_a_time_is_refused_for_batchnorm(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="leaves BatchNorm a single value per channel"):
        TrainConfig(data="d", out="o", input_size=32, **changes)  # type: ignore[arg-type]
    TrainConfig(data="d", out="o", input_size=64, **changes)  # type: ignore[arg-type]


def with_counts(chain: Chain, *counts: int) -> PreparedDataset:
    dataset = open_dataset(chain.dataset)
    first = dataclasses.replace(dataset.heads[0], counts=(*counts, *[0] * (15 - len(counts))))
    return dataclasses.replace(dataset, heads=(first, *dataset.heads[1:]))


def test_a_head_without_a_label_or_with_one_bin_is_named(chain: Chain) -> None:
    config = TrainConfig(data=chain.dataset, out="o")
    with pytest.raises(DataError, match="head 'bookmark' has no label in the train split"):
        _refuse_unlearnable(config, with_counts(chain, 0))
    with pytest.raises(DataError, match="head 'bookmark': all 78 training labels lie in one bin of 15"):
        _refuse_unlearnable(config, with_counts(chain, 0, 78))
    _refuse_unlearnable(config, with_counts(chain, 1, 77))


def test_an_unknown_metric_is_refused_with_the_known_ones(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=(
            r"best_by 'likes\.spearman': expected val_loss or HEAD\.METRIC with head bookmark, view, "
            r"sanity"
        ),
    ):
        train(TrainConfig(data=chain.dataset, out=str(tmp_path / "m"), best_by="likes.spearman"))
    assert not (tmp_path / "m").exists()


# Which epoch is saved, and when to stop


def entry(val_loss: float, spearman: float | None) -> dict[str, Any]:
    return {"val_loss": val_loss, "val": {"bookmark": {"spearman": spearman, "nll": val_loss}}}


def test_epochs_rank_by_the_named_metric_lower_first() -> None:
    good, bad = entry(0.9, 0.5), entry(0.8, 0.3)
    assert rank_value(bad, "val_loss") < rank_value(good, "val_loss")
    assert rank_value(good, "bookmark.spearman") < rank_value(bad, "bookmark.spearman")
    assert rank_value(bad, "bookmark.nll") < rank_value(good, "bookmark.nll")
    assert rank_value(bad, "bookmark.spearman") < rank_value(entry(0.1, None), "bookmark.spearman")


def test_a_run_stalls_after_its_patience_without_anything_better(chain: Chain) -> None:
    settings: Any = dataclasses.make_dataclass("Settings", [("patience", int | None), ("best_by", str)])
    run = RunState(history=[entry(x, None) for x in (1.0, 0.8, 0.9, 0.85)])
    assert run.has_stalled(settings(2, "val_loss"))
    assert not run.has_stalled(settings(3, "val_loss"))
    assert not run.has_stalled(settings(None, "val_loss"))
    assert not RunState().has_stalled(settings(1, "val_loss"))
    assert "patience" in WorkerSettings.__dataclass_fields__


@pytest.mark.slow
def test_patience_ends_a_training_early_and_saves_its_best_epoch(chain: Chain, tmp_path: Path) -> None:
    settings = {
        **TRAINING,
        "epochs": 30,
        "learning_rate": 1e-9,
        "patience": 1,
        "best_by": "bookmark.spearman",
    }
    found = train(TrainConfig(data=chain.dataset, out=str(tmp_path), num_workers=0, **settings))
    entries = history(tmp_path)
    assert len(entries) < 30
    best = min(entries, key=lambda e: rank_value(e, "bookmark.spearman"))
    assert found["epoch"] == best["epoch"]


def test_the_same_config_but_another_seed_is_refused_with_the_difference(chain: Chain) -> None:
    other = TrainConfig(data=chain.dataset, out=chain.model, **{**TRAINING, "seed": 99})
    with pytest.raises(ConfigError, match="seed: 3 there, 99 now") as refused:
        train(other)
    assert (refused.value.exit_code, str(refused.value).count("\n")) == (2, 0)


@pytest.mark.slow
def test_a_refused_training_is_one_line_and_exit_2_of_its_process(chain: Chain) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**TRAINING, "seed": 99}.items()]
    command = [sys.executable, "-m", "jobs.train", "--data", chain.dataset, "--out", chain.model, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert "seed: 3 there, 99 now" in done.stderr
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stdout.splitlines()[-1])["exit_code"] == 2


@pytest.mark.parametrize(
    ("edges", "labels", "message"),
    [
        ([10, 100], [None] * 40, "head 'likes' has no label in the train split"),
        ([10, 100], [5] * 40, r"head 'likes': all \d+ training labels lie in one bin of 3"),
    ],
)
def test_a_dataset_whose_head_cannot_be_learnt_is_refused_by_name(
    chain: Chain, tmp_path: Path, edges: list[int], labels: list[int | None], message: str
) -> None:
    pictures = chain.catalog_rows().slice(0, len(labels)).column("uri").to_pylist()
    files = [str(Path(chain.catalog) / uri) for uri in pictures]
    catalog = tmp_path / "catalog.parquet"
    images = [Path(file).read_bytes() if Path(file).is_file() else b"" for file in files]
    columns = {"likes": pa.array(labels, pa.int64()), "views": range(len(labels))}
    pq.write_table(pa.table({"illust_id": range(len(labels)), "image": images, **columns}), catalog)
    heads = (
        {"name": "likes", "column": "likes", "edges": edges},
        {"name": "views", "column": "views", "edges": [20]},
    )
    with pytest.raises(DataError, match=message):  # by whichever sees it first
        prepare(
            PrepareConfig(
                catalog=str(catalog), out=str(tmp_path / "data"), image_size=64, val_fraction=0.2, heads=heads
            )
        )
        train(
            TrainConfig(data=str(tmp_path / "data"), out=str(tmp_path / "model"), num_workers=0, **TRAINING)
        )
    assert not (tmp_path / "model").exists()
