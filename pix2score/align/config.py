"""Settings of ``jobs.align``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pix2score.cli.flags import Device


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig:
    """Settings of ``jobs.align``."""

    model: str
    """Model folder; it stays as it is."""
    data: str
    """Prepared dataset whose rows have a source (jobs.prepare with several --catalog or --source-column)."""
    out: str
    """Where align.json goes, and align.toml, whose lines belong into the file that jobs.prepare reads."""
    head: str
    """Head whose labels are to be moved; its answer must be a number in their unit."""
    by: Literal["source"] = "source"
    """Column of the dataset whose values each get a line of their own."""
    method: Literal["moments", "regression"] = "moments"
    """How a source's labels y become k y + b. moments: with the mean and deviation of the answers to its
    pictures. regression: with least squared distance from them; k then shrinks by the model's own noise."""
    reference: str | None = None
    """Source that the model learnt from: labels move onto those of it, not onto the answers, which spread the
    less the less the model knows. It stays as it is. Best given."""
    split: Literal["val+test", "train", "val", "test"] = "val+test"
    """Rows that decide: best such as the model did not learn from."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of ``split``."""
        return tuple(self.split.split("+"))
