"""Which trainings run, how many at a time, and what is said while they do."""

from __future__ import annotations

import logging
import threading

import pytest

from pix2score.cluster import local
from pix2score.cluster.offer import Offer
from pix2score.compare.config import CompareConfig
from pix2score.compare.trainings import (
    MAX_MESSAGE,
    Progress,
    Training,
    message_of,
    num_side_by_side,
    trainings_of,
)
from pix2score.errors import ConfigError

GPUS = Offer(num_gpus=8, num_cores=32, num_nodes=2, cpus_per_core=1.0)
NO_GPU = Offer(num_gpus=0, num_cores=4, num_nodes=1, cpus_per_core=1.0)


@pytest.fixture(autouse=True)
def on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Ray that tests of this process share is a local one, and stays until all have ended."""
    monkeypatch.setattr(local, "LOCAL", threading.Event())


def trainings(offer: Offer, **train: object) -> list[Training]:
    config = CompareConfig(data="d", out="o", seeds=(0, 1), train=train, runs=({"name": "a"}, {"name": "b"}))
    return trainings_of(config, offer)


def test_every_run_is_trained_with_every_seed_a_seed_of_all_first() -> None:
    found = trainings(NO_GPU)
    assert [t.name for t in found] == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]
    assert [t.config.out for t in found] == [f"o/{t.name}" for t in found]
    assert [t.config.seed for t in found] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("offer", "train", "workers", "at_a_time"),
    [
        (GPUS, {}, 1, 8),
        (GPUS, {"num_workers": 2}, 2, 4),
        (GPUS, {"num_workers": "2..3"}, "2..3", 2),
        (GPUS, {"num_workers": 16}, 16, 1),
        (GPUS, {"device": "cpu"}, 1, 1),
        (NO_GPU, {}, 1, 1),
        (NO_GPU, {"num_workers": 0}, 0, 1),
    ],
)
def test_as_many_run_side_by_side_as_the_gpus_hold(
    offer: Offer, train: dict[str, object], workers: int | str, at_a_time: int
) -> None:
    found = trainings(offer, **train)
    assert {t.config.num_workers for t in found} == {workers}
    assert num_side_by_side(found, offer, None) == at_a_time
    assert num_side_by_side(found, offer, 3) == 3


def test_it_is_said_what_begins_what_was_measured_and_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    first, second, third, fourth = trainings(NO_GPU)
    progress = Progress(4, 2, lambda training: f"auc 0.{training.seed}")
    with caplog.at_level(logging.INFO):
        progress.begin(first, [second, third, fourth])
        progress.end(first, 60.0, None)
        progress.begin(second, [third, fourth])
        progress.end(second, 20.0, "no such file")
        progress.begin(third, [fourth])
    assert [record.message for record in caplog.records] == [
        "training 1 of 4: a-seed0",
        "training 2 of 4: b-seed0; before it a-seed0 auc 0.0; about 90 s left",
        "b-seed0 failed: no such file",
        "training 3 of 4: a-seed1; before it a-seed0 auc 0.0; about 60 s left",
    ]


def test_a_failure_is_one_line_of_bounded_length() -> None:
    assert message_of(ConfigError("epochs 0:\n at least 1")) == "epochs 0: at least 1"
    told = message_of(RuntimeError("CUDA out of memory. " + "x" * 1000))
    assert told.startswith("RuntimeError: CUDA out of memory. xxx")
    assert len(told) == MAX_MESSAGE
