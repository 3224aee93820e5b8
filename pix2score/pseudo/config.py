"""Settings of ``jobs.pseudo``."""

from __future__ import annotations

from dataclasses import dataclass, field

from pix2score.catalog.columns import Columns
from pix2score.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class PseudoConfig:
    """Settings of ``jobs.pseudo``."""

    scores: str
    """Scores folder, whose live snapshot is read."""
    head: str
    """Head whose sure answers become labels: of kind bins, levels, binary, classes or tags."""
    out: str
    """Where the catalog goes: a folder that holds none yet."""
    catalog: str | None = None
    """Catalog of the pictures that were scored (default: the one that the snapshot names)."""
    min_confidence: float = 0.9
    """Least probability of an answer; of tags, of each tag. 0.5 to 1."""
    per_class: int | None = 1000
    """Most rows of each class, the surest first (None: all); of tags by the rarest tag of a row."""
    val_fraction: float = 0.05
    """As for jobs.prepare: pictures whose group it puts into the validation or the test split are left out,
    since guesses must not measure a model."""
    test_fraction: float = 0.05
    """The same of the test split."""
    student: str | None = None
    """Model that is to learn from these labels on; refused if it is the one that gave them, as a model's own
    labels teach it little."""
    force: bool = False
    """Write labels for the very model that gave them."""
    image_root: tuple[str, ...] = ()
    """As for jobs.score; of embedded images it has no use."""
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        if not 0.5 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence {self.min_confidence}: expected 0.5 to 1")
        if self.per_class is not None and self.per_class < 1:
            raise ConfigError(f"per_class {self.per_class}: at least 1; None takes all")
        for name, share in (("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)):
            if not 0 <= share < 1:
                raise ConfigError(f"{name} {share}: expected 0 to 1")
