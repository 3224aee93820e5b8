"""model: the bare forward pass on ready pixels, by this package's engines and by torch as it comes.

Batch by batch, in turns."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pix2score.cli.packages import missing
from pix2score.heads.presets import preset
from pix2score.host.cores import num_cores
from pix2score.images.preprocess import Preprocess
from pix2score.model.admission import Narrow
from pix2score.model.backbones import wanted_input
from pix2score.model.card import ModelCard
from pix2score.model.folder import Weights, save_model
from pix2score.model.forward_torch import HALF
from pix2score.model.graph import export_graph, graph_or_none
from pix2score.model.network import MultiHeadModel, normalise, weights_of
from pix2score.model.networks import model_from_card
from pix2score.model.predictor import Predictor, Runtime
from pix2score.model.trunk_graph import trunk_of
from pix2score.serve.engines import trunk_in_int8

USUAL = "predictor, onnx"
CALIBRATION = 8  # pictures that give ranges of 8 bits: speed does not depend on them
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
    cpu_ms: float
    """CPU time of this process for an image."""
    times: float
    """How many times as fast as the CPU's usual way, by CPU time; on a GPU as the bare pass, by the clock."""


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


def time_model(
    backbone: str, size: int, batch_size: int, rounds: int, *, narrow: bool = True
) -> list[ModelTiming]:
    """Run every way on the same batch, in turns; return a timing for each.

    ``narrow``: on a CPU, engines of fewer bits too.
    """
    card, weights = random_model(backbone, size)
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    ways = (
        _gpu_ways(card, weights, pixels)
        if torch.cuda.is_available()
        else _cpu_ways(card, weights, pixels, narrow=narrow)
    )
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            way()
            clocks[name].append((time.perf_counter() - start, time.process_time() - cpu))
    usual = np.median(clocks[USUAL if USUAL in ways else next(iter(ways))], axis=0)
    return [_timing(name, batch_size, np.array(found), usual) for name, found in clocks.items()]


def _timing(way: str, batch_size: int, clocks_R2: Any, usual_2: Any) -> ModelTiming:
    """``clocks_R2``: seconds and CPU seconds of every round; ``usual_2``: medians of the usual way."""
    rates, medians = batch_size / clocks_R2[:, 0], np.median(clocks_R2, axis=0)
    by = 0 if torch.cuda.is_available() else 1
    return ModelTiming(
        way=way,
        images_per_s=round(float(np.median(rates)), 1),
        slowest=round(float(rates.min()), 1),
        fastest=round(float(rates.max()), 1),
        cpu_ms=round(float(medians[1]) * 1000 / batch_size, 2),
        times=round(float(usual_2[by] / medians[by]), 2),
    )


def _cpu_ways(
    card: ModelCard, weights: Weights, pixels: Any, *, narrow: bool
) -> dict[str, Callable[[], object]]:
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
    further = _narrow_ways(card, weights, pixels, cores) if narrow else {}
    return {
        "torch, eager": lambda: _forward(network, ready),
        "torch, eager, channels_last": lambda: _forward(last, ready_last),
        "predictor, torch": lambda: plain.predict(pixels),
        USUAL: lambda: onnx.predict(pixels),
        **{name: functools.partial(predictor.predict, pixels) for name, predictor in further.items()},
    }


def _narrow_ways(card: ModelCard, weights: Weights, pixels: Any, cores: int) -> dict[str, Predictor]:
    """Engines of fewer bits, whatever this CPU has, by each runtime that is installed."""
    graph = export_graph(card)
    graphs: dict[Narrow, bytes] = {
        "int8": trunk_in_int8(trunk_of(graph, weights), pixels[:CALIBRATION]),
        "bf16": graph,
    }
    runtimes: list[Runtime] = ["onnxruntime", *([] if missing(["openvino"]) else ["openvino"])]  # type: ignore[list-item]
    return {
        f"predictor, {engine} by {runtime}": Predictor(
            card,
            weights,
            batch_size=len(pixels),
            num_threads=cores,
            engine=engine,
            runtime=runtime,
            graph=graphs[engine],
        )
        for engine in graphs
        for runtime in runtimes
        if (engine, runtime) != ("bf16", "onnxruntime")
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
