"""train: a prepared dataset becomes a model, by Ray Train on as many workers as asked for.

Owns the model folder while it grows:

    model.json, model.safetensors   written last, from the best epoch by validation loss
    config.json                     the resolved config, written first: the same command again resumes, another config is refused
    checkpoints/                    Ray Train's, one per epoch and every M minutes; each holds the best model so far
    history.jsonl, tensorboard/     one entry per epoch
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, replace
from typing import Any

from pix2score.account import recorded
from pix2score.artifact import CARD, check_backbone, load_card
from pix2score.cluster import Device, Offer, session
from pix2score.command import as_plain
from pix2score.dataset import PreparedDataset, open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.heads import LOSSES, HeadSpec
from pix2score.images import Preprocess
from pix2score.recipe import (
    HIGHER_IS_BETTER,
    INITIAL_TRUNK,
    LOWER_IS_BETTER,
    Augment,
    Gradient,
    Optimizer,
    Precision,
    Recipe,
    Schedule,
    WorkerSettings,
    is_metric,
    preset_for,
    scaled_rate,
)
from pix2score.storage import Folder

logger = logging.getLogger(__name__)

AS_PREPARED = "as prepared"
SGD_RATE, SGD_WEIGHT_DECAY = 50.0, 5e-4
"""SGD's usual rate of 0.05 for 64 images beside AdamW's 0.001, and its usual decay, which its rate multiplies too."""
MAX_PADDING = 10_000
"""Empty validation rows that an elastic number of workers may need, each a black picture to decode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings of ``jobs.train``."""

    data: str
    """Prepared dataset: a local folder or s3://bucket/prefix."""
    out: str
    """Where the model goes. The same command again resumes what stands there."""
    backbone: str = "resnet101"
    """resnet18 34 50 101 152, resnext50_32x4d, resnext101_32x8d, resnext101_64x4d, wide_resnet50_2 or wide_resnet101_2."""
    weights: str = "none"
    """Start of the trunk: none, imagenet (from torchvision's hub), or the place of a model or state dict."""
    input_size: int = 224
    """Side of the square that the network sees, px."""
    resize: str = "squash"
    """squash (whole picture, aspect given up), pad (on white) or crop (centre)."""
    recipe: str = "auto"
    """Preset that fills in what is not given below: small, large, or auto (small below 50,000 training rows)."""
    epochs: int | None = None
    """Passes over the train split (default: the preset's)."""
    batch_size: int = 64
    """Images per step and worker."""
    accumulate: int = 1
    """Pieces in which a worker computes its batch: less memory, the same step."""
    learning_rate: float | None = None
    """Top rate, for the batch of all workers together. Default: the preset's, which holds for 64 images a step, scaled by the square root
    of the images a step of all workers (sgd: in proportion)."""
    head_rate: float = 1.0
    """Rate of the heads, as a multiple of the trunk's."""
    frozen_fraction: float = 0.0
    """Share of the steps, at the start, that move the heads alone; for a trunk that begins with weights."""
    optimizer: Optimizer = "adamw"
    """adamw or sgd."""
    schedule: Schedule = "cosine"
    """cosine (with linear warm-up), step, plateau or onecycle."""
    weight_decay: float | None = None
    """Of kernels and matrices (default: the preset's); norms and biases have none."""
    augment: bool = True
    """The preset's random changes of training pictures: flip, slight shift, scale and colour."""
    label_noise: float = 0.0
    """Standard deviation, in bins, of noise on the training labels."""
    gradient: Gradient = "sum"
    """sum, or pcgrad: conflicting parts of the heads' gradients are projected out; about as many times slower as there are heads."""
    bins_loss: str = "as prepared"
    """Of all heads of kind bins: ordinal, cross_entropy, squared_emd, class_weighted or logit_adjusted."""
    levels_loss: str = "as prepared"
    """The same of heads of kind levels."""
    best_by: str = "val_loss"
    """Metric that chooses the saved epoch: val_loss, or HEAD.METRIC such as bookmark.spearman."""
    patience: int | None = None
    """Stop when so many epochs in a row brought nothing better."""
    checkpoint_minutes: float = 10.0
    """A checkpoint after so many minutes, besides that of every epoch: about the most that a killed worker costs."""
    precision: Precision = "auto"
    """auto (bf16 on a GPU that has it, else fp16; fp32 on a CPU), fp32, bf16 or fp16."""
    max_steps: int | None = None
    """Stop after this many steps in all."""
    num_workers: int | str | None = None
    """Data-parallel workers (default: the cluster's GPUs, else 1). MIN..MAX, such as 2..8: as many as there are nodes for, always with
    batch_size * MAX images a step. 0: in this process, for debugging."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""
    seed: int = 0
    """Of initial weights, order, augmentation and dropout."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        self.preprocess()
        for name in ("epochs", "batch_size", "max_steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: at least 1")
        for name in ("bins_loss", "levels_loss"):
            if getattr(self, name) not in (AS_PREPARED, *LOSSES):
                raise ConfigError(f"{name} {getattr(self, name)!r} is not known; one of {AS_PREPARED}, {', '.join(LOSSES)}")
        if not self.checkpoint_minutes > 0:
            raise ConfigError(f"checkpoint_minutes {self.checkpoint_minutes}: expected a positive number")
        self.worker_range(0)
        self.make_recipe(num_rows=1, images_per_step=1, total_steps=1)

    def worker_range(self, default: int) -> tuple[int, int]:
        """Least and greatest number of workers. Raises ``ConfigError``."""
        given = default if self.num_workers is None else self.num_workers
        low, _, high = str(given).partition("..")
        if not (low.isdigit() and (high.isdigit() or ".." not in str(given))):
            raise ConfigError(f"num_workers {given}: expected a number, or a range such as 2..8")
        least, most = int(low), int(high or low)
        if high and not 1 <= least < most:
            raise ConfigError(f"num_workers {given}: a range begins at 1 or more, and ends above")
        if math.lcm(*range(max(1, least), max(1, most) + 1)) > MAX_PADDING and high:
            raise ConfigError(f"num_workers {given}: so wide a range cannot share the validation rows evenly; 1..10 or 8..10 can")
        return least, most

    def make_recipe(self, *, num_rows: int, images_per_step: int, total_steps: int) -> Recipe:
        """What the preset says, but for what was given. Raises ``ConfigError``."""
        values = dict(preset_for(self.recipe, num_rows).recipe)
        if self.learning_rate is not None:
            values["learning_rate"] = self.learning_rate
        else:
            base = values["learning_rate"] * (SGD_RATE if self.optimizer == "sgd" else 1)
            values["learning_rate"] = scaled_rate(base, self.optimizer, images_per_step)
        if self.weight_decay is not None:
            values["weight_decay"] = self.weight_decay
        elif self.optimizer == "sgd":
            values["weight_decay"] = SGD_WEIGHT_DECAY
        if not self.augment:
            values["augment"] = Augment()
        same = (
            "head_rate",
            "frozen_fraction",
            "optimizer",
            "schedule",
            "accumulate",
            "label_noise",
            "gradient",
            "precision",
            "seed",
        )
        return Recipe(**values, **{name: getattr(self, name) for name in same}, total_steps=total_steps)

    def preprocess(self) -> Preprocess:
        """How images become the network's input. Raises ``ConfigError``."""
        return Preprocess(size=self.input_size, resize=self.resize)


def train(config: TrainConfig) -> dict[str, Any]:
    """The model stands at ``config.out``; its version and validation metrics come back.

    Raises:
        DataError: no dataset, an empty split, or weights that do not fit.
        ConfigError: another config was begun at ``out`` (the differences are listed), or the batch does not fit the data.
    """
    dataset, out = open_dataset(config.data), Folder(config.out)
    _refuse_other_config(config, dataset, out)
    if out.is_file(CARD):
        logger.info("%s is already trained", out.uri)
        return _summary(out)
    for split in ("train", "val"):
        dataset.parts(split)
    _refuse_unlearnable(config, dataset)
    # torch takes 5-6 s to import: a mistake in the flags should not have to wait for it.
    from pix2score.model import initial_trunk
    from pix2score.train_run import run_training

    trunk = initial_trunk(config.weights, config.backbone)
    with session(gpu_wait_s=config.gpu_wait_s) as offer, recorded(out, "summary.json", {"job": "train", "out": out.uri}) as summary:
        settings = _worker_settings(config, dataset, offer)
        out.publish("config.json", _identity(config, dataset), replace=True)
        run_training(settings, dataset, trunk, as_plain(config), offer)
        summary.update(_summary(out))
    return summary


def _identity(config: TrainConfig, dataset: PreparedDataset) -> bytes:
    return json.dumps({**as_plain(config), "dataset_id": dataset.id}, indent=1).encode()


def _refuse_other_config(config: TrainConfig, dataset: PreparedDataset, out: Folder) -> None:
    try:
        begun = json.loads(out.read("config.json"))
    except (FileNotFoundError, NotADirectoryError):
        if out.is_file(CARD):
            raise DataError(f"{out.uri} holds a model that this command did not begin; give another --out") from None
        return
    except ValueError:
        begun = None
    if not isinstance(begun, dict):
        raise DataError(f"{out.full('config.json')} is not the config of a training; give another --out")
    wanted = json.loads(_identity(config, dataset))
    moved = {"out", "data", "gpu_wait_s"}  # places may be spelt differently; dataset_id says whether it is the same data
    differences = [
        f"{k}: {begun.get(k)} there, {wanted.get(k)} now"
        for k in wanted | begun
        if k not in moved and begun.get(k) != wanted.get(k)
    ]
    if differences:
        raise ConfigError(f"{out.uri} was begun with another config ({'; '.join(differences)}); give another --out")


def _worker_settings(config: TrainConfig, dataset: PreparedDataset, offer: Offer) -> WorkerSettings:
    use_gpu = offer.wants_gpu(config.device)
    least, most = config.worker_range(offer.num_gpus if use_gpu else 1)
    num_rows, num_joint = dataset.num_rows("train"), config.batch_size * max(1, most)
    steps_per_epoch = num_rows // num_joint
    if not steps_per_epoch:
        raise ConfigError(
            f"{num_rows} training rows are fewer than one batch of {config.batch_size} for each of {max(1, most)} "
            f"workers; lower --batch-size or --num-workers"
        )
    epochs = config.epochs or preset_for(config.recipe, num_rows).epochs
    total_steps = int(min(epochs * steps_per_epoch, config.max_steps or math.inf))
    return WorkerSettings(
        backbone=config.backbone,
        heads=_heads(config, dataset),
        preprocess=config.preprocess(),
        recipe=config.make_recipe(num_rows=num_rows, images_per_step=num_joint, total_steps=total_steps),
        num_workers=least,
        max_workers=most,
        use_gpu=use_gpu,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        seed=config.seed,
        out=Folder(config.out).uri,
        initial_trunk=INITIAL_TRUNK if config.weights != "none" else None,
        num_threads=max(1, offer.num_cores // max(1, most)) if not use_gpu else None,
        best_by=config.best_by,
        patience=config.patience,
        checkpoint_minutes=config.checkpoint_minutes,
    )


def _heads(config: TrainConfig, dataset: PreparedDataset) -> tuple[HeadSpec, ...]:
    """The dataset's heads with the losses asked for."""
    asked = {"bins": config.bins_loss, "levels": config.levels_loss}
    return tuple(h if asked[h.kind] == AS_PREPARED else replace(h, loss=asked[h.kind]) for h in dataset.heads)


def _refuse_unlearnable(config: TrainConfig, dataset: PreparedDataset) -> None:
    for head in dataset.heads:
        rows = sum(head.counts or ())
        if not rows:
            raise DataError(f"head {head.name!r} has no label in the train split: remove the head or map another column")
        if max(head.counts or ()) == rows:
            raise DataError(
                f"head {head.name!r}: all {rows} training labels lie in one bin of {head.num_bins}; there is nothing to learn"
            )
    names = [head.name for head in dataset.heads]
    if not is_metric(config.best_by, names):
        raise ConfigError(
            f"best_by {config.best_by!r}: expected val_loss or HEAD.METRIC with head {', '.join(names)} "
            f"and metric {', '.join((*LOWER_IS_BETTER, *HIGHER_IS_BETTER))}"
        )


def _summary(out: Folder) -> dict[str, Any]:
    card = load_card(out.uri)
    facts = {key: card.about[key] for key in ("epoch", "val_loss", "skipped_steps", "val")}
    return {"job": "train", "out": out.uri, "model_version": card.version, "backbone": card.backbone, **facts}
