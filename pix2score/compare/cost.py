"""What a trained model costs: its size and arithmetic, and the time and memory that its training took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pix2score.model.card import ModelCard
from pix2score.storage.folder import Folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one model, or of a run's models on average."""

    parameters_m: float
    """Millions, heads included."""
    gflops: float
    """Of one picture forward, in 1e9 multiplications and additions: a multiply-add counts as two.
    Convolutions, matrix products and attention, as ``torch.utils.flop_counter`` counts them."""
    train_images_per_s: float | None
    """Of the training steps: images over seconds, all workers together; with a frozen trunk, looks at
    embeddings."""
    train_seconds: float
    """Of the training steps, without validation and start-up, whichever calls they were made in."""
    peak_memory_mib: float | None
    """Most that a worker took of its GPU; None on a CPU, where a process has other things in memory too."""
    epochs: int | float

    def to_dict(self) -> dict[str, Any]:
        """As files hold it."""
        return asdict(self)


def cost_of(model: str, card: ModelCard, *, use_gpu: bool) -> Cost:
    """What the model at ``model`` costs; ``use_gpu``: whether it was trained on one."""
    parameters, flops = size_and_flops(card)
    history = read_history(model)
    seconds = [entry["seconds"] for entry in history]
    images = [entry.get("images_per_s", 0.0) * entry["seconds"] for entry in history]
    peaks = [entry["peak_memory_mib"] for entry in history if "peak_memory_mib" in entry]
    return Cost(
        parameters_m=parameters / 1e6,
        gflops=flops / 1e9,
        train_images_per_s=sum(images) / sum(seconds) if sum(seconds) else None,
        train_seconds=sum(seconds),
        peak_memory_mib=max(peaks) if use_gpu and peaks else None,
        epochs=len(history),
    )


def size_and_flops(card: ModelCard) -> tuple[int, int]:
    """Number of parameters, and of multiplications and additions for one picture at the model's size.

    Computes shapes alone, without memory for weights.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pix2score.model.networks import network_of_card

    with torch.device("meta"), torch.no_grad():
        network, size = network_of_card(card).eval(), card.preprocess.size
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, size, size))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()


def read_history(model: str) -> list[dict[str, Any]]:
    """history.jsonl of the training at ``model``, an entry for each epoch; none without the file."""
    try:
        lines = Folder(model).read("history.jsonl").decode().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def mean_cost(records: Sequence[Mapping[str, Any]]) -> Cost:
    """Of a run's models, at least one: means, but the most memory that any took."""
    peaks = [record["peak_memory_mib"] for record in records if record["peak_memory_mib"] is not None]
    rates = [r["train_images_per_s"] for r in records if r["train_images_per_s"] is not None]
    return Cost(
        parameters_m=records[0]["parameters_m"],
        gflops=records[0]["gflops"],
        train_images_per_s=float(np.mean(rates)) if rates else None,
        train_seconds=float(np.mean([record["train_seconds"] for record in records])),
        peak_memory_mib=max(peaks) if peaks else None,
        epochs=float(np.mean([record["epochs"] for record in records])),
    )
