"""How bytes become a model's input: part of the model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.errors import ConfigError
from pix2score.images import resample

ALGORITHM = 3
"""Raised whenever golden pixels change; a model made for another one is refused."""
RESIZES = resample.RESIZES
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RGBPixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """How bytes become the model's input; part of the model. ``mean`` and ``std`` (of RGB in 0..1) are
    applied on the device."""

    size: int = 224
    resize: str = "squash"
    """squash: whole picture, aspect given up. pad: whole picture on white. crop: centre square."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    algorithm: int = ALGORITHM

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 2048:
            raise ConfigError(f"input size {self.size} px: expected 8 to 2048")
        if self.resize not in RESIZES:
            raise ConfigError(f"resize {self.resize!r}: expected one of {', '.join(RESIZES)}")
        if self.algorithm != ALGORITHM:
            raise ConfigError(
                f"preprocessing algorithm {self.algorithm} is not known to this version, which has "
                f"{ALGORITHM}; "
                f"use the version of pix2score that trained the model"
            )

    @property
    def id(self) -> str:
        """12 hex digits that change with any field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def preprocess_from_dict(plain: dict[str, Any]) -> Preprocess:
    """The Preprocess that ``dataclasses.asdict`` wrote. Raises ``ConfigError`` for an algorithm this version
    does not know."""
    typed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return Preprocess(**typed)
