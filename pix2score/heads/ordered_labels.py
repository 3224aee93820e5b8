"""What ordered heads are given and learn: their bins, and the labels that those are cut from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from pix2score.errors import ConfigError, DataError
from pix2score.heads import bins
from pix2score.heads.number_labels import (
    NOT_A_NUMBER,
    NumberLabels,
    bounded,
    number_sql,
    why_dropped,
)
from pix2score.heads.spec import (
    Check,
    HeadSpec,
    LabelColumn,
    TrainLabels,
    are_numbers,
    is_number,
    is_whole,
)

BINS, LEVELS = "bins", "levels"
MAX_BINS = 1000  # int16 columns and readable reports; the references use 15 and 5
_KEYS = ("name", "column", "kind", "size", "edges", "loss", "weight", "min_value", "counts", "typical")
"""In the order that every version has written them: a dataset's id is a hash over its card."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderedLabels(NumberLabels):
    """A head whose answer is a distribution over ordered bins.

    ``bins``: a count or amount cut into ``size`` bins whose edges are learnt from the train split, or given
    by ``edges``. ``levels``: an ordered class 0..size-1, or a number cut by the given ``edges``.
    """

    kind: str = BINS
    loss: str = "auto"
    """auto: ordinal for bins, cross_entropy for levels. ordinal: cross-entropy on labels blurred over the
    neighbouring bins. squared_emd: squared distance of the cumulative distributions. class_weighted and
    logit_adjusted are for levels of which some are rare: they favour the rare ones, so their probabilities
    are those of classes equally common. pairwise: half of it ordinal, half the order of every two images of a
    batch."""
    size: int | None = None
    """Number of bins or classes; after learning, the number that ties left."""
    edges: tuple[float, ...] | None = None
    """Left-inclusive bin edges, strictly increasing; None until learnt, and for ``levels`` given as
    classes."""
    min_value: float = 0.0
    """Labels below are dropped (a negative count is a mistake); ``-inf`` for scores that may be negative."""
    counts: tuple[int, ...] | None = None
    """Training rows per bin; set by prepare."""
    typical: tuple[float, ...] | None = None
    """Median training value of each bin, in the head's own unit; set by prepare."""
    has_median: bool = False
    """Whether rows have ``<h>_median``; set by prepare. Models of older datasets have none, and their tables
    stay as they are."""

    LOSSES: ClassVar[tuple[str, ...]] = (
        "ordinal",
        "cross_entropy",
        "squared_emd",
        "class_weighted",
        "logit_adjusted",
        "pairwise",
    )
    LABEL: ClassVar[str] = "a number"
    CHECKS: ClassVar[Mapping[str, tuple[str, Check]]] = {
        "size": ("a whole number", is_whole),
        "min_value": ('a number or "-inf"', is_number),
        **dict.fromkeys(("edges", "counts", "typical"), ("a list of numbers", are_numbers)),
    }

    def __post_init__(self) -> None:
        HeadSpec.check(self)
        if self.kind not in (BINS, LEVELS):
            raise ConfigError(f"head {self.name!r}: kind {self.kind!r} is not {BINS} or {LEVELS}")
        if math.isnan(self.min_value) or self.min_value == math.inf:
            raise ConfigError(
                f"head {self.name!r}: min_value {self.min_value} must be a finite number or -inf"
            )
        self._check_edges()
        self._check_size()

    def _check_edges(self) -> None:
        if self.edges is None:
            return
        edges = tuple(self.edges)
        if (
            not edges
            or not all(_is_finite(e) for e in edges)
            or any(b <= a for a, b in itertools.pairwise(edges))
        ):
            raise ConfigError(
                f"head {self.name!r}: edges {list(edges)} must be finite, strictly increasing and at least "
                "one"
            )
        if edges[0] <= self.min_value:
            raise ConfigError(
                f"head {self.name!r}: edge {edges[0]} is not above min_value {self.min_value}, so its first "
                "bin would hold nothing; set min_value (-inf allows any number)"
            )
        if self.size is not None and self.size != len(edges) + 1:
            raise ConfigError(
                f"head {self.name!r}: size {self.size} contradicts {len(edges)} edges, which make "
                f"{len(edges) + 1}"
            )

    def _check_size(self) -> None:
        if self.edges is None and self.size is None:
            raise ConfigError(f"head {self.name!r}: give size (number of bins) or edges")
        if self.are_classes and self.min_value != 0:
            raise ConfigError(
                f"head {self.name!r}: min_value {self.min_value} is for numbers; its labels are classes from "
                "0"
            )
        if not 2 <= self.num_bins <= MAX_BINS:
            raise ConfigError(
                f"head {self.name!r}: {self.num_bins} bins; between 2 and {MAX_BINS} are possible"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; infinite ``min_value`` as the string "-inf"."""
        plain = HeadSpec.to_dict(self)
        plain["min_value"] = self.min_value if math.isfinite(self.min_value) else "-inf"
        median = {"has_median": True} if self.has_median else {}
        return {key: plain[key] for key in _KEYS} | median

    @property
    def loss_name(self) -> str:
        """``auto`` is ordinal for bins, cross_entropy for levels."""
        if self.loss != "auto":
            return self.loss
        return "ordinal" if self.kind == BINS else "cross_entropy"

    @property
    def num_bins(self) -> int:
        """K."""
        return len(self.edges) + 1 if self.edges is not None else int(self.size or 0)

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Training rows per bin, [K]; one each where nothing was learnt yet: every bin as likely."""
        return self.counts or (1,) * self.num_bins

    @property
    def typical_values(self) -> tuple[float, ...]:
        """Median training value of each bin, [K]; the bin's number where nothing was learnt yet."""
        return self.typical or tuple(range(self.num_bins))

    @property
    def ranks(self) -> npt.NDArray[np.float64]:
        """Mean rank in [0, 1] of each bin's training rows, [K]: what ``<h>_score`` averages."""
        return bins.mid_ranks(self.train_counts)

    @property
    def are_classes(self) -> bool:
        """True where labels are the classes 0..K-1 themselves."""
        return self.kind == LEVELS and self.edges is None

    @property
    def is_amount(self) -> bool:
        """True for a count or amount cut into bins; False for an ordered class."""
        return self.kind == BINS

    @property
    def are_counts(self) -> bool:
        """True where labels are amounts from 0 upwards, best drawn on a logarithmic axis."""
        return self.kind == BINS and self.min_value >= 0

    @property
    def max_value(self) -> float:
        """Greatest legal label, inclusive."""
        return self.num_bins - 1 if self.are_classes else math.inf

    @property
    def needs_learning(self) -> bool:
        """True while the edges are still to be learnt from the train split."""
        return self.kind == BINS and self.edges is None

    @property
    def bin_edges(self) -> tuple[float, ...]:
        """K - 1 edges; of classes 1..K-1."""
        if self.edges is not None:
            return self.edges
        assert not self.needs_learning, f"the edges of head {self.name!r} are not learnt yet"
        return tuple(range(1, self.num_bins))

    # Labels

    @property
    def label_bounds(self) -> tuple[float, float] | None:
        """``min_value`` upwards; None for classes."""
        return None if self.are_classes else (self.min_value, self.max_value)

    def clean_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: the number, if the head can have it."""
        number = number_sql(columns[0])
        legal = bounded(number, self.min_value, self.max_value)
        whole = f" AND {number} = floor({number})" if self.are_classes else ""
        return f"CASE WHEN {legal}{whole} THEN {number} END"

    def reason_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: not_a_number, not_finite, below_min_value or no_such_class."""
        return why_dropped(number_sql(columns[0]), self.min_value, "no_such_class")

    def expected_label(self, reason: str) -> str:
        """What labels must be."""
        if self.are_classes:
            return f": classes must be 0 to {self.num_bins - 1}; give each word its number"
        if reason == NOT_A_NUMBER:
            return ": labels must be numbers, with a point and without separators of thousands"
        return f": min_value is {self.min_value:g}" if reason == "below_min_value" else ""

    def fit(self, labels: TrainLabels) -> Self:
        """With edges, rows per bin and typical values. Raises ``DataError`` without two values."""

        def value_counts() -> Iterator[tuple[bins.Values, Any]]:
            for batch in labels("SELECT label, count(*) FROM labels GROUP BY 1 ORDER BY 1"):
                yield (
                    batch.column(0).to_numpy(zero_copy_only=False),
                    batch.column(1).to_numpy(zero_copy_only=False),
                )

        learnt = (
            bins.learn_edges(value_counts, int(self.size or 0), head=self.name)
            if self.needs_learning
            else None
        )
        edges = learnt if learnt is not None else list(self.bin_edges)
        counts = bins.count_bins(value_counts(), edges)
        if not sum(counts):
            raise DataError(
                f"head {self.name!r} has no label in the train split; column {self.column!r} is empty there"
            )
        typical = bins.typical_values(value_counts(), edges, counts, self.min_value)
        return self.fitted(edges=None if self.are_classes else edges, counts=counts, typical=typical)

    def fitted(
        self, *, edges: Sequence[float] | None, counts: Sequence[int], typical: Sequence[float]
    ) -> Self:
        """This head with what was learnt from the train split; ``edges`` None keeps classes as classes."""
        size = len(edges) + 1 if edges is not None else self.size
        stats: dict[str, Any] = {"counts": tuple(counts), "typical": tuple(typical), "has_median": True}
        return replace(self, edges=None if edges is None else tuple(edges), size=size, **stats)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond every float
        return False
