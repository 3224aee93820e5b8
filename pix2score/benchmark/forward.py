"""model: the bare forward pass on ready pixels, by this package's engines and by torch as it comes.

Batch by batch, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pix2score.heads.presets import preset
from pix2score.host.cores import num_cores
from pix2score.images.preprocess import Preprocess
from pix2score.model.backbones import wanted_input
from pix2score.model.folder import ModelCard, Weights, save_model
from pix2score.model.forward_torch import HALF
from pix2score.model.graph import graph_or_none
from pix2score.model.network import MultiHeadModel, normalise, weights_of
from pix2score.model.networks import model_from_card
from pix2score.model.predictor import Predictor

RESIDUAL_GAIN = 0.2  # of a block's last BatchNorm: with 1, the sums of 33 random blocks leave float16


@dataclass(frozen=True, slots=True)
class ModelTiming:
    """One way through the network: images per second of the whole machine or its GPU.

    Median and spread over rounds.
    """

    way: str
    images_per_s: float
    slowest: float
    fastest: float


def random_model(backbone: str, size: int, out: str = "") -> tuple[ModelCard, Weights]:
    """A network with random weights, saved at ``out`` if given.

    As fast as a trained one, and its output as finite.
    """
    torch.manual_seed(0)
    heads = tuple(
        head.fitted(edges=head.edges, counts=(1,) * head.num_bins, typical=range(head.num_bins))
        for head in preset("pixiv")
    )
    network = MultiHeadModel(backbone, heads, size=size)
    last = ".bn3.weight" if any(".bn3." in name for name, _ in network.named_parameters()) else ".bn2.weight"
    for name, gain in network.named_parameters():
        if name.endswith(last):
            torch.nn.init.constant_(gain, RESIDUAL_GAIN)
    wanted = wanted_input(backbone)
    preprocess = Preprocess(size=size, mean=wanted.mean, std=wanted.std)
    facts: dict[str, Any] = {"backbone": backbone, "heads": heads, "preprocess": preprocess}
    facts |= {"embedding_dim": network.embedding_dim, "temperatures": {head.name: 1.0 for head in heads}}
    weights = weights_of(network)
    if out:
        return save_model(out, weights, **facts, about={}, graph=graph_or_none), weights
    return ModelCard(**facts, weights_sha256=""), weights


def time_model(backbone: str, size: int, batch_size: int, rounds: int) -> list[ModelTiming]:
    """Run every way on the same batch, in turns; return a timing for each."""
    card, weights = random_model(backbone, size)
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    ways = _gpu_ways(card, weights, pixels) if torch.cuda.is_available() else _cpu_ways(card, weights, pixels)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    rates = {name: batch_size / np.array(values) for name, values in seconds.items()}
    return [
        ModelTiming(name, *(round(float(value), 1) for value in (np.median(rate), rate.min(), rate.max())))
        for name, rate in rates.items()
    ]


def _cpu_ways(card: ModelCard, weights: Weights, pixels: Any) -> dict[str, Callable[[], object]]:
    cores = num_cores()
    torch.set_num_threads(cores)
    network = model_from_card(card, weights)
    ready = normalise(torch.from_numpy(pixels), card.preprocess).contiguous()
    onnx, plain = (
        Predictor(card, weights, batch_size=len(pixels), engine=engine, num_threads=cores)
        for engine in ("onnx", "torch")
    )
    last = model_from_card(card, weights).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ready_last = ready.contiguous(memory_format=torch.channels_last)
    return {
        "torch, eager": lambda: _forward(network, ready),
        "torch, eager, channels_last": lambda: _forward(last, ready_last),
        "predictor, torch": lambda: plain.predict(pixels),
        "predictor, onnx": lambda: onnx.predict(pixels),
    }


def _gpu_ways(card: ModelCard, weights: Weights, pixels: Any) -> dict[str, Callable[[], object]]:
    """The predictor goes from pixels in memory to answers there, the bare passes begin and end on the GPU."""
    network = model_from_card(card, weights).cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ready = normalise(torch.from_numpy(pixels).cuda(), card.preprocess)
    compiled = torch.compile(network)
    predictors = {
        c: Predictor(card, weights, batch_size=len(pixels), device="cuda", compiled=c) for c in (False, True)
    }
    return {
        "bare, half": lambda: _forward(network, ready, half=True),
        "bare, half, compiled": lambda: _forward(compiled, ready, half=True),
        "predictor": lambda: predictors[False].predict(pixels),
        "predictor, compiled": lambda: predictors[True].predict(pixels),
    }


@torch.inference_mode()
def _forward(network: Any, ready: torch.Tensor, *, half: bool = False) -> object:
    with torch.autocast("cuda", dtype=HALF, enabled=half):
        answer: object = network(ready)
    if ready.is_cuda:
        torch.cuda.synchronize()
    return answer
