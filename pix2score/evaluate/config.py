"""Settings of ``jobs.evaluate``."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.cli.flags import Device
from pix2score.errors import ConfigError
from pix2score.evaluate.perturbations import Perturbation, perturbations
from pix2score.metrics.parts import MIN_PART
from pix2score.model.predictor import Engine, check_engine


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
    by: tuple[str, ...] = ()
    """Column of the catalog that the dataset was made from, or source where shards have it: every number of
    every head for each of its values, too; may be given several times. Its 20 most frequent values; a number
    of more is cut into quarters."""
    perturb: tuple[str, ...] = ()
    """Ways to alter the images more and more, such as jpeg=90..30,blur=1..3,resize=.5,noise=.02: numbers at
    each strength, beside those of the same images as they are. jpeg is its quality, blur a standard deviation
    in px, resize a factor down and up again, noise a standard deviation of 0..1; a..b are 4 even steps. They
    act on the prepared image at its own size, before the model's resize."""
    perturb_rows: int = 2000
    """Rows of the split, about, that --perturb alters; their intervals tell whether so many are enough."""
    adversarial: int | None = None
    """Images, about, on which it is tried whether each head answers otherwise within 2/255 of every pixel;
    fewer where that takes over a minute. 0 leaves it out; by default 64, and 16 without a GPU, where it takes
    seconds per image and head of a large network."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    engine: Engine = "auto"
    """What runs the network, as of jobs.score: auto, onnx, torch, or int8 or bf16, where this host shows that
    they answer like float32; otherwise it is float32, with a line. The model of --compare is in float32: the
    same folder tells what fewer bits change."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""

    def __post_init__(self) -> None:
        if self.device == "gpu":
            check_engine(self.engine, "cuda")
        if self.require_better and not self.compare:
            raise ConfigError("--require-better needs --compare MODEL: better than what?")
        for name in ("ridge_rows", "adversarial"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: at least 0")
        if self.perturb_rows < MIN_PART:
            raise ConfigError(f"--perturb-rows {self.perturb_rows}: at least {MIN_PART}, or nothing is told")
        _ = self.perturbations

    @property
    def perturbations(self) -> tuple[Perturbation, ...]:
        """What ``perturb`` means. Raises ``ConfigError``."""
        return perturbations(self.perturb)
