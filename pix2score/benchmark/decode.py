"""decode: decoding and resizing on one core, beside Pillow, and how far the pixels are apart.

Pillow decodes whole and resizes with antialiasing."""

from __future__ import annotations

import contextlib
import io
import os
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
CASES = (("JPEG", 500), ("JPEG", 1200), ("JPEG", 3000), ("PNG", 1200), ("WEBP", 1200))
THUMBNAIL = ("JPEG", 150)
"""Takes about 1 ms, so that what a child costs shows most; in no average of ``CASES``."""
NUM_TIMED = 40
"""Files that tell the rate of a folder."""
_NUM_FILES = {150: 64, 500: 32, 1200: 8, 3000: 4}
"""By side in px, at most."""
_TURN = 8
"""Pictures in a row of one way, at most: as many as a child takes at once."""
_TURNED = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
"""Each drawing is four pictures: a large photograph takes a thousand times as long to draw as to decode."""


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
    """CPU time of caller and child together over that of the caller alone, less 1: median over turns."""
    mean_difference: float
    p99_difference: float
    probability_difference: float | None = None
    """Mean over images and bins of how far a model's probabilities are apart, if there is a model."""


def time_decode(
    num_images: int, rounds: int, size: int = 224, probs: Probabilities | None = None
) -> list[DecodeTiming]:
    """Time every kind of picture in every case, resized to ``size``; return a timing for each, thumbnails
    last.

    ``probs`` are of a model with that input size.
    """
    found: list[DecodeTiming] = []
    thumbnails: list[DecodeTiming] = []
    for kind in SETS:
        drawn: dict[int, list[Image.Image]] = {}
        for form, side in (*CASES, THUMBNAIL):
            if side not in drawn:
                drawn[side] = _drawn(kind, side, min(num_images, _NUM_FILES[side]))
            files = [encoded(image, form) for image in drawn[side]]
            timing = _time(kind, form, side, files, rounds, size, probs)
            (thumbnails if (form, side) == THUMBNAIL else found).append(timing)
    return [*found, *thumbnails]


def _drawn(kind: str, side: int, num_images: int) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    drawn = [SETS[kind](rng, side, side) for _ in range(-(-num_images // len(_TURNED)))]
    turned = [image if turn is None else image.transpose(turn) for image in drawn for turn in _TURNED]
    return turned[:num_images]


def _time(
    kind: str,
    form: str,
    side: int,
    files: Sequence[bytes],
    rounds: int,
    size: int,
    probs: Probabilities | None,
) -> DecodeTiming:
    preprocess = Preprocess(size=size)
    child = Decoder(preprocess)
    list(through(child, files[:_TURN]))
    ways: dict[str, Way] = {
        "pillow": lambda files: [pillow(data, size) for data in files],
        "ours": lambda files: [to_rgb(data, preprocess).tobytes() for data in files],
        "child": lambda files: list(through(child, files)),
    }
    cpu = {"ours": time.process_time, "child": lambda: time.process_time() + cpu_s_of(child.pid)}
    with on_one_core(child.pid):
        found = _alternating(ways, files, rounds, cpu)
    child.close()
    seconds = {name: np.median(turns[..., 0].sum(axis=1)) for name, turns in found.items()}
    cost = float(np.median(found["child"][..., 1] / found["ours"][..., 1])) - 1
    ours = np.stack([to_rgb(data, preprocess) for data in files])
    whole = np.stack([pillow(data, size) for data in files])
    apart = np.abs(ours.astype(np.int16) - whole).mean(axis=(1, 2, 3))
    return DecodeTiming(
        kind=kind,
        form=form,
        side=side,
        pillow_per_s=round(len(files) / seconds["pillow"], 1),
        ours_per_s=round(len(files) / seconds["ours"], 1),
        speedup=round(float(seconds["pillow"] / seconds["ours"]), 2),
        child_cost=round(cost, 3),
        mean_difference=round(float(np.mean(apart)), 2),
        p99_difference=round(float(np.quantile(apart, 0.99)), 2),
        probability_difference=round(float(np.abs(probs(ours) - probs(whole)).mean()), 5) if probs else None,
    )


@contextlib.contextmanager
def on_one_core(pid: int | None) -> Iterator[None]:
    """Keep this thread and process ``pid`` on one core: of a shared machine one is now and then half as fast
    as another, which would count for or against whoever is there."""
    cores = os.sched_getaffinity(0)
    for each in (0, pid or 0):
        os.sched_setaffinity(each, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


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
) -> dict[str, npt.NDArray[np.float64]]:
    """Way -> [rounds, turns, 2], wall and CPU seconds, CPU as its clock says.

    The ways take turns picture by picture, a few at a time, so that a busy machine slows all of them.
    """
    starts = range(0, len(files), _TURN)
    spent = {name: np.zeros((rounds, len(starts), 2)) for name in ways}
    for i in range(rounds):
        for turn, start in enumerate(starts):
            for name, way in ways.items():
                clock = cpu.get(name, time.process_time)
                began = np.array([time.perf_counter(), clock()])
                way(files[start : start + _TURN])
                spent[name][i, turn] = np.array([time.perf_counter(), clock()]) - began
    return spent


def pillow(data: bytes, size: int) -> Pixels:
    """What most pipelines do: decode whole, then an antialiased resize."""
    return np.asarray(
        Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    )


def decode_rate(images: Path, size: int) -> float:
    """Images per second of one core on the first files of a folder."""
    preprocess = Preprocess(size=size)
    files = [path.read_bytes() for path in sorted(images.iterdir())[:NUM_TIMED]]
    ways: dict[str, Way] = {"ours": lambda files: [to_rgb(data, preprocess) for data in files]}
    turns = _alternating(ways, files, 3, {})["ours"]
    return len(files) / float(np.median(turns[..., 0].sum(axis=1)))


def decode_table(timings: Sequence[DecodeTiming]) -> str:
    """One line per kind of picture; what a child costs on average of ``CASES``."""
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
    costs = [t.child_cost for t in timings if (t.form, t.side) != THUMBNAIL]
    mean = f"decoding in a child: {np.mean(costs):+.1%} CPU time on average without thumbnails"
    return f"{aligned([head, *rows])}\n{mean}"
