"""What a training worker begins with: torch as it was asked for, network, teacher and fitter."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from ray.train.torch import get_device, prepare_model
from safetensors.torch import load as load_tensors

from pix2score.cluster.local import num_local_cores
from pix2score.model.network import MultiHeadModel
from pix2score.model.small_maps import multiply_small_maps
from pix2score.storage.folder import Folder
from pix2score.train.memory import hold_to
from pix2score.train.settings import WorkerSettings
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.objective import Objective
from pix2score.train.teaching import load_teacher


def prepare_torch(settings: WorkerSettings) -> None:
    """Threads, memory and seed of this process."""
    if settings.num_threads:
        torch.set_num_threads(min(settings.num_threads, num_local_cores()))
    if settings.memory_budget:
        hold_to(settings.memory_budget, get_device())
    torch.manual_seed(settings.seed)


def build_fitter(settings: WorkerSettings, batch_rows: int) -> Fitter:
    """The network at its start, and what moves it; ``batch_rows`` of a step on this worker."""
    model = MultiHeadModel(
        settings.backbone,
        settings.heads,
        size=settings.preprocess.size,
        hidden=settings.hidden,
        drop_path=settings.drop_path,
        embedding_dtype=settings.embedding_dtype,
    )
    model.start_at_prior(settings.heads)
    if settings.initial_trunk:
        initial = load_tensors(Folder(settings.out).read(settings.initial_trunk))
        model.trunk.load_state_dict(initial, strict=False)  # checked when it was written
    if settings.freeze == "trunk":
        model.trunk.requires_grad_(False)
    elif get_device().type == "cpu":
        multiply_small_maps(model.trunk)
    network = prepare_model(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    # Fewer workers than at most: each takes more of the same joint batch, in pieces of the size that fits.
    # So do rows of many images.
    of_images = max(1, round(settings.images_per_row))
    pieces = settings.recipe.accumulate * math.ceil(batch_rows / settings.batch_size) * of_images
    recipe = replace(settings.recipe, accumulate=pieces)
    objective = _objective(settings)
    return Fitter(network, settings.heads, settings.preprocess, recipe, get_device(), objective)


def _objective(settings: WorkerSettings) -> Objective:
    plan, place = settings.resampling, settings.teacher
    return Objective(
        settings.heads,
        resampled=plan.head if plan else None,
        teacher=load_teacher(place, settings.heads, settings.preprocess, get_device()) if place else None,
    )
