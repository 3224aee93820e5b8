"""train: a prepared dataset becomes a model, by Ray Train on as many workers as asked for.

Owns the model folder while it grows:

    model.json, model.safetensors   written last, from the best epoch by validation loss
    config.json                     the resolved config, written first: the same command again resumes, another config is refused
    checkpoints/                    Ray Train's, one per epoch
    history.jsonl, tensorboard/     one entry per epoch
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.data import ExecutionOptions
from ray.train import CheckpointConfig, DataConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pix2score.account import recorded
from pix2score.artifact import CARD, load_card, save_model
from pix2score.cluster import Device, Offer, session
from pix2score.command import as_plain
from pix2score.dataset import PreparedDataset, decode_shard, open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.fetch import ParquetParts, total_rows
from pix2score.fit import Recipe
from pix2score.heads import HeadSpec
from pix2score.images import Preprocess
from pix2score.model import check_backbone, initial_trunk
from pix2score.plan import Part
from pix2score.progress import Board, board
from pix2score.storage import Folder
from pix2score.train_worker import CHECKPOINT, WorkerSettings, read_checkpoint, train_worker

logger = logging.getLogger(__name__)

PACKAGES = ("pix2score", "torch", "torchvision", "ray", "pillow", "numpy")


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
    parts = {split: dataset.parts(split) for split in ("train", "val")}
    trunk = initial_trunk(config.weights, config.backbone)
    with session() as offer, recorded(out, "summary.json", {"job": "train", "out": out.uri}) as summary:
        settings = _worker_settings(config, dataset, out, offer)
        out.publish("config.json", _identity(config, dataset), replace=True)
        if trunk is not None:
            torch_bytes = _as_safetensors(trunk)
            out.publish("initial.safetensors", torch_bytes, replace=True)
        result = _fit(config, dataset, parts, settings, out, offer)
        _save_best(config, dataset, settings, result, out)
        summary.update(_summary(out))
    return summary


def _identity(config: TrainConfig, dataset: PreparedDataset) -> bytes:
    return json.dumps({**as_plain(config), "dataset_id": dataset.id}, indent=1).encode()


def _refuse_other_config(config: TrainConfig, dataset: PreparedDataset, out: Folder) -> None:
    try:
        begun = json.loads(out.read("config.json"))
    except (FileNotFoundError, NotADirectoryError):
        return
    wanted = json.loads(_identity(config, dataset))
    moved = {"out", "data"}  # places may be spelt differently; dataset_id says whether it is the same data
    differences = [
        f"{k}: {begun.get(k)} there, {wanted.get(k)} now"
        for k in wanted | begun
        if k not in moved and begun.get(k) != wanted.get(k)
    ]
    if differences:
        raise ConfigError(f"{out.uri} was begun with another config ({'; '.join(differences)}); give another --out")


def _worker_settings(config: TrainConfig, dataset: PreparedDataset, out: Folder, offer: Offer) -> WorkerSettings:
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
        out=out.uri,
        initial_trunk="initial.safetensors" if config.weights != "none" else None,
        num_threads=max(1, offer.num_cores // num_workers) if not use_gpu else None,
    )


def _as_safetensors(tensors: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def training_rows(
    dataset: PreparedDataset,
    parts: Sequence[Part],
    heads: Sequence[HeadSpec],
    preprocess: Preprocess,
    offer: Offer,
    pad_rows: int = 0,
) -> ray.data.Dataset:
    """read -> decode: shards as pixels and labels, in blocks that CPU tasks make."""
    row_bytes = 40_000  # a prepared image of 256 px
    return ray.data.read_datasource(ParquetParts(dataset.folder, parts, row_bytes=row_bytes, pad_rows=pad_rows)).map_batches(
        decode_shard,
        fn_kwargs={"heads": tuple(heads), "preprocess": preprocess},
        batch_format="pyarrow",
        batch_size=256,
        compute=offer.one_task_per_core(),
        num_cpus=1,
    )


def _fit(
    config: TrainConfig,
    dataset: PreparedDataset,
    parts: dict[str, list[Part]],
    settings: WorkerSettings,
    out: Folder,
    offer: Offer,
) -> Result:
    total_steps = settings.recipe.total_steps
    logger.info(
        "training %s on %d images, %d steps of %d x %d", config.backbone, dataset.num_rows("train"), total_steps,
        settings.num_workers, config.batch_size,
    )  # fmt: skip
    odd = total_rows(parts["val"]) % settings.num_workers
    rows = {
        "train": training_rows(dataset, parts["train"], dataset.heads, settings.preprocess, offer),
        # An even split over workers drops the remainder: padding rows make it lose none.
        "val": training_rows(
            dataset, parts["val"], dataset.heads, settings.preprocess, offer, (settings.num_workers - odd) if odd else 0
        ),
    }
    with board("trained", total_steps, logger) as progress:
        return _trainer(settings, rows, out, progress).fit()


def _trainer(settings: WorkerSettings, rows: dict[str, ray.data.Dataset], out: Folder, progress: Board) -> TorchTrainer:
    return TorchTrainer(
        train_worker,
        train_loop_config={"settings": settings, "progress": progress},
        scaling_config=ScalingConfig(num_workers=settings.num_workers, use_gpu=settings.use_gpu),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=out.uri,
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="val_loss", checkpoint_score_order="min"),
        ),
        datasets=rows,  # type: ignore[arg-type]
        dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),  # same seed, same order
    )


def _save_best(config: TrainConfig, dataset: PreparedDataset, settings: WorkerSettings, result: Result, out: Folder) -> None:
    """The model of the epoch with the least validation loss."""
    checkpoints = result.best_checkpoints or []
    if not checkpoints:
        raise DataError(f"training at {out.uri} left no checkpoint")
    checkpoint, metrics = min(checkpoints, key=lambda pair: (not math.isfinite(pair[1]["val_loss"]), pair[1]["val_loss"]))
    state = read_checkpoint(checkpoint)
    tensors = state["fitter"]["model"]
    last = state["history"][-1]
    about = {
        "val": last["val"],
        "epoch": last["epoch"],
        "val_loss": metrics["val_loss"],
        "skipped_steps": state["fitter"]["num_skipped"],
        "config": as_plain(config),
        "dataset": {"uri": dataset.folder.uri, "id": dataset.id, "rows": dataset.card["rows"]},
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
    }
    save_model(
        out.uri,
        {name: tensor.cpu().numpy() for name, tensor in tensors.items()},
        backbone=config.backbone,
        heads=dataset.heads,
        preprocess=settings.preprocess,
        embedding_dim=state["embedding_dim"],
        temperatures=last["temperatures"],
        about=about,
    )


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _summary(out: Folder) -> dict[str, Any]:
    card = load_card(out.uri)
    facts = {key: card.about[key] for key in ("epoch", "val_loss", "skipped_steps", "val")}
    return {"job": "train", "out": out.uri, "model_version": card.version, "backbone": card.backbone, **facts}


__all__ = ["CHECKPOINT", "TrainConfig", "train", "training_rows"]
