"""A training in the job's own process that is told to end makes a checkpoint first, and goes on from
there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pix2score.model.folder import load_model
from pix2score.train.checkpoint import IN_PROCESS, parse_state
from pix2score.train.job import TrainConfig, train
from pix2score.train.worker import CHECK_EVERY
from tests.support.chain import TRAINING, Chain, history

pytestmark = pytest.mark.usefixtures("ray_session")


def told(
    chain: Chain, out: Path, log: Path, flags: list[str], *, until: Path, then_s: float = 0.0
) -> tuple[subprocess.Popen[str], str]:
    """A training that was told to end some time after a file stood there, and its stdout."""
    with log.open("w") as err:
        words = [sys.executable, "-m", "jobs.train", "--data", chain.dataset, "--out", str(out), *flags]
        job = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=err, text=True)
        deadline = time.monotonic() + 120
        while not until.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(then_s)
        job.terminate()
    return job, job.communicate(timeout=60)[0]


@pytest.mark.timeout(400)
@pytest.mark.endurance
def test_told_within_its_first_epoch_it_keeps_every_step(chain: Chain, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **TRAINING,
        "epochs": 2,
        "batch_size": 2,
        "num_workers": 0,
        "checkpoint_minutes": 1e-3,
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    out, log = tmp_path / "told", tmp_path / "log"
    job, stdout = told(chain, out, log, flags, until=out / IN_PROCESS, then_s=0.2)
    assert job.returncode == 1, log.read_text()[-3000:]
    assert json.loads(stdout.splitlines()[-1])["error"] == "Terminated"
    assert log.read_text().splitlines()[-1] == "jobs.train: interrupted; the same command again is safe"
    assert not (out / "history.jsonl").exists(), "it was to be told within its first epoch"
    assert parse_state((out / IN_PROCESS).read_bytes())["fitter"]["num_steps"] >= CHECK_EVERY
    assert "told to end: a checkpoint is made" in log.read_text()
    train(TrainConfig(data=chain.dataset, out=str(out), **settings))
    train(TrainConfig(data=chain.dataset, out=str(tmp_path / "whole"), **settings))
    for entry, known in zip(history(out), history(tmp_path / "whole"), strict=True):
        same = ("epoch", "steps", "loss", "val_loss", "ridge_spearman", "temperatures")
        assert {k: entry[k] for k in same} == {k: known[k] for k in same}


@pytest.mark.timeout(200)
@pytest.mark.slow
def test_ctrl_c_while_workers_train_is_no_success(chain: Chain, tmp_path: Path) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (TRAINING | {"epochs": 200}).items()]
    out, log = tmp_path / "model", tmp_path / "log"
    with log.open("w") as err:
        words = [sys.executable, "-m", "jobs.train", "--data", chain.dataset, "--out", str(out), *flags]
        job = subprocess.Popen([*words, "--num-workers=1"], stdout=subprocess.PIPE, stderr=err, text=True)
        deadline = time.monotonic() + 120
        while not (out / "history.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
    stdout, _ = job.communicate(timeout=60)
    assert job.returncode == 1, log.read_text()[-3000:]
    assert json.loads(stdout.splitlines()[-1])["error"] == "KeyboardInterrupt"
    assert log.read_text().splitlines()[-1] == "jobs.train: interrupted; the same command again is safe"
    assert not (out / "model.json").exists()


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_told_between_strengths_of_a_penalty_it_ends_as_if_undisturbed(chain: Chain, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **{k: v for k, v in TRAINING.items() if k not in ("epochs", "max_steps")},
        **{"epochs": 60, "num_workers": 0, "weights": chain.model, "freeze": "trunk"},
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    out, log = tmp_path / "told", tmp_path / "log"
    job, _ = told(chain, out, log, flags, until=out / "history.jsonl")
    assert job.returncode == 1, log.read_text()[-3000:]
    num_told = len(history(out))
    again = train(TrainConfig(data=chain.dataset, out=str(out), **settings))
    whole = train(TrainConfig(data=chain.dataset, out=str(tmp_path / "whole"), **settings))
    assert 0 < num_told < len(history(tmp_path / "whole")), "it was to be told on its way"
    assert [entry["penalties"] for entry in history(out)] == [
        entry["penalties"] for entry in history(tmp_path / "whole")
    ]
    assert again["model_version"] == whole["model_version"]
    before, after = load_model(chain.model)[1], load_model(str(out))[1]
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("outputs.")}
