"""Settings of ``jobs.predict`` and ``jobs.export``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pix2score.cli.flags import Device
from pix2score.cli.settings import POSITIONAL
from pix2score.errors import ConfigError
from pix2score.model.predictor import Engine, check_engine

EXPORT_FORMATS = (".onnx", ".pt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Settings of ``jobs.export``."""

    model: str
    """Model folder that jobs.train made."""
    out: str | None = None
    """File to write, local or s3://bucket/key: .onnx, or .pt2 for torch.export. Not with engine."""
    engine: Literal["none", "int8", "bf16"] = "none"
    """Instead of a file for other runtimes, write beside the model what jobs.score --engine needs. int8: the
    network's trunk in 8 bits, and pictures that each host checks its answers by (bf16 uses them too). bf16:
    these pictures alone."""
    int8: bool = False
    """Kernels of 8 bits in the .onnx file: a quarter of its size, and faster where the CPU has instructions
    for it. Says how far answers move."""
    calibrate: str | None = None
    """Of int8 and engine: a prepared dataset, whose training pictures give the ranges and whose validation
    pictures tell how far answers move."""

    def __post_init__(self) -> None:
        if self.engine != "none":
            self._check_engine()
            return
        if self.out is None:
            raise ConfigError("--out is missing: the file to write, or --engine to write beside the model")
        if self.int8 != (self.calibrate is not None):
            raise ConfigError("--int8 and --calibrate DATASET go together: ranges come from pictures")
        if self.int8 and not self.out.endswith(".onnx"):
            raise ConfigError(f"--out {self.out}: int8 is for .onnx files")
        if not self.out.endswith(EXPORT_FORMATS):
            raise ConfigError(f"--out {self.out}: expected a name that ends in {' or '.join(EXPORT_FORMATS)}")

    def _check_engine(self) -> None:
        if self.calibrate is None:
            raise ConfigError(f"--engine {self.engine} needs --calibrate DATASET: its answers are checked")
        if self.out is not None or self.int8:
            raise ConfigError(
                f"--engine {self.engine} writes beside the model; --out and --int8 are for other runtimes"
            )


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
    engine: Engine = "auto"
    """What runs the network, as of jobs.score: auto, onnx, torch, or int8 or bf16, where this host shows that
    they answer like float32; otherwise it is float32, with a line."""

    def __post_init__(self) -> None:
        if self.device in ("gpu", "cuda"):
            check_engine(self.engine, "cuda")
        if not self.images:
            raise ConfigError("no image given; name at least one file after the flags")
