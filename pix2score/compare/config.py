"""Settings of ``jobs.compare``, and the trainings that they stand for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pix2score.cli.flags import config_of, flat
from pix2score.dataset.card import SPLITS
from pix2score.errors import ConfigError
from pix2score.train.config import TrainConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
REFERENCES = RIDGE, CONSTANT = "ridge", "constant"
"""Beside the runs: a regression on colours and outlines, and the best constant answer."""
OWN = {"data": "of all runs together", "out": "of all runs together", "seed": "seeds, for every run"}
"""Settings of train that a comparison makes, and where it takes them from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """Settings of ``jobs.compare``. Runs are in its file: [train] for all of them, [[runs]] for each."""

    data: str
    """Prepared dataset: a local folder or s3://bucket/prefix."""
    out: str
    """Where everything goes: report.html, compare.json, and a model folder NAME-seedK for each run and seed.
    The same command again goes on with what is there."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each run is trained once with each, several times: --seeds 0 --seeds 1. With a single one it cannot be
    said how far chance alone moves a number."""
    split: str = "test"
    """Split that all are measured on: train, val or test."""
    side_by_side: int | None = None
    """Trainings at a time (default: as many as the cluster's GPUs hold; without a GPU 1)."""
    train: dict[str, Any] = field(default_factory=dict)
    runs: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError(
                "runs: none is given; --config FILE has a [[runs]] table for each, with a name and flags of "
                "jobs.train (jobs/examples/compare.toml)"
            )
        self._check_names()
        self._check_seeds()
        if self.split not in SPLITS:
            raise ConfigError(f"split {self.split!r} is not known; one of {', '.join(SPLITS)}")
        if self.side_by_side is not None and self.side_by_side < 1:
            raise ConfigError(f"side_by_side {self.side_by_side}: at least 1")
        _check_keys(self.train, "[train]: ")
        for run in self.runs:
            self.training(run, self.seeds[0])

    def _check_names(self) -> None:
        for number, run in enumerate(self.runs, 1):
            name = run.get("name")
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise ConfigError(
                    f"run {number}: name {name!r} is not one for a folder: letters, digits and . _ -, the "
                    "first a letter or digit"
                )
            if name in REFERENCES:
                raise ConfigError(
                    f"run {number}: {name} is the name of a reference in the table; take another"
                )
        twice = [name for name, times in Counter(run["name"] for run in self.runs).items() if times > 1]
        if twice:
            raise ConfigError(f"runs: {twice[0]} is the name of two; each has a folder of its own")

    def _check_seeds(self) -> None:
        if not self.seeds:
            raise ConfigError("seeds: at least one")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(
                f"seeds {', '.join(map(str, self.seeds))}: expected different whole numbers, 0 or more"
            )

    def training(self, run: Mapping[str, Any], seed: int) -> TrainConfig:
        """How ``run``, one of ``runs``, is trained with ``seed``. Raises ``ConfigError`` naming the run."""
        name = run["name"]
        given = {key: value for key, value in run.items() if key != "name"}
        _check_keys(given, f"run {name}: ")
        table = _over(given, self.train)
        own = {"data": self.data, "out": f"{self.out.rstrip('/')}/{folder_name(name, seed)}", "seed": seed}
        try:
            return config_of(TrainConfig, {**table, **own}, "")
        except ConfigError as exc:
            raise ConfigError(f"run {name}: {exc}") from None


def folder_name(run: str, seed: int) -> str:
    """Of the model of ``run`` with ``seed``, below the comparison's folder."""
    return f"{run}-seed{seed}"


def _check_keys(table: Mapping[str, Any], where: str) -> None:
    for key, instead in OWN.items():
        if key in table:
            raise ConfigError(f"{where}{key} is not set here; it is {instead}")
    if "name" in table:
        raise ConfigError(f"{where}a name is a run's")
    flat(TrainConfig, {key: value for key, value in table.items() if key != "heads"}, where)


def _over(table: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with what ``table`` has; where both have a table, its keys one by one."""
    both = {
        key: _over(value, base[key])
        for key, value in table.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
    }
    return {**base, **table, **both}
