"""Settings of ``jobs.evaluate``."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.cli.flags import Device
from pix2score.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Settings of ``jobs.evaluate``."""

    model: str
    """Model folder that jobs.train made."""
    data: str
    """Prepared dataset."""
    out: str
    """Where metrics.json and report.html go."""
    split: str = "test"
    """train, val or test."""
    compare: str | None = None
    """Another model folder, such as the one in use: both answer the same images, and the differences get
    paired intervals."""
    require_better: bool = False
    """With --compare: exit 1 unless the model is really better in a head and really worse in none (a
    promotion gate)."""
    ridge_rows: int = 20_000
    """Train images that the ridge reference learns from, and at most as many of the validation split that
    choose its penalty; 0 leaves it out."""
    adversarial: int = 64
    """Images, about, on which it is tried whether each head answers otherwise within 2/255 of every pixel;
    fewer where that takes over a minute. 0 leaves it out."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""

    def __post_init__(self) -> None:
        if self.require_better and not self.compare:
            raise ConfigError("--require-better needs --compare MODEL: better than what?")
        for name in ("ridge_rows", "adversarial"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: at least 0")
