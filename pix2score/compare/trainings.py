"""The trainings of a comparison: which are done, and the others one after the other or side by side.

One that fails is noted, and the rest goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from pix2score.cluster.local import is_local, num_local_cores
from pix2score.cluster.offer import Offer
from pix2score.cluster.progress import duration
from pix2score.cluster.session import session
from pix2score.compare.config import CompareConfig, folder_name
from pix2score.compare.measuring import Ridges, measure, measured
from pix2score.dataset.card import PreparedDataset
from pix2score.errors import JobFailed
from pix2score.train.config import TrainConfig
from pix2score.train.job import train

logger = logging.getLogger(__name__)
MAX_MESSAGE = 300
"""Characters of a failure's line: an error of torch may hold a page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One run with one seed."""

    run: str
    seed: int
    config: TrainConfig
    split: str
    num_gpus: int
    """That its workers hold; 0 on CPUs."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return folder_name(self.run, self.seed)

    def is_done(self, dataset: PreparedDataset) -> bool:
        """Whether its model is trained and measured, with whatever config."""
        return measured(self.config.out, self.split, dataset) is not None


def trainings_of(config: CompareConfig, offer: Offer) -> list[Training]:
    """All of them, seed by seed, so that every run has a number early."""
    found = []
    for seed in config.seeds:
        for run in config.runs:
            training = config.training(run, seed)
            use_gpu = offer.wants_gpu(training.device)
            training = _with_workers(training, use_gpu=use_gpu)
            num_gpus = training.worker_range(1)[1] if use_gpu else 0
            found.append(
                Training(run=run["name"], seed=seed, config=training, split=config.split, num_gpus=num_gpus)
            )
    return found


def _with_workers(config: TrainConfig, *, use_gpu: bool) -> TrainConfig:
    """One GPU each, unless told otherwise: a step is the same on a cluster of any size, and runs fit side by
    side. Without a GPU one worker, on a Ray of this machine alone none."""
    if config.num_workers is not None:
        return config
    return replace(config, num_workers=1 if use_gpu or not is_local() else 0)


def num_side_by_side(trainings: Sequence[Training], offer: Offer, asked: int | None) -> int:
    """How many are trained at a time: ``asked``, else what the GPUs hold of the largest; on CPUs 1."""
    largest = max(training.num_gpus for training in trainings)
    return asked or (max(1, offer.num_gpus // largest) if largest else 1)


@dataclass
class Progress:
    """Says what begins, what was measured before it, and about how long the rest takes."""

    total: int
    at_a_time: int
    said: Callable[[Training], str]
    """What a finished training measured, in a few words."""
    num_begun: int = 0
    last: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Run -> what its trainings took in this call."""

    def begin(self, training: Training, rest: Sequence[Training]) -> None:
        """``training`` begins; ``rest`` are to come after it."""
        self.num_begun += 1
        left = self._left([training, *rest])
        logger.info(
            "training %d of %d: %s%s%s",
            *(self.num_begun, self.total, training.name),
            f"; before it {self.last}" if self.last else "",
            f"; about {duration(left)} left" if left else "",
        )

    def end(self, training: Training, seconds: float, failure: str | None) -> None:
        """It took so long; ``failure`` is why it gave nothing."""
        if failure is not None:
            logger.error("%s failed: %s", training.name, failure)
            return
        self.seconds.setdefault(training.run, []).append(seconds)
        self.last = f"{training.name} {self.said(training)}"

    def _left(self, trainings: Sequence[Training]) -> float:
        """Seconds, by what the same run took, else by what all took; 0 where nothing is known."""
        known = [value for values in self.seconds.values() for value in values]
        each = [self.seconds.get(training.run) or known for training in trainings]
        return sum(sum(values) / len(values) for values in each if values) / self.at_a_time


def train_all(
    trainings: Sequence[Training],
    dataset: PreparedDataset,
    ridges: Ridges,
    offer: Offer,
    progress: Progress,
) -> dict[str, str]:
    """Train and measure them, beside the reference ``ridges``; name -> one line of each that failed."""
    if progress.at_a_time == 1 or len(trainings) < 2:
        return dict(_in_turn(trainings, dataset, ridges, offer, progress))
    return _side_by_side(trainings, dataset, ridges, progress)


def _in_turn(
    trainings: Sequence[Training],
    dataset: PreparedDataset,
    ridges: Ridges,
    offer: Offer,
    progress: Progress,
) -> Iterator[tuple[str, str]]:
    for number, training in enumerate(trainings):
        progress.begin(training, trainings[number + 1 :])
        start, failure = time.monotonic(), None
        try:
            train_and_measure(training, dataset, ridges, offer)
        except Exception as exc:
            failure = message_of(exc)
            yield training.name, failure
        progress.end(training, time.monotonic() - start, failure)


def train_and_measure(training: Training, dataset: PreparedDataset, ridges: Ridges, offer: Offer) -> None:
    """Train one, or go on with it, and measure it, unless that was done."""
    train(training.config)
    if not training.is_done(dataset):
        own = replace(offer, num_gpus=training.num_gpus) if training.num_gpus else offer
        model, use_gpu = training.config.out, training.num_gpus > 0
        measure(model, training.split, dataset, ridges, own, use_gpu=use_gpu)


def message_of(exc: BaseException) -> str:
    """One line that says why, of whatever went wrong inside."""
    failed = JobFailed.of(exc, {})
    kind = "" if failed.exit_code == 2 else f"{type(failed.cause).__name__}: "
    return f"{kind}{failed.message}"[:MAX_MESSAGE]


def _side_by_side(
    trainings: Sequence[Training], dataset: PreparedDataset, ridges: Ridges, progress: Progress
) -> dict[str, str]:
    """Each directed by a Ray task of its own; a task that is lost with its node begins again, and resumes."""
    cores = max(1, num_local_cores() // progress.at_a_time)
    waiting, failures = list(trainings), dict[str, str]()
    running: dict[Any, tuple[Training, float]] = {}
    known = ray.put((dataset, dict(ridges)))
    while waiting or running:
        while waiting and len(running) < progress.at_a_time:
            training = waiting.pop(0)
            progress.begin(training, waiting)
            running[_begun(training, known, cores)] = training, time.monotonic()
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        training, start = running.pop(done)
        failure = None
        try:
            ray.get(done)
        except Exception as exc:
            failure = failures[training.name] = message_of(exc)
        progress.end(training, time.monotonic() - start, failure)
    return failures


def _begun(training: Training, known: Any, cores: int) -> Any:
    """A task that trains one. In its own process it holds the cores that it uses; else its workers do."""
    is_in_task = training.config.num_workers == 0
    if is_in_task and training.config.cpus_per_worker is None:
        training = replace(training, config=replace(training.config, cpus_per_worker=cores))
    held = training.config.cpus_per_worker if is_in_task else 0
    remote = ray.remote(num_cpus=held)(_in_task)
    return remote.remote(training, known)


def _in_task(training: Training, known: tuple[PreparedDataset, Mapping[str, Any]]) -> None:
    dataset, ridges = known
    with session() as offer:
        train_and_measure(training, dataset, ridges, offer)
