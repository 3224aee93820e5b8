"""How a model is trained, as plain values: what the job decides and every worker is told. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.errors import ConfigError
from pix2score.heads import HeadSpec
from pix2score.images import Preprocess

INITIAL_TRUNK = "initial.safetensors"
"""Weights that the trunk starts from, in the model folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the weights are moved: AdamW, linear warm-up, cosine to zero."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    clip_norm: float = 5.0
    total_steps: int = 1

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ConfigError(f"total_steps {self.total_steps}: at least one training step is needed")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """Everything a worker needs; the same on all of them."""

    backbone: str
    heads: tuple[HeadSpec, ...]
    preprocess: Preprocess
    recipe: Recipe
    num_workers: int
    use_gpu: bool
    batch_size: int
    steps_per_epoch: int
    seed: int
    out: str
    initial_trunk: str | None
    num_threads: int | None
    """Of torch on the CPU; None leaves its default."""
