"""Settings of ``jobs.kpi``."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.errors import ConfigError

EMBEDDING, SCORES = "embedding", "scores"


@dataclass(frozen=True, kw_only=True, slots=True)
class KpiConfig:
    """Settings of ``jobs.kpi``."""

    scores: str
    """Scores folder; the embeddings and answers of its live snapshot are what the KPI is predicted from."""
    labels: str | None = None
    """Parquet file, or a folder of them: illust_id, perhaps page, and kpi, or clicks and impressions; perhaps
    group (what splits keep together, such as the artist; default: the id), split (train, val, test; default:
    by a hash of the group) and side columns. With --apply it is read for its side columns alone."""
    out: str | None = None
    """Folder for the fitted model and metrics.json; with --apply the folder in which kpi/RUN/ is written
    (default: the scores folder)."""
    features: str = EMBEDDING
    """What the KPI is predicted from, with commas between: embedding, scores (every number that the heads
    answer with), and columns of the labels by name: numbers, or texts of few different values."""
    apply: str | None = None
    """Fitted model, the --out of an earlier run: write the expected KPI of every live embedding with it."""
    val_fraction: float = 0.15
    """Share of the groups that choose penalties, the number of trees and the model; not with a column
    split."""
    test_fraction: float = 0.15
    """Share of the groups that the numbers of metrics.json are from; not with a column split."""
    max_rows: int = 200_000
    """Labelled rows to learn from and to measure on; of more a random part. They are held in memory, with 4
    bytes a feature."""
    seed: int = 0
    """Of the trees' draws."""

    def __post_init__(self) -> None:
        missing = [f"--{name}" for name in ("labels", "out") if getattr(self, name) is None]
        if missing and not self.apply:
            raise ConfigError(
                f"{' and '.join(missing)} must be given to fit a model; or --apply one that is fitted"
            )
        if not (
            self.val_fraction > 0 and self.test_fraction > 0 and self.val_fraction + self.test_fraction < 1
        ):
            raise ConfigError(
                f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction}: both above 0, and "
                "below 1 together"
            )
        if self.max_rows < 100:
            raise ConfigError(f"max_rows {self.max_rows}: at least 100")
        self._check_features()

    def _check_features(self) -> None:
        names = [name.strip() for name in self.features.split(",")]
        if not all(names) or len(set(names)) < len(names):
            raise ConfigError(
                f"features {self.features!r}: names with commas between, each once, such as "
                f"{EMBEDDING},{SCORES}"
            )
        if self.apply and self.features != EMBEDDING:
            raise ConfigError(
                "--features goes with fitting; --apply takes those that the model was fitted on"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of ``features``."""
        return tuple(name.strip() for name in self.features.split(","))

    @property
    def side_names(self) -> tuple[str, ...]:
        """Columns of the labels among them."""
        return tuple(name for name in self.names if name not in (EMBEDDING, SCORES))
