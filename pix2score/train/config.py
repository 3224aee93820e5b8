"""Settings of ``jobs.train``, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from pix2score.errors import ConfigError
from pix2score.heads.ordered import OrderedHead
from pix2score.model.backbones import CLASSIC, check_backbone
from pix2score.train.flags import AS_PREPARED, TrainFlags
from pix2score.train.head_options import check_head_options
from pix2score.train.memory import parse_budget
from pix2score.train.recipes import make_recipe

TRUNK_STRIDE = 32
"""Pixels of input for one of a trunk's last feature map."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(TrainFlags):
    """Settings of ``jobs.train``. Raises ``ConfigError`` for those that no training can have."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        check_head_options(self.heads)
        self.preprocess()
        self._check_network()
        for name in ("epochs", "batch_size", "max_steps", "patience", "cpus_per_worker", "shuffle_mib"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: at least 1")
        if self.cache_mib is not None and self.cache_mib < 0:
            raise ConfigError(f"cache_mib {self.cache_mib}: at least 0")
        for name in ("bins_loss", "levels_loss"):
            if getattr(self, name) not in (AS_PREPARED, "auto", *OrderedHead.LOSSES):
                raise ConfigError(
                    f"{name} {getattr(self, name)!r} is not known; one of {AS_PREPARED}, "
                    f"{', '.join(('auto', *OrderedHead.LOSSES))}"
                )
        if -(-self.batch_size // self.accumulate) == 1 and self.input_size <= TRUNK_STRIDE:
            raise ConfigError(
                f"one image of {self.input_size} px at a time leaves BatchNorm a single value per channel: "
                f"raise batch_size {self.batch_size}, lower accumulate {self.accumulate}, or take an "
                f"input_size above {TRUNK_STRIDE}"
            )
        if not self.checkpoint_minutes > 0:
            raise ConfigError(f"checkpoint_minutes {self.checkpoint_minutes}: expected a positive number")
        if self.memory is not None:
            parse_budget(self.memory)
        self.worker_range(0)
        self._check_options()
        make_recipe(self, num_rows=1, images_per_step=1, total_steps=1)

    def _check_network(self) -> None:
        if self.backbone not in CLASSIC:
            from pix2score.model.trunk import check_size  # imports torch

            check_size(self.backbone, self.input_size)
        if self.hidden < 0:
            raise ConfigError(f"hidden {self.hidden}: at least 0")
        if self.hidden and -(-self.batch_size // self.accumulate) == 1:
            raise ConfigError("hidden: its BatchNorm needs at least 2 images at a time; raise batch_size")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path {self.drop_path}: expected 0 or more and less than 1")
        if self.freeze == "trunk":
            if self.weights == "none":
                raise ConfigError("freeze trunk: a random trunk stays random; give --weights")
            if self.drop_path or self.frozen_fraction:
                raise ConfigError("freeze trunk: leave out drop_path and frozen_fraction, which move it")
            if self.adversarial:
                raise ConfigError("freeze trunk: adversarial moves pictures, and these are embedded once")
            if self.gradient == "pcgrad":
                raise ConfigError("freeze trunk: pcgrad is of the gradients in the trunk, which has none")

    def _check_options(self) -> None:
        if self.resample is not None:
            head_and_exponent(self.resample)
            if self.freeze == "trunk":
                raise ConfigError("resample: not with freeze trunk, which embeds each row once")
        if self.teacher is None:
            if self.unlabelled is not None:
                raise ConfigError("unlabelled: only a teacher can teach these rows; give --teacher")
            if self.teacher_weight != _DEFAULT_WEIGHT:
                raise ConfigError(f"teacher_weight {self.teacher_weight}: give --teacher")
        elif self.freeze == "trunk":
            raise ConfigError("teacher: not with freeze trunk, which embeds each picture once")
        if not 0 < self.teacher_weight <= 1:
            raise ConfigError(f"teacher_weight {self.teacher_weight}: expected above 0 and at most 1")


def head_and_exponent(text: str) -> tuple[str, float]:
    """What ``--resample HEAD:0.5`` says. Raises ``ConfigError``."""
    head, _, number = text.rpartition(":")
    try:
        exponent = float(number)
    except ValueError:
        exponent = math.nan
    if not (head and 0 < exponent <= 1):
        raise ConfigError(f"resample {text}: expected HEAD:EXPONENT, such as bookmark:0.5, above 0 up to 1")
    return head, exponent


_DEFAULT_WEIGHT = next(f.default for f in fields(TrainFlags) if f.name == "teacher_weight")
