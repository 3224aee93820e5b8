"""How a model is trained, as plain values: what the job decides and every worker gets.

Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from pix2score.errors import ConfigError
from pix2score.heads.spec import HeadSpec

REFERENCE_BATCH = 64
"""Images per step, over all workers, for which the presets' learning rates are stated."""
SMALL_DATA_ROWS = 50_000
"""Training rows below which the small-data preset is used."""

Optimizer: TypeAlias = Literal["adamw", "sgd"]
Schedule: TypeAlias = Literal["cosine", "step", "exponential", "plateau", "onecycle"]
Gradient: TypeAlias = Literal["sum", "pcgrad"]
Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """Random changes of a training picture that keep its composition. All zero: none."""

    flip: float = 0.0
    """Chance of a left-right mirror image."""
    flip_vertical: float = 0.0
    """Chance of an upside-down mirror image."""
    shift: float = 0.0
    """Largest shift, share of the side; what comes in at the border repeats it."""
    scale: float = 0.0
    """Largest change of size, as a natural logarithm: 0.1 is 10 %."""
    rotate: float = 0.0
    """Largest turn, degrees; what comes in at the border repeats it."""
    hue: float = 0.0
    """Largest turn of the colour circle, as a share of it."""
    colour: float = 0.0
    """Largest relative change of contrast; brightness half, saturation one and a half times of it."""
    blur: float = 0.0
    """Chance of a blur."""
    blur_sigma: float = 0.0
    """Largest standard deviation of a Gaussian blur, px; 0: always the same slight one, of 3x3 px."""
    jpeg: float = 0.0
    """Chance of JPEG's 8x8 quantisation."""
    jpeg_worst: float = 30.0
    jpeg_best: float = 90.0
    """Qualities between which JPEG's is drawn."""

    def __post_init__(self) -> None:
        for f in fields(self):
            least, most = _AUGMENT_RANGES.get(f.name, (0, 1))
            if not least <= getattr(self, f.name) <= most:
                raise ConfigError(f"augment {f.name} {getattr(self, f.name)}: expected {least} to {most}")
        if self.jpeg_worst > self.jpeg_best:
            raise ConfigError(f"augment jpeg_worst {self.jpeg_worst}: is above jpeg_best {self.jpeg_best}")
        if self.blur_sigma and not self.blur:
            raise ConfigError(f"augment blur_sigma {self.blur_sigma}: needs blur, the chance of one")


_AUGMENT_RANGES: dict[str, tuple[float, float]] = {
    "rotate": (0, 180),
    "hue": (0, 0.5),
    "blur_sigma": (0, 10),
    "jpeg_worst": (1, 100),
    "jpeg_best": (1, 100),
}
FAMILIES = {
    "mirror images": ("flip",),
    "shifts and sizes": ("shift", "scale"),
    "colours": ("colour",),
    "blur and JPEG": ("blur", "jpeg"),
}
"""Changes of a preset that are tried together: name -> fields of ``Augment``."""
ROBUST = {"blur": 0.5, "blur_sigma": 3.0, "jpeg": 0.5, "jpeg_worst": 30.0, "jpeg_best": 100.0}
"""What makes detectors of generated pictures hold on others than they learnt from:
https://arxiv.org/abs/1912.11035"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the weights are moved."""

    learning_rate: float = 1e-3
    """Top rate of the trunk, for the batch of all workers together."""
    head_rate: float = 1.0
    """Rate of the heads, as a multiple of the trunk's."""
    layer_decay: float = 1.0
    """Rate of each layer of the trunk over that of the next one; the last has ``learning_rate``. Of a ResNet
    the layers are its stages."""
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.05
    """Of kernels and matrices; norms and biases have none."""
    schedule: Schedule = "cosine"
    """How the rate falls after a linear warm-up: cosine and exponential to ``floor``, step at ``milestones``,
    plateau when validation stalls; onecycle rises and falls by cosines."""
    warmup_fraction: float = 0.1
    milestones: tuple[float, ...] = ()
    """Of step: shares of all steps after which the rate is multiplied by ``gamma``; none: thirds."""
    gamma: float = 0.1
    cycles: int = 1
    """Of cosine: how often it falls; each fall begins at the top rate."""
    floor: float | None = None
    """Least share of the top rate, of cosine (None: 0) and exponential (None: 0.01)."""
    frozen_fraction: float = 0.0
    """Share of the steps at the start that move the heads alone."""
    clip_norm: float = 5.0
    accumulate: int = 1
    """Pieces in which a worker computes its batch: the same step in less memory (BatchNorm sees the
    pieces). More are made where memory is too small."""
    checkpoint_activations: bool = False
    """Whether activations are computed again in the backward pass from the first step on, instead of being
    kept; else only where pieces alone do not fit."""
    average: float = 0.0
    """Share of all steps over which the saved weights are averaged, exponentially; 0 for the last ones."""
    dropout: float = 0.0
    """Of the embedding, before the heads."""
    label_noise: float = 0.0
    """Standard deviation, in the labels' own unit, of noise on those of each step, before they are binned."""
    label_noise_by_head: dict[str, float] = field(default_factory=dict)
    """The same of single heads, over ``label_noise``."""
    augment: Augment = field(default_factory=Augment)
    keeps_statistics: bool = False
    """Whether the trunk's BatchNorm goes on with the statistics that it begins with: those of a batch would
    move the embeddings away from outputs that were solved."""
    tries_augment: bool = False
    """Whether the first eighth of the epochs go without ``augment``, and the others with what of it the data
    set bears: ``bearing``."""
    r_drop: float = 0.0
    """Weight of how far two answers under two dropout masks are apart: ``consistency``."""
    adversarial: float = 0.0
    """L2 norm by which each normalised picture is moved where the loss grows, for a second pass:
    ``adversarial``."""
    gradient: Gradient = "sum"
    """How the gradients of the heads meet in the trunk: sum, or pcgrad (conflicting parts projected out)."""
    precision: Precision = "auto"
    """auto: on a GPU bf16, or fp16 with loss scaling where it has no bf16; on a CPU fp32."""
    total_steps: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ConfigError(f"total_steps {self.total_steps}: at least one training step is needed")
        if self.accumulate < 1:
            raise ConfigError(f"accumulate {self.accumulate}: at least 1")
        self._check_schedule()
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay {self.layer_decay}: expected above 0 and at most 1")
        for name in ("warmup_fraction", "frozen_fraction", "average", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 or more and less than 1")
        for name in ("learning_rate", "head_rate", "clip_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} {getattr(self, name)}: expected a positive number")
        if self.r_drop and not self.dropout:
            raise ConfigError(
                "r_drop compares two dropout masks, and dropout is 0; give dropout, such as 0.3"
            )
        if self.adversarial and self.gradient == "pcgrad":
            raise ConfigError("adversarial: not together with gradient pcgrad; take sum")
        for name in ("weight_decay", "label_noise", "r_drop", "adversarial"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 or more")

    def noise_of(self, head: HeadSpec) -> float:
        """Standard deviation of the noise on its labels: told of it alone, of all heads, or its own."""
        return self.label_noise_by_head.get(head.name, self.label_noise or head.own_noise())

    def _check_schedule(self) -> None:
        for name, default, owners in _OF_SCHEDULES:
            if getattr(self, name) != default and self.schedule not in owners:
                raise ConfigError(
                    f"{name} {getattr(self, name)}: is for schedule {' or '.join(owners)}, "
                    f"not {self.schedule}"
                )
        if not all(0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ConfigError(
                f"milestones {', '.join(map(str, self.milestones))}: expected rising shares of all steps, "
                "each above 0 and below 1"
            )
        if not 0 < self.gamma < 1:
            raise ConfigError(f"gamma {self.gamma}: expected above 0 and below 1")
        if self.cycles < 1:
            raise ConfigError(f"cycles {self.cycles}: at least 1")
        least = "above 0" if self.schedule == "exponential" else "0 or more"
        if self.floor is not None and not (0 <= self.floor < 1 and (self.floor or least != "above 0")):
            raise ConfigError(
                f"floor {self.floor}: expected {least} and less than 1, a share of the top rate"
            )


_OF_SCHEDULES: tuple[tuple[str, Any, tuple[Schedule, ...]], ...] = (
    ("milestones", (), ("step",)),
    ("gamma", 0.1, ("step",)),
    ("cycles", 1, ("cosine",)),
    ("floor", None, ("cosine", "exponential")),
)
"""Field of a recipe, its default, and the schedules that read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A recipe for a size of data: what is not said on the command line comes from here."""

    epochs: int
    recipe: dict[str, Any]


PRESETS = {
    "small": Preset(
        epochs=30,
        recipe={
            "learning_rate": 1e-3,
            "weight_decay": 0.05,
            "average": 0.1,
            "dropout": 0.3,
            "augment": Augment(flip=0.5, shift=0.1, scale=0.15, colour=0.3),
        },
    ),
    "large": Preset(
        epochs=10,
        recipe={
            "learning_rate": 1e-3,
            "weight_decay": 0.05,
            "warmup_fraction": 0.05,
            "average": 0.01,
            "augment": Augment(flip=0.5, shift=0.05, scale=0.05, colour=0.1, blur=0.1, jpeg=0.2),
        },
    ),
}


def preset_for(name: str, num_rows: int) -> Preset:
    """The named preset; ``auto`` goes by the number of training rows.

    Raises ``ConfigError`` naming the known ones.
    """
    if name == "auto":
        name = "small" if num_rows < SMALL_DATA_ROWS else "large"
    if name not in PRESETS:
        raise ConfigError(f"recipe {name!r} is not known; one of auto, {', '.join(PRESETS)}")
    return PRESETS[name]


def scaled_rate(learning_rate: float, optimizer: Optimizer, images_per_step: int) -> float:
    """A preset's rate for the joint batch of all workers.

    As the square root of its size for AdamW, in proportion for SGD.

    Adam's step does not grow with the gradient, so only its noise counts: https://arxiv.org/abs/2205.10287
    (square root); SGD: https://arxiv.org/abs/1706.02677 (linear).
    """
    ratio = images_per_step / REFERENCE_BATCH
    return learning_rate * (ratio if optimizer == "sgd" else math.sqrt(ratio))
