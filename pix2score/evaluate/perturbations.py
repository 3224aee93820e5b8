"""Ways to alter pictures more and more: how they are written, and what they do to pixels.

They act on the prepared picture as it is decoded, upright and at its own size, before the model's resize:
what happens to pictures on their way, not what the network is given.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from pix2score.catalog.keys import Key
from pix2score.errors import ConfigError
from pix2score.images.encode import encode

NUM_STEPS = 4
"""Strengths of a range, both ends among them."""
EXAMPLE = "jpeg=90..30,blur=1..3,resize=.5,noise=.02"
Apply: TypeAlias = Callable[[Image.Image, float, Key], Image.Image]


def _jpeg(image: Image.Image, quality: float, key: Key) -> Image.Image:  # noqa: ARG001
    return Image.open(io.BytesIO(encode(image, quality=int(quality)))).convert("RGB")


def _blur(image: Image.Image, sigma: float, key: Key) -> Image.Image:  # noqa: ARG001
    return image.filter(ImageFilter.GaussianBlur(sigma))


def _resize(image: Image.Image, factor: float, key: Key) -> Image.Image:  # noqa: ARG001
    size = max(1, round(factor * image.width)), max(1, round(factor * image.height))
    return image.resize(size, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)


def _noise(image: Image.Image, std: float, key: Key) -> Image.Image:
    """The same noise at every strength, but for its size; other noise for every key."""
    seed = hashlib.blake2b(f"noise/{key[0]}/{key[1]}".encode(), digest_size=8).digest()
    drawn = np.random.default_rng(int.from_bytes(seed, "big")).standard_normal((image.height, image.width, 3))
    noisy = np.asarray(image, dtype=np.float64) + 255 * std * drawn
    return Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class Way:
    """One way to alter pictures, and the strengths that it may have."""

    apply: Apply
    low: float
    high: float
    what: str
    """What a strength is, for people."""
    falls: bool = False
    """Whether a smaller number alters more."""
    is_whole: bool = False


WAYS: dict[str, Way] = {
    "jpeg": Way(_jpeg, 1, 95, "quality of JPEG", falls=True, is_whole=True),
    "blur": Way(_blur, 0, 50, "standard deviation of a Gaussian, px"),
    "resize": Way(_resize, 0.01, 1, "factor, down and up again", falls=True),
    "noise": Way(_noise, 0, 1, "standard deviation, of 0..1"),
}


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One way at one strength."""

    name: str
    strength: float

    def __call__(self, image: Image.Image, key: Key) -> Image.Image:
        """The picture altered, of the same size; ``image`` is RGB and stays as it is."""
        return WAYS[self.name].apply(image, self.strength, key)


def perturbations(given: Sequence[str]) -> tuple[Perturbation, ...]:
    """What ``jpeg=90..30,blur=1..3`` means: by way in the order given, the mildest strength first.

    Raises ``ConfigError`` naming the ways that there are, and an example.
    """
    strengths: dict[str, list[float]] = {}
    for entry in (part.strip() for text in given for part in text.split(",")):
        name, is_given, numbers = entry.partition("=")
        if name not in WAYS:
            raise ConfigError(f"--perturb {entry}: {_unknown(name)}")
        if not is_given:
            raise ConfigError(f"--perturb {entry}: needs a strength, such as {_example(name)}")
        strengths.setdefault(name, []).extend(_strengths(name, numbers))
    return tuple(
        Perturbation(name, strength)
        for name, found in strengths.items()
        for strength in sorted(set(found), reverse=WAYS[name].falls)
    )


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, WAYS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no such way to alter pictures; {hint}known are {', '.join(WAYS)}, as in --perturb {EXAMPLE}"


def _example(name: str) -> str:
    return next(part for part in EXAMPLE.split(",") if part.startswith(name))


def _strengths(name: str, numbers: str) -> list[float]:
    low, is_range, high = numbers.partition("..")
    ends = [_strength(name, numbers, end) for end in ((low, high) if is_range else (low,))]
    steps = np.linspace(ends[0], ends[-1], NUM_STEPS if is_range else 1)
    return [float(np.rint(step)) if WAYS[name].is_whole else round(float(step), 6) for step in steps]


def _strength(name: str, numbers: str, text: str) -> float:
    way = WAYS[name]
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not way.low <= strength <= way.high or (way.is_whole and not strength.is_integer()):
        kind = "a whole number" if way.is_whole else "a number"
        raise ConfigError(
            f"--perturb {name}={numbers}: expected {kind} from {way.low:g} to {way.high:g} ({way.what}), or "
            f"a range of them, as in --perturb {EXAMPLE}"
        )
    return strength
