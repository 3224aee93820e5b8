"""train: a prepared dataset becomes a model, by Ray Train on as many workers as asked for.

Owns the model folder while it grows:

    model.json, model.safetensors, model.onnx
                                    written last, from the best epoch by validation loss
    config.json                     the resolved config, written first: the same command again resumes,
                                    another config is refused
    checkpoints/                    Ray Train's, one per epoch and every M minutes; each holds the best
                                    model so far
    history.jsonl, tensorboard/     one entry per epoch
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import cast

from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.cluster.local import is_local
from pix2score.cluster.offer import Offer
from pix2score.cluster.session import session
from pix2score.dataset.card import PreparedDataset, open_dataset
from pix2score.errors import ConfigError
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.kinds import is_metric, metrics_to_rank_by
from pix2score.model.card import CARD, load_card
from pix2score.storage.folder import Folder
from pix2score.summaries import TrainSummary
from pix2score.train.config import TrainConfig
from pix2score.train.identity import identity, refuse_other_config
from pix2score.train.memory import parse_budget
from pix2score.train.options import Options, find_options
from pix2score.train.recipes import (
    default_epochs,
    make_recipe,
    stops_after,
    unused_where_outputs_are_solved,
)
from pix2score.train.settings import INITIAL_TRUNK, WorkerSettings

logger = logging.getLogger(__name__)

__all__ = ["TrainConfig", "train"]


def train(config: TrainConfig) -> TrainSummary:
    """Train the model at ``config.out``, or go on with it; return its version and validation metrics.

    Raises:
        DataError: no dataset, an empty split, no teacher, or weights that do not fit.
        ConfigError: another config was begun at ``out`` (the differences are listed), or the batch or an
            option does not fit the data.
    """
    dataset, out = open_dataset(config.data), Folder(config.out)
    refuse_other_config(config, dataset, out)
    if out.is_file(CARD):
        logger.info("%s is already trained", out.uri)
        return _summary(out)
    for split in ("train", "val"):
        dataset.parts(split)
    _refuse_unlearnable(config, dataset)
    options = find_options(config, dataset)
    # torch takes 5-6 s to import: a mistake in the flags should not have to wait for it.
    from pix2score.model.initial import initial_trunk
    from pix2score.train.run import run_training

    trunk = initial_trunk(config.weights, config.backbone, config.input_size)
    with (
        session(gpu_wait_s=config.gpu_wait_s) as offer,
        recorded(out, "summary.json", {"job": "train", "out": out.uri}) as summary,
    ):
        settings = worker_settings(config, dataset, options, offer)
        out.publish("config.json", identity(config, dataset), replace=True)
        run_training(settings, dataset, options.unlabelled, trunk, as_plain(config), offer)
        summary.update(_summary(out))
    return cast("TrainSummary", summary)


def worker_settings(
    config: TrainConfig, dataset: PreparedDataset, options: Options, offer: Offer
) -> WorkerSettings:
    """What the workers of a training are given. Raises ``ConfigError`` where a batch is too large."""
    use_gpu = offer.wants_gpu(config.device)
    least, most = config.worker_range(_default_workers(Folder(config.out), offer, use_gpu))
    num_rows, num_joint = options.num_rows(dataset), config.batch_size * max(1, most)
    steps_per_epoch = options.epoch_rows(dataset) // num_joint
    if not steps_per_epoch:
        raise ConfigError(
            f"{num_rows} training rows are fewer than one batch of {config.batch_size} for each of "
            f"{max(1, most)} workers; lower --batch-size or --num-workers"
        )
    usual_epochs = default_epochs(config, num_rows)
    if config.solves_outputs:
        from pix2score.train.step.probe import NUM_STRENGTHS  # imports torch

        _say_unused(config)
        usual_epochs, steps_per_epoch = NUM_STRENGTHS, 1
    epochs = config.epochs or usual_epochs
    total_steps = int(min(epochs * steps_per_epoch, config.max_steps or math.inf))
    recipe = make_recipe(
        config,
        num_rows=num_rows,
        images_per_step=num_joint,
        total_steps=total_steps,
        num_epochs=-(-total_steps // steps_per_epoch),
    )
    return WorkerSettings(
        backbone=config.backbone,
        heads=options.heads,
        preprocess=config.preprocess(),
        recipe=recipe,
        num_workers=least,
        max_workers=most,
        use_gpu=use_gpu,
        cpus_per_worker=config.cpus_per_worker,
        shuffle_mib=config.shuffle_mib,
        cache_mib=config.cache_mib,
        batch_size=config.batch_size,
        images_per_row=dataset.images_per_row("train"),
        steps_per_epoch=steps_per_epoch,
        seed=config.seed,
        out=Folder(config.out).uri,
        initial_trunk=INITIAL_TRUNK if config.weights != "none" else None,
        num_threads=None if use_gpu else config.cpus_per_worker or max(1, offer.num_cores // max(1, most)),
        best_by=config.best_by,
        patience=stops_after(config, num_rows),
        checkpoint_minutes=config.checkpoint_minutes,
        memory_budget=_memory_budget(config, use_gpu),
        freeze=config.freeze,
        solves_outputs=config.solves_outputs,
        begins_solved=config.begins_solved(num_rows),
        hidden=config.hidden,
        embedding_dtype=config.embedding_dtype,
        drop_path=config.drop_path,
        resampling=options.resampling,
        teacher=options.teacher,
        has_unlabelled=options.unlabelled is not None,
    )


def _say_unused(config: TrainConfig) -> None:
    if unused := unused_where_outputs_are_solved(config):
        logger.warning(
            "freeze trunk: the outputs are solved, and take no steps; %s: without effect (but with hidden)",
            ", ".join(unused),
        )


def _memory_budget(config: TrainConfig, use_gpu: bool) -> int | None:
    if config.memory is None:
        return None
    if not use_gpu:
        raise ConfigError(
            f"memory {config.memory}: holds workers on GPUs, and this run has none; a smaller batch_size, or "
            "accumulate, takes less memory"
        )
    return parse_budget(config.memory)


def _default_workers(out: Folder, offer: Offer, use_gpu: bool) -> int:
    """One for each GPU. Without any: one, but none on one machine.

    There a worker, and Ray's actors beside it, would take from the cores.
    """
    from pix2score.train.checkpoint import OF_WORKERS

    if use_gpu:
        return offer.num_gpus
    return 0 if is_local() and not out.is_file(OF_WORKERS) else 1


def _refuse_unlearnable(config: TrainConfig, dataset: PreparedDataset) -> None:
    for head in dataset.heads:
        head.check_learnable()
    if not is_metric(config.best_by, dataset.heads):
        raise ConfigError(
            f"best_by {config.best_by!r}: expected val_loss or HEAD.METRIC with {_metrics_of(dataset.heads)}"
        )


def _metrics_of(heads: Sequence[HeadSpec]) -> str:
    """``head a, b and metric nll, rps; or head c and metric mae``."""
    names: dict[tuple[str, ...], list[str]] = {}
    for head in heads:
        names.setdefault(metrics_to_rank_by(head), []).append(head.name)
    return "; or ".join(f"head {', '.join(of)} and metric {', '.join(m)}" for m, of in names.items())


def _summary(out: Folder) -> TrainSummary:
    card = load_card(out.uri)
    facts = {key: card.about[key] for key in ("epoch", "val_loss", "skipped_steps", "val")}
    facts |= {"teacher": card.about["teacher"]} if "teacher" in card.about else {}
    found = {"job": "train", "out": out.uri, "model_version": card.version, "backbone": card.backbone}
    return cast("TrainSummary", found | facts)
