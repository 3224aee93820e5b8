"""What ``jobs.score`` may be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pix2score.catalog.catalog import Columns
from pix2score.cli.flags import Device
from pix2score.errors import ConfigError
from pix2score.model.predictor import Engine, Precision, check_precision
from pix2score.snapshots.tables import EmbeddingDtype


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Settings of ``jobs.score``."""

    catalog: str
    """Parquet file, or folder of them: a local path or s3://bucket/prefix."""
    model: str
    """Model folder that jobs.train made."""
    out: str
    """Scores folder; every night's snapshot goes to the same one."""
    image_root: tuple[str, ...] = ()
    """Another place that catalog uris may point into, beside the catalog's folder; may be repeated."""
    batch_size: int | None = None
    """Images per forward pass (default: 256 on a GPU, 16 on a CPU)."""
    part_rows: int | None = None
    """Rows per staged piece (default: 16384 with GPUs, 512 without); a piece closes after 60 s in any
    case."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    engine: Engine = "auto"
    """What runs the network: auto (ONNX Runtime on a CPU, torch on a GPU), onnx or torch."""
    precision: Precision = "auto"
    """Of the forward pass on a GPU: auto (fp16, which every GPU has), fp16, bf16 or fp32. A row that leaves
    fp16's range is computed again in float32. A CPU has float32."""
    compile: bool = False
    """On a GPU: compile the network first, which takes a minute at the start of each predictor."""
    decode: Literal["cpu", "gpu"] = "cpu"
    """Where JPEGs become pixels: cpu, each in a process that may crash; or gpu, by nvJPEG in the predictors,
    where CPU cores are short and the pictures can be trusted. Probabilities stay within 0.01 on average;
    other formats, and pictures smaller than the model's input, are decoded on CPUs as before."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""
    embedding_dtype: EmbeddingDtype | None = None
    """float16 or float32 (default: the model's); float32 of a model of float16 is for readers without
    that."""
    carry: tuple[str, ...] = ()
    """Catalog column that the scores table has too, as it is tonight, so that readers need no join; may be
    repeated."""
    full: bool = False
    """Score every illustration again, whatever has changed."""
    retry_failed: bool = False
    """Try every failed illustration again, however often it was tried and whatever the reason."""
    dry_run: bool = False
    """Say what would be scored and about how long it would take; write nothing."""
    limit: int | None = None
    """Score only this many images, to see failures and the rate; publishes nothing, the next run takes its
    rows up."""
    max_failed: float = 0.05
    """Publish nothing if more than this share of the images failed, and more than 100 of them."""
    max_removed: float = 0.05
    """Publish nothing if more than this share of the live snapshot's illustrations is gone from the
    catalog."""
    max_changed: float = 0.5
    """Score nothing if more than this share of the live snapshot's illustrations has another fingerprint than
    before: more often the catalog is written otherwise than all pictures replaced. --full asks for
    nothing."""
    max_drift: float = 0.25
    """Publish nothing if the answers of any head, over the whole table, moved further than this from those of
    the live snapshot: a population stability index, of which 0.1 is a move and 0.25 a drift. What was scored
    stays staged; 100 lets any night go live."""
    note: str | None = None
    """A remark for the snapshot's manifest, such as why this model: jobs.history shows it."""
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        for name in ("batch_size", "part_rows", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: at least 1")
        if self.decode == "gpu" and self.device == "cpu":
            raise ConfigError("decode gpu and device cpu: JPEGs are decoded where the model runs")
        if self.device == "cpu":
            check_precision(self.precision, "cpu")
        for name in ("max_failed", "max_removed", "max_changed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 to 1")
        if not 0 <= self.max_drift < math.inf:
            raise ConfigError(f"max_drift {self.max_drift}: expected 0 or more; 100 lets any night go live")
