"""What the workers of a training are given: the flags, made definite by the dataset and the machines."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.snapshots.tables import EmbeddingDtype
from pix2score.train.flags import Freeze
from pix2score.train.resample import Resampling
from pix2score.train.step.recipe import Recipe
from pix2score.train.teaching import TeacherPlace

INITIAL_TRUNK = "initial.safetensors"
"""Weights that the trunk starts from, in the model folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """Everything a worker needs; the same on all of them."""

    backbone: str
    heads: tuple[HeadSpec, ...]
    preprocess: Preprocess
    recipe: Recipe
    num_workers: int
    """0: in this process."""
    max_workers: int
    """Above ``num_workers`` where their number may change; ``batch_size * max_workers`` images make a step,
    however many there are."""
    use_gpu: bool
    cpus_per_worker: int | None
    """None leaves Ray Train's default."""
    shuffle_mib: int
    cache_mib: int | None
    """Decoded pixels kept over the epochs, at most; None: a share of Ray's object store."""
    batch_size: int
    steps_per_epoch: int
    seed: int
    out: str
    initial_trunk: str | None
    num_threads: int | None
    """Of torch on the CPU; None leaves its default."""
    best_by: str = "val_loss"
    patience: int | None = None
    checkpoint_minutes: float = 10.0
    memory_budget: int | None = None
    """Bytes of its GPU that a worker may take; None: all."""
    freeze: Freeze = "none"
    solves_outputs: bool = False
    """Whether outputs are solved (``train.step.probe``); an epoch then is one strength of the penalty."""
    begins_solved: bool = False
    """Whether outputs are solved before the first step moves them and the trunk."""
    hidden: int = 0
    embedding_dtype: EmbeddingDtype = "float16"
    drop_path: float = 0.0
    resampling: Resampling | None = None
    teacher: TeacherPlace | None = None
    has_unlabelled: bool = False
    """Whether pictures of another dataset are mixed into the train split."""
    images_per_row: float = 1.0
    """Of the train split, on average: above 1 where rows hold compared images."""

    @property
    def num_epochs(self) -> int:
        """Epochs that the steps fill, the last perhaps in part."""
        return -(-self.recipe.total_steps // self.steps_per_epoch)

    @property
    def images_per_step(self) -> int:
        """Of all workers together."""
        return self.batch_size * max(1, self.max_workers)
