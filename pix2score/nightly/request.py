"""What a night asks of its plan, and the counts that the plan answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

from pix2score.catalog.expressions import Expression
from pix2score.snapshots.leases import Holder, this_process
from pix2score.snapshots.pieces import Origin
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import Layout

REASONS = ("new", "changed", "stale", "heads", "retry", "full", "waiting")
"""Why a row is scored: its key is new, its content changed, the model changed, only what is behind the trunk
changed (the stored embedding answers), its failure is due, ``full`` was asked for, or it is pending, as no
night came to it yet."""

Order: TypeAlias = Literal["any", "waiting first", "new first"]
"""``waiting first``: what has waited since earlier nights before what is new; for a night that may not get to
the end. ``new first``: what has no answer yet, then what was answered last."""

WITHHELD = "withheld"
"""Why a row is not scored though it is new: it is not among those asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringRequest:
    """What a night asks of the plan."""

    origin: Origin
    layout: Layout
    live: Snapshot | None = None
    retry_failed: bool = False
    limit: int | None = None
    carry: tuple[str, ...] = ()
    """Catalog columns that the scores table has as they are."""
    max_removed: float = 1.0
    max_changed: float = 1.0
    places: tuple[str, ...] = ()
    """Where images may come from tonight, as far as known: a row refused for its place is due again when a
    new one joins."""
    holder: Holder = field(default_factory=this_process)
    """The process that will publish."""
    where: Expression | None = None
    """Which rows are scored tonight; None for all."""
    first: Expression | None = None
    """In what order."""
    order: Order = "any"
    """Which reasons come first, where ``first`` does not say it."""

    @property
    def is_same_model(self) -> bool:
        """Whether the live snapshot is of the model that scores tonight."""
        return self.live is not None and self.live.manifest["model_version"] == self.origin.model_version

    @property
    def carries_nothing(self) -> bool:
        """Whether every row of the catalog is scored again."""
        return self.origin.full and self.where is None

    @property
    def answers_again(self) -> bool:
        """Whether the heads that score tonight answer from the embeddings of the live snapshot."""
        return self.live is not None and is_answered_again(self.live, self.origin)

    @property
    def may_carry(self) -> bool:
        """Whether a row of the live snapshot, or its embedding, may stay."""
        return (self.is_same_model or self.answers_again) and not self.carries_nothing


def is_answered_again(live: Snapshot, origin: Origin) -> bool:
    """Whether the model of ``origin`` differs from the live one's in nothing that an embedding depends on."""
    trunk = live.manifest.get("trunk_version")
    is_other = live.manifest["model_version"] != origin.model_version
    return is_other and trunk is not None and trunk == origin.trunk_version and not origin.full


@dataclass(slots=True)
class ScoringCounts:
    """What became of every key: keys = planned + carried + withheld, and planned those by ``REASONS``."""

    catalog_rows: int = 0
    null_id: int = 0
    duplicate_key: int = 0
    keys: int = 0
    """Keys of the catalog."""
    live: int = 0
    """Keys of the live snapshot."""
    new: int = 0
    changed: int = 0
    stale: int = 0
    heads: int = 0
    """Keys that the heads answer from the stored embedding."""
    retry: int = 0
    full: int = 0
    waiting: int = 0
    carried: int = 0
    """Keys whose row of the live snapshot stays as it is, without those of ``left``."""
    withheld: int = 0
    """New keys that are not to be scored tonight: their rows will be pending."""
    removed: int = 0
    """Keys of the live snapshot that the catalog no longer has."""
    resumed: int = 0
    """Planned keys that an earlier run staged already, or whose row was removed of late and is taken back."""
    limited: int = 0
    """Planned keys left out by ``limit``."""
    left: int = 0
    """Planned keys that were not done when the time was up: their rows stay, new ones will be pending."""
    pending: int = 0
    """Keys whose row in the next snapshot will be pending."""
    recarried: int = 0
    """1 if catalog columns that are carried along differ from those of the live snapshot."""

    @property
    def planned(self) -> int:
        """Keys whose row of the next snapshot is not carried over."""
        return sum(self.by_reason().values())

    @property
    def to_score(self) -> int:
        """Planned keys that this run has to work on."""
        return self.planned - self.resumed - self.limited - self.left

    @property
    def changes_nothing(self) -> bool:
        """Whether the next snapshot would be the live one again."""
        return not (self.planned or self.removed or self.withheld or self.recarried)

    def set_keys(self, keys: int, by_reason: Mapping[str, int]) -> None:
        """Set what follows from the number of keys in the catalog and of those planned, by reason."""
        self.keys = keys
        self.new = by_reason.get("new", 0)
        self.changed = by_reason.get("changed", 0)
        self.stale = by_reason.get("stale", 0)
        self.heads = by_reason.get("heads", 0)
        self.retry = by_reason.get("retry", 0)
        self.full = by_reason.get("full", 0)
        self.waiting = by_reason.get("waiting", 0)
        self.withheld = by_reason.get(WITHHELD, 0)
        self.carried = keys - self.planned - self.withheld
        self.removed = self.live - (keys - self.new - self.withheld)  # keys are unique on both sides

    def by_reason(self) -> dict[str, int]:
        """Planned keys by why they are scored, as ``REASONS`` has it."""
        numbers = (self.new, self.changed, self.stale, self.heads, self.retry, self.full, self.waiting)
        return dict(zip(REASONS, numbers, strict=True))

    def to_dict(self) -> dict[str, int]:
        """Plain values for JSON."""
        return {**asdict(self), "planned": self.planned}
