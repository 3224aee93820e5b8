"""train: a prepared dataset becomes a model, by Ray Train on as many workers as asked for.

Owns the model folder while it grows:

    model.json, model.safetensors   written last, from the best epoch by validation loss
    config.json                     the resolved config, written first: the same command again resumes, another config is refused
    checkpoints/                    Ray Train's, one per epoch
    history.jsonl, tensorboard/     one entry per epoch
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from typing import Any

from pix2score.account import recorded
from pix2score.artifact import CARD, check_backbone, load_card
from pix2score.cluster import Device, Offer, session
from pix2score.command import as_plain
from pix2score.dataset import PreparedDataset, open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.images import Preprocess
from pix2score.recipe import INITIAL_TRUNK, Recipe, WorkerSettings
from pix2score.storage import Folder

logger = logging.getLogger(__name__)


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
    epochs: int = 10
    """Passes over the train split."""
    batch_size: int = 64
    """Images per step and worker."""
    learning_rate: float = 1e-3
    """Top rate of AdamW, for the batch of all workers together."""
    weight_decay: float = 0.05
    """Of kernels and matrices."""
    max_steps: int | None = None
    """Stop after this many steps in all."""
    num_workers: int | None = None
    """Data-parallel workers (default: the cluster's GPUs, else 1)."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""
    seed: int = 0
    """Of initial weights and order."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        self.preprocess()
        for name in ("epochs", "batch_size", "num_workers", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate {self.learning_rate}: expected a positive number")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"weight_decay {self.weight_decay}: expected 0 or more")

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
    num_workers = config.num_workers or (offer.num_gpus if use_gpu else 1)
    steps_per_epoch = dataset.num_rows("train") // num_workers // config.batch_size
    if not steps_per_epoch:
        raise ConfigError(
            f"{dataset.num_rows('train')} training rows are fewer than one batch of {config.batch_size} for each of {num_workers} "
            f"workers; lower --batch-size or --num-workers"
        )
    total_steps = min(config.epochs * steps_per_epoch, config.max_steps or math.inf)
    return WorkerSettings(
        backbone=config.backbone,
        heads=dataset.heads,
        preprocess=config.preprocess(),
        recipe=Recipe(learning_rate=config.learning_rate, weight_decay=config.weight_decay, total_steps=int(total_steps)),
        num_workers=num_workers,
        use_gpu=use_gpu,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        seed=config.seed,
        out=Folder(config.out).uri,
        initial_trunk=INITIAL_TRUNK if config.weights != "none" else None,
        num_threads=max(1, offer.num_cores // num_workers) if not use_gpu else None,
    )


def _summary(out: Folder) -> dict[str, Any]:
    card = load_card(out.uri)
    facts = {key: card.about[key] for key in ("epoch", "val_loss", "skipped_steps", "val")}
    return {"job": "train", "out": out.uri, "model_version": card.version, "backbone": card.backbone, **facts}
