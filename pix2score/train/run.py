"""One training run on Ray Train: the trainer, and the model made from its best checkpoint."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import ray
import torch
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.data import ExecutionOptions
from ray.train import CheckpointConfig, DataConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pix2score.cli.packages import versions
from pix2score.cluster.alike import expected
from pix2score.cluster.offer import Offer
from pix2score.cluster.progress import Board, board
from pix2score.dataset.card import PreparedDataset
from pix2score.errors import TrainingError
from pix2score.host import termination
from pix2score.model.backbones import wanted_input
from pix2score.model.folder import save_model
from pix2score.model.graph import graph_or_none
from pix2score.storage.folder import Folder
from pix2score.storage.places import is_remote, is_s3
from pix2score.train.checkpoint import IN_PROCESS, SavedState, parse_state, read_checkpoint, run_state
from pix2score.train.history import BestModel, EpochEntry
from pix2score.train.rows import training_rows
from pix2score.train.settings import INITIAL_TRUNK, WorkerSettings
from pix2score.train.worker import train_worker

logger = logging.getLogger(__name__)

PACKAGES = ("pix2score", "torch", "torchvision", "timm", "ray", "pillow", "numpy")


def run_training(
    settings: WorkerSettings,
    dataset: PreparedDataset,
    unlabelled: PreparedDataset | None,
    trunk: dict[str, torch.Tensor] | None,
    config: dict[str, Any],
    offer: Offer,
) -> None:
    """Train, and write the model of the best epoch to ``settings.out``.

    ``config`` is what its card will say of the settings.

    ``unlabelled``: a dataset whose pictures are mixed into the train split, for a teacher to answer.

    ``trunk``: weights that the trunk starts from, None for random ones.
    """
    out = Folder(settings.out)
    if trunk is not None:
        out.publish(INITIAL_TRUNK, _as_safetensors(trunk), replace=True)
    result = _fit(settings, dataset, unlabelled, out, offer)
    _save_best(settings, dataset, config, result, out)


def _as_safetensors(tensors: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _fit(
    settings: WorkerSettings,
    dataset: PreparedDataset,
    unlabelled: PreparedDataset | None,
    out: Folder,
    offer: Offer,
) -> Result:
    total_steps = settings.recipe.total_steps
    logger.info(
        "training %s on %d images, %d steps of %d x %d",
        settings.backbone,
        dataset.num_images("train"),
        total_steps,
        max(1, settings.max_workers),
        settings.batch_size,
    )
    if unlabelled:
        labelled, others = dataset.num_images("train"), unlabelled.num_rows("train")
        logger.info(
            "mixing in %d unlabelled images: on average %.1f of the %d of a step have labels",
            *(others, settings.images_per_step * labelled / (labelled + others), settings.images_per_step),
        )
    rows = training_rows(dataset, settings, offer, unlabelled)
    if settings.num_workers == 0:
        logger.info("training in this process")
    else:
        logger.info("starting %s worker(s): some 20 s until the first step", _worker_range(settings))
    with termination.interruptible(), board("trained", total_steps, logger) as progress:
        return _trainer(settings, rows, out, progress).fit()


def _trainer(
    settings: WorkerSettings, rows: dict[str, ray.data.Dataset], out: Folder, progress: Board
) -> TorchTrainer:
    return TorchTrainer(
        train_worker,
        train_loop_config={"settings": settings, "progress": progress, "versions": expected()},
        scaling_config=ScalingConfig(
            num_workers=_worker_range(settings),
            use_gpu=settings.use_gpu,
            resources_per_worker=_resources(settings),
        ),
        run_config=RunConfig(
            name="checkpoints",
            **_storage(out),
            # Nodes that are taken away are not failures: a run on spot machines goes on for as long as there
            # are others.
            failure_config=FailureConfig(max_failures=3, max_preemption_failures=-1),
            checkpoint_config=CheckpointConfig(num_to_keep=2),  # each holds the best model so far
        ),
        datasets=rows,  # type: ignore[arg-type]
        # Same seed, same order.
        dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
    )


def _storage(out: Folder) -> dict[str, Any]:
    """Where Ray Train keeps checkpoints: on a disk or S3 by Arrow's own clients, in other stores by ours."""
    if is_s3(out.uri) or not is_remote(out.uri):
        return {"storage_path": out.uri}
    path = out.fs._strip_protocol(out.uri)
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(out.fs))}


def _resources(settings: WorkerSettings) -> dict[str, float] | None:
    if settings.cpus_per_worker is None:
        return None
    return {"CPU": float(settings.cpus_per_worker), "GPU": float(settings.use_gpu)}


def _worker_range(settings: WorkerSettings) -> int | tuple[int, int]:
    if settings.max_workers > max(1, settings.num_workers):
        return (settings.num_workers, settings.max_workers)
    return settings.num_workers


def _last_state(settings: WorkerSettings, result: Result, out: Folder) -> SavedState:
    if settings.num_workers == 0:
        return parse_state(out.read(IN_PROCESS))
    if result.checkpoint is None:
        raise TrainingError(f"training at {out.uri} left no checkpoint")
    return read_checkpoint(result.checkpoint)


def _save_best(
    settings: WorkerSettings, dataset: PreparedDataset, config: dict[str, Any], result: Result, out: Folder
) -> None:
    """Write the model of the best epoch, by the metric of ``settings.best_by``."""
    state = _last_state(settings, result, out)
    run, best = run_state(state), _best(state, out)
    about = {
        **_facts(best["entry"]),
        "best_by": settings.best_by,
        "ridge_spearman": run.ridge,
        "skipped_steps": state["fitter"]["num_skipped"],
        "config": config,
        "recipe": asdict(settings.recipe),
        "made_for": asdict(wanted_input(settings.backbone)),
        "dataset": {"uri": dataset.folder.uri, "id": dataset.id, "rows": dataset.card["rows"]},
        "columns": dataset.card["config"]["columns"],
        "packages": versions(PACKAGES),
        **({"teacher": settings.teacher.to_dict()} if settings.teacher else {}),
    }
    save_model(
        out.uri,
        {name: tensor.cpu().numpy() for name, tensor in best["weights"].items()},
        backbone=settings.backbone,
        heads=settings.heads,
        preprocess=settings.preprocess,
        embedding_dim=state["embedding_dim"],
        temperatures=best["entry"]["temperatures"],
        calibrations=best["entry"].get("calibrations", {}),
        about=about,
        hidden=settings.hidden,
        embedding_dtype=settings.embedding_dtype,
        graph=graph_or_none,
    )


def _best(state: SavedState, out: Folder) -> BestModel:
    """The best model of a run. Raises ``TrainingError`` if there is none."""
    fitter, best = state["fitter"], run_state(state).best
    if fitter["num_skipped"] == fitter["num_steps"]:
        raise TrainingError(
            f"every one of {fitter['num_steps']} steps at {out.uri} was skipped as non-finite: nothing was "
            "learnt"
        )
    if best is None:
        raise TrainingError(f"no epoch at {out.uri} left a model whose weights are all finite")
    return best


def _facts(entry: EpochEntry) -> dict[str, Any]:
    return {"val": entry["val"], "epoch": entry["epoch"], "val_loss": entry["val_loss"]}
