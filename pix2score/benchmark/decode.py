"""decode: decoding and resizing on one core, beside Pillow, and how far the pixels are apart.

Pillow decodes whole and resizes with antialiasing."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from pix2score.benchmark.pictures import SETS, encoded
from pix2score.cli.tables import aligned
from pix2score.images.decode import to_rgb
from pix2score.images.decoder import Decoder
from pix2score.images.preprocess import Preprocess

Pixels = npt.NDArray[np.uint8]
Way: TypeAlias = Callable[[Sequence[bytes]], object]
Probabilities: TypeAlias = Callable[[Pixels], npt.NDArray[np.float32]]
"""Pixels [N, S, S, 3] -> probabilities [N, bins of all heads]."""
_TURN = 8
"""Pictures in a row of one way."""
CASES = (("JPEG", 500), ("JPEG", 1200), ("JPEG", 3000), ("PNG", 1200), ("WEBP", 1200))


@dataclass(frozen=True, slots=True)
class DecodeTiming:
    """One kind of picture: images per second of one core, medians over rounds; differences are of 0..255."""

    kind: str
    form: str
    side: int
    pillow_per_s: float
    ours_per_s: float
    speedup: float
    child_cost: float
    """CPU time of caller and child together over that of the caller alone, less 1; median of rounds."""
    mean_difference: float
    p99_difference: float
    probability_difference: float | None = None
    """Mean over images and bins of how far a model's probabilities are apart, if there is a model."""


def time_decode(
    num_images: int, rounds: int, size: int = 224, probs: Probabilities | None = None
) -> list[DecodeTiming]:
    """Time every kind of picture in every case, resized to ``size``; return a timing for each.

    ``probs`` are of a model with that input size.
    """
    return [
        _time(kind, form, side, max(3, num_images * 500 // max(side, 500)), rounds, size, probs)
        for kind in SETS
        for form, side in CASES
    ]


def _time(
    kind: str, form: str, side: int, num_images: int, rounds: int, size: int, probs: Probabilities | None
) -> DecodeTiming:
    rng, preprocess = np.random.default_rng(1), Preprocess(size=size)
    files = [encoded(SETS[kind](rng, side, side), form) for _ in range(num_images)]
    child = Decoder(preprocess)
    child(files[0])
    ways: dict[str, Way] = {
        "pillow": lambda files: [pillow(data, size) for data in files],
        "ours": lambda files: [to_rgb(data, preprocess) for data in files],
        "child": lambda files: list(through(child, files)),
    }
    cpu = {"ours": time.process_time, "child": lambda: time.process_time() + cpu_s_of(child.pid)}
    found = _alternating(ways, files, rounds, cpu)
    child.close()
    seconds = {name: np.median([wall for wall, _ in turns]) for name, turns in found.items()}
    costs = [both[1] / alone[1] for both, alone in zip(found["child"], found["ours"], strict=True)]
    ours = np.stack([to_rgb(data, preprocess) for data in files])
    whole = np.stack([pillow(data, size) for data in files])
    apart = np.abs(ours.astype(np.int16) - whole).mean(axis=(1, 2, 3))
    return DecodeTiming(
        kind=kind,
        form=form,
        side=side,
        pillow_per_s=round(num_images / seconds["pillow"], 1),
        ours_per_s=round(num_images / seconds["ours"], 1),
        speedup=round(float(seconds["pillow"] / seconds["ours"]), 2),
        child_cost=round(float(np.median(costs)) - 1, 3),
        mean_difference=round(float(np.mean(apart)), 2),
        p99_difference=round(float(np.quantile(apart, 0.99)), 2),
        probability_difference=round(float(np.abs(probs(ours) - probs(whole)).mean()), 5) if probs else None,
    )


def through(child: Decoder, files: Sequence[bytes]) -> Iterator[bytes]:
    """Yield pixels by the decode child, which has the next images while it works on one, as in a job."""
    waiting: deque[bytes] = deque()
    for data in files:
        while not child.begin(data) and waiting:
            yield child.finish(waiting.popleft())
        waiting.append(data)
    for data in waiting:
        yield child.finish(data)


def cpu_s_of(pid: int | None) -> float:
    """CPU seconds of a process of one thread so far, in nanoseconds' steps; 0 where Linux does not count."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError):
        return 0.0


def _alternating(
    ways: Mapping[str, Way], files: Sequence[bytes], rounds: int, cpu: Mapping[str, Callable[[], float]]
) -> dict[str, list[tuple[float, float]]]:
    """Way -> wall and CPU seconds of each round, CPU as its clock says.

    The ways take turns picture by picture, a few at a time, so that a busy machine slows all of them.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        spent = {name: np.zeros(2) for name in ways}
        for start in range(0, len(files), _TURN):
            for name, way in ways.items():
                clock = cpu.get(name, time.process_time)
                began = np.array([time.perf_counter(), clock()])
                way(files[start : start + _TURN])
                spent[name] += np.array([time.perf_counter(), clock()]) - began
        for name, (wall, used) in spent.items():
            found[name].append((float(wall), float(used)))
    return found


def pillow(data: bytes, size: int) -> Pixels:
    """What most pipelines do: decode whole, then an antialiased resize."""
    return np.asarray(
        Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    )


def decode_rate(images: Path, size: int, num_images: int = 40) -> float:
    """Images per second of one core on the first files of a folder."""
    preprocess = Preprocess(size=size)
    files = [path.read_bytes() for path in sorted(images.iterdir())[:num_images]]
    ways: dict[str, Way] = {"ours": lambda files: [to_rgb(data, preprocess) for data in files]}
    turns = _alternating(ways, files, 3, {})["ours"]
    return len(files) / float(np.median([wall for wall, _ in turns]))


def decode_table(timings: Sequence[DecodeTiming]) -> str:
    """One line per kind of picture."""
    head = ["picture", "form", "px", "Pillow/s", "ours/s", "times", "child", "difference, p99", "prob"]
    rows = [
        [
            t.kind,
            t.form,
            str(t.side),
            f"{t.pillow_per_s:.1f}",
            f"{t.ours_per_s:.1f}",
            f"{t.speedup:.2f}",
            f"{t.child_cost:+.1%}",
            f"{t.mean_difference:.2f}, {t.p99_difference:5.2f}",
            "-" if t.probability_difference is None else str(t.probability_difference),
        ]
        for t in timings
    ]
    return aligned([head, *rows])
