"""What ``jobs.score`` may be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pix2score.catalog.catalog import Columns
from pix2score.cli.flags import Device
from pix2score.errors import ConfigError
from pix2score.model.predictor import Engine, Precision, check_engine, check_precision
from pix2score.nightly.deadline import deadline
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
    """Rows per staged piece (default: 16384 with GPUs, 512 without, up to 32768 in a run of many millions); a
    piece closes after 60 s in any
    case."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    engine: Engine = "auto"
    """What runs the network: auto (ONNX Runtime on a CPU, torch on a GPU), onnx or torch. On CPUs with the
    instructions for it also int8 or bf16, of which every host first shows that it answers like float32;
    otherwise the whole run is in float32, with a line. Needs what jobs.export --engine int8 writes. Its rows
    are another model's to the next night."""
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
    embedding_dtype: Literal["auto", EmbeddingDtype] = "auto"
    """auto: the model's. float16 or float32: that; float32 of a model of float16 is for readers without
    float16."""
    carry: tuple[str, ...] = ()
    """Catalog column that the scores table has too, as it is tonight, so that readers need no join; may be
    repeated."""
    full: bool = False
    """Score every illustration again, whatever has changed."""
    retry_failed: bool = False
    """Try every failed illustration again, however often it was tried and whatever the reason."""
    where: str | None = None
    """SQL over catalog columns that is true of the rows to score, such as "bookmarks > 100". Others keep the
    row that they have; new ones get a row with status pending, for a later night."""
    first: str | None = None
    """SQL over catalog columns by which rows are ordered, such as "bookmarks DESC": what is scored first in a
    run that may not get to the end (default: under stage_only new ones, under until and budget what has
    waited)."""
    until: str | None = None
    """Begin nothing more at this time, on the clock of the machine that this runs on (06:00, the next time it
    is that late), or at a date and time (2026-11-30T06:00), and publish what is done: new images that were
    not reached are pending, others keep the row that they have and come first the next time."""
    budget: str | None = None
    """As until, when so much time has passed since the start: 2h, 90m."""
    stage_only: bool = False
    """Stage what is scored and publish nothing, over as many runs as it takes; each says how much is left and
    when it will be done. So another model is rolled out beside the nightly one: at last run it without this,
    and what is staged goes live at once."""
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
        if self.device == "gpu":
            check_engine(self.engine, "cuda")
        deadline(self.until, self.budget)
        for name in ("until", "budget", "stage_only"):
            if self.full and getattr(self, name):
                raise ConfigError(
                    f"{name.replace('_', '-')} and full: a later run could not know what is still to be "
                    "scored again; leave one of them out"
                )
        for name in ("max_failed", "max_removed", "max_changed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 to 1")
        if not 0 <= self.max_drift < math.inf:
            raise ConfigError(f"max_drift {self.max_drift}: expected 0 or more; 100 lets any night go live")

    @property
    def publishes(self) -> bool:
        """Whether a snapshot is to be made."""
        return self.limit is None and not self.stage_only
