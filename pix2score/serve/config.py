"""Settings of ``jobs.predict`` and ``jobs.export``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pix2score.cli.flags import Device
from pix2score.cli.settings import POSITIONAL
from pix2score.errors import ConfigError

EXPORT_FORMATS = (".onnx", ".pt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Settings of ``jobs.export``."""

    model: str
    """Model folder that jobs.train made."""
    out: str
    """File to write, local or s3://bucket/key: .onnx, or .pt2 for torch.export."""

    def __post_init__(self) -> None:
        if not self.out.endswith(EXPORT_FORMATS):
            raise ConfigError(f"--out {self.out}: expected a name that ends in {' or '.join(EXPORT_FORMATS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Settings of ``jobs.predict``."""

    model: str
    """Model folder that jobs.train made."""
    images: tuple[str, ...] = field(default=(), metadata={POSITIONAL: "IMAGE"})
    """Image files, local or s3://bucket/key."""
    json: bool = False
    """One JSON line per image instead of a table: the ranges of every head's bins, and its bin, label, probs,
    score and expected."""
    device: Literal[Device, "cuda"] = "cpu"
    """auto (GPU if there is one), cpu or gpu; cuda means gpu."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ConfigError("no image given; name at least one file after the flags")
