"""Settings of ``jobs.ensemble``."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.cli.flags import Device
from pix2score.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleConfig:
    """Settings of ``jobs.ensemble``."""

    models: tuple[str, ...]
    """Model folders with the same heads, several times: --models A --models B. The first one's embedding is
    the ensemble's."""
    data: str
    """Prepared dataset, whose validation split chooses the shares and the calibration."""
    out: str
    """Where the ensemble goes: a model folder like any other."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ConfigError("models: an ensemble needs two or more; give --models several times")
        if len(set(self.models)) < len(self.models):
            raise ConfigError("models: one is given twice; shares are found, not given")
