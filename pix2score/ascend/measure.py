"""What is left of an ascent after rounding and after the ways of the web, and its pictures.

Shapes: S input size.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from PIL import Image

from pix2score.ascend.ascent import LIGHT, Explained, number_of, rounded
from pix2score.heads.aims import Aim
from pix2score.heads.spec import HeadSpec
from pix2score.images.encode import encode
from pix2score.images.preprocess import RGBPixels

QUALITY, SHRUNK = 75, 0.75
MAGNIFIED = 16
"""How often a difference is shown, around a middle grey."""
STAGES = ("before", "after", "rounded", f"jpeg_{QUALITY}", f"resize_{round(100 * SHRUNK)}")
"""The picture; as the ascent leaves it; rounded to 8 bits, as it is written; that one saved as JPEG; that one
shrunk and brought back."""


def measured(
    model: Explained,
    head: HeadSpec,
    aim: Aim,
    before_SSC: RGBPixels,
    moved_SSC: np.ndarray[Any, np.dtype[np.float32]],
    bound: float,
) -> tuple[dict[str, Any], RGBPixels]:
    """Numbers at each of ``STAGES``, as plain values, and the picture rounded.

    ``score``: by which the head's pictures are ordered; ``aimed``: the number that was moved; ``linf_255``:
    the largest change of a pixel; ``psnr_db``: None where nothing changed.
    """
    after_SSC = rounded(moved_SSC, before_SSC, bound)
    stages = np.stack([before_SSC, moved_SSC, after_SSC, _jpeg(after_SSC), _resized(after_SSC)])
    with torch.no_grad():
        answers = model.answers(torch.from_numpy(stages.astype(np.float32)).to(model.device), head)
    away = after_SSC.astype(np.float64) - before_SSC
    return {
        "score": {stage: float(a["score"]) for stage, a in zip(STAGES, answers, strict=True)},
        "aimed": {stage: float(number_of(a, aim)) for stage, a in zip(STAGES, answers, strict=True)},
        "linf_255": int(np.abs(away).max()),
        "psnr_db": _psnr(away),
    }, after_SSC


def _psnr(away: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    error = float(np.square(away).mean())
    return round(10 * math.log10(LIGHT**2 / error), 2) if error else None


def _jpeg(pixels_SSC: RGBPixels) -> RGBPixels:
    return np.asarray(Image.open(io.BytesIO(encode(Image.fromarray(pixels_SSC), quality=QUALITY))))


def _resized(pixels_SSC: RGBPixels) -> RGBPixels:
    image = Image.fromarray(pixels_SSC)
    smaller = (max(1, round(image.width * SHRUNK)), max(1, round(image.height * SHRUNK)))
    back = image.resize(smaller, Image.Resampling.LANCZOS).resize(image.size, Image.Resampling.LANCZOS)
    return np.asarray(back)


def pictures(before_SSC: RGBPixels, after_SSC: RGBPixels) -> dict[str, bytes]:
    """PNGs by name: before, after, and their difference ``MAGNIFIED`` times around a middle grey."""
    difference = 128 + MAGNIFIED * (after_SSC.astype(np.int32) - before_SSC)
    shown = {"before": before_SSC, "after": after_SSC, "difference": difference.clip(0, 255).astype(np.uint8)}
    return {name: encode(Image.fromarray(pixels), "PNG") for name, pixels in shown.items()}
