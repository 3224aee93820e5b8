"""What people look at while a model trains: epoch lines, history.jsonl, TensorBoard.

Written by the first worker, beside the model.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tensorboardX import SummaryWriter
from torch import Tensor

from pix2score.cli.tables import aligned
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.kinds import loss_metric, main_metric
from pix2score.storage.folder import Folder
from pix2score.train.history import EpochEntry

EVENTS = "tensorboard/events.out.tfevents.0.pix2score"
_WEIGHTS = {"averaged": "averaged weights", "last": "the weights of its last step"}
LEAST_WAIT_TOLD = 0.05
"""Share of an epoch's seconds without a batch from which on it is told."""
CURVE_POINTS = 1000
"""Of the loss by step, at most: a curve is looked at, not searched."""


def epoch_line(entry: EpochEntry, num_epochs: int, heads: Sequence[HeadSpec]) -> str:
    """One epoch for people. Of losses 1 is the constant answer; those of heads are in history.jsonl."""
    loss = "none" if entry["loss"] is None else f"{entry['loss']:.3f}"
    skipped = f", {entry['skipped_steps']} steps skipped as non-finite" if entry["skipped_steps"] else ""
    kept = ", ".join(f"{name} {value:.3g}" for name, value in entry.get("penalties", {}).items())
    pace = f"penalties {kept}" if kept else f"rate {entry['learning_rate']:.2g}"
    waited = entry["waited_s"] / max(entry["seconds"], 1e-9)
    waits = f", {waited:.0%} of the time without a batch" if waited >= LEAST_WAIT_TOLD else ""
    has_peak = entry["epoch"] == 1 and "peak_memory_mib" in entry
    memory = f", peak memory {entry['peak_memory_mib']:.0f} MiB" if has_peak else ""
    return (
        f"epoch {entry['epoch']}/{num_epochs}: loss {loss}, validation {entry['val_loss']:.3f}; "
        f"{_main_numbers(entry, heads)}; {pace}, {entry['images_per_s']:.0f} images/s{waits}{memory}{skipped}"
    )


def _main_numbers(entry: EpochEntry, heads: Sequence[HeadSpec]) -> str:
    """Each head's, the metric named where it is another than that of the head before."""
    parts, before = [], ""
    for head in heads:
        name = main_metric(head)
        value = _number(entry["val"][head.name].get(name))
        parts.append(f"{head.name} {'' if name == before else f'{name} '}{value}")
        before = name
    return ", ".join(parts)


def final_table(entry: EpochEntry, ridge: dict[str, float | None], heads: Sequence[HeadSpec]) -> str:
    """The saved epoch per head, beside constants and a ridge on simple features."""
    rows = [["head", "images", "main", "rank of it", "of ridge", "NLL (prior)", "ECE", "temperature"]]
    for head in heads:
        m = entry["val"][head.name]
        if not m["num_labelled"]:
            rows.append([head.name, "0", "no label"])
            continue
        loss, temperature = loss_metric(head), entry["temperatures"].get(head.name)
        rows.append(
            [
                head.name,
                str(m["num_labelled"]),
                f"{main_metric(head)} {_number(m[main_metric(head)])}",
                _number(m.get("spearman")),
                _number(ridge.get(head.name)),
                f"{'' if loss == 'nll' else f'{loss} '}{_number(m[loss])} ({_number(m[f'prior_{loss}'])})",
                _number(m.get("ece")),
                "-" if temperature is None else f"{temperature:.2f}",
            ]
        )
    weights = f", with {_WEIGHTS[entry['weights']]}," if "weights" in entry else ","
    return f"validation of epoch {entry['epoch']}{weights} which is saved:\n{aligned(rows)}"


def below_ridge(entry: EpochEntry, ridge: dict[str, float | None], heads: Sequence[HeadSpec]) -> list[str]:
    """A sentence for each head that orders validation images less well than the ridge does, by more than
    chance may do."""
    found = []
    for head in heads:
        numbers, theirs = entry["val"][head.name], ridge.get(head.name)
        mine, number = numbers.get("spearman"), numbers["num_labelled"]
        if mine is None or theirs is None or not number or mine >= theirs - 1 / math.sqrt(number):
            continue
        found.append(
            f"{head.name}: a ridge regression on colours and outlines orders the validation images better "
            f"({theirs:.3f} against {mine:.3f}); a trunk that has learnt from other pictures may help: "
            "--weights pretrained --freeze trunk"
        )
    return found


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def picture_grid(pixels_BSSC: Tensor, columns: int = 4) -> Tensor:
    """uint8 [rows * S, columns * S, 3]: pictures, at least one, side by side.

    A row that is not full is left out.
    """
    columns = min(columns, len(pixels_BSSC))
    rows = len(pixels_BSSC) // columns
    size = pixels_BSSC.shape[1]
    shown = pixels_BSSC[: rows * columns].clamp(0, 255).round().to(torch.uint8).cpu()
    return shown.reshape(rows, columns, size, size, 3).transpose(1, 2).reshape(rows * size, columns * size, 3)


def thinned(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """Every other point once there are more than ``CURVE_POINTS``."""
    return curve[1::2] if len(curve) > CURVE_POINTS else curve


def write_logs(
    out: Folder,
    history: Sequence[EpochEntry],
    curve: Sequence[dict[str, float]],
    pictures: dict[str, npt.NDArray[np.uint8]],
) -> None:
    """Write history.jsonl and the TensorBoard events to ``out``.

    Whole, from the state that a resumed run has too.
    """
    lines = [json.dumps(entry, ensure_ascii=False) for entry in history]
    out.publish("history.jsonl", ("\n".join(lines) + "\n").encode(), replace=True)
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            _write_scalars(writer, history, curve)
            for name, picture in pictures.items():
                writer.add_image(name, picture, history[-1]["steps"], dataformats="HWC")
        for file in Path(folder).iterdir():
            out.publish(EVENTS, file.read_bytes(), replace=True)


def _write_scalars(
    writer: SummaryWriter, history: Sequence[EpochEntry], curve: Sequence[dict[str, float]]
) -> None:
    for point in curve:
        for name, value in point.items():
            if name != "step":
                writer.add_scalar(f"step/{name}", value, point["step"])
    for entry in history:
        for name, scalar in _scalars(entry).items():
            if scalar is not None:
                writer.add_scalar(name, scalar, entry["steps"])


def _scalars(entry: EpochEntry) -> dict[str, float | None]:
    scalars: dict[str, float | None] = {
        "loss/train": entry["loss"],
        "loss/val": entry["val_loss"],
        "learning_rate": entry["learning_rate"],
        "images_per_s": entry.get("images_per_s"),
        "waited_s": entry.get("waited_s"),
    }
    scalars |= {f"loss_by_head/{head}": loss for head, loss in entry["loss_by_head"].items()}
    scalars |= {f"val_{m}/{head}": v for head, values in entry["val"].items() for m, v in values.items()}
    return scalars | {f"temperature/{head}": t for head, t in entry["temperatures"].items()}
