"""What a model predicts: one ``HeadSpec`` per target, and the rules that its labels follow.

A kind is named in ``KINDS``; its columns and answers stand in ``heads.ordered``, its loss in
``train.step.losses``, its answer as a graph in ``serve.graph``, its main number in ``metrics.measures``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.errors import ConfigError
from pix2score.heads import bins

KINDS = ("bins", "levels")
LOSSES = ("auto", "ordinal", "cross_entropy", "squared_emd", "class_weighted", "logit_adjusted")
MAX_BINS = 1000  # int16 columns and readable reports; the references use 15 and 5
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec:
    """One target of the model.

    ``bins``: a count or amount cut into ``size`` bins whose edges are learnt from the train split, or given
    by ``edges``. ``levels``: an ordered class 0..size-1, or a number cut by the given ``edges``.
    """

    name: str
    """Prefix of the output columns: lower-case letters, digits, underscore."""
    column: str
    """Label column of the catalog."""
    kind: str = "bins"
    size: int | None = None
    """Number of bins or classes; after learning, the number that ties left."""
    edges: tuple[float, ...] | None = None
    """Left-inclusive bin edges, strictly increasing; None until learnt, and for ``levels`` given as
    classes."""
    loss: str = "auto"
    """auto: ordinal for bins, cross_entropy for levels. ordinal: cross-entropy on labels blurred over the
    neighbouring bins. squared_emd: squared distance of the cumulative distributions. class_weighted and
    logit_adjusted are for levels of which some are rare: they favour the rare ones, so their probabilities
    are those of classes equally common."""
    weight: float = 1.0
    min_value: float = 0.0
    """Labels below are dropped (a negative count is a mistake); ``-inf`` for scores that may be negative."""
    counts: tuple[int, ...] | None = None
    """Training rows per bin; set by prepare."""
    typical: tuple[float, ...] | None = None
    """Median training value of each bin, in the head's own unit; set by prepare."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"head name {self.name!r}: use lower-case letters, digits and _, starting with a letter"
            )
        if self.kind not in KINDS:
            raise ConfigError(
                f"head {self.name!r}: kind {self.kind!r} is not known; one of {', '.join(KINDS)}"
            )
        if self.loss not in LOSSES:
            raise ConfigError(
                f"head {self.name!r}: loss {self.loss!r} is not known; one of {', '.join(LOSSES)}"
            )
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"head {self.name!r}: weight {self.weight} must be finite and not negative")
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
            or any(b <= a for a, b in zip(edges, edges[1:], strict=False))
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

    @property
    def num_bins(self) -> int:
        """K: number of logits."""
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
        return self.kind == "levels" and self.edges is None

    @property
    def max_value(self) -> float:
        """Greatest legal label, inclusive."""
        return self.num_bins - 1 if self.are_classes else math.inf

    @property
    def needs_learning(self) -> bool:
        """True while the edges are still to be learnt from the train split."""
        return self.kind == "bins" and self.edges is None

    @property
    def bin_edges(self) -> tuple[float, ...]:
        """K - 1 edges; of classes 1..K-1."""
        if self.edges is not None:
            return self.edges
        assert not self.needs_learning, f"the edges of head {self.name!r} are not learnt yet"
        return tuple(range(1, self.num_bins))

    def encode(self, values: bins.Values, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
        """Bin of each label, ``bins.MISSING`` where ``present`` is False."""
        return np.where(present, bins.digitize(values, self.bin_edges), np.int16(bins.MISSING)).astype(
            np.int16
        )

    def labels(self) -> dict[str, str]:
        """Bin -> its range (or class) as people read it."""
        if self.are_classes:
            return {str(k): str(k) for k in range(self.num_bins)}
        return bins.labels(self.bin_edges, self.min_value)

    def fitted(
        self, *, edges: Sequence[float] | None, counts: Sequence[int], typical: Sequence[float]
    ) -> HeadSpec:
        """This head with what was learnt from the train split; ``edges`` None keeps classes as classes."""
        size = len(edges) + 1 if edges is not None else self.size
        stats: dict[str, Any] = {"counts": tuple(counts), "typical": tuple(typical)}
        return replace(self, edges=None if edges is None else tuple(edges), size=size, **stats)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; infinite ``min_value`` as the string "-inf"."""
        plain = asdict(self)
        plain["min_value"] = self.min_value if math.isfinite(self.min_value) else "-inf"
        return {key: list(v) if isinstance(v, tuple) else v for key, v in plain.items()}


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond every float
        return False


def head_from_dict(plain: dict[str, Any]) -> HeadSpec:
    """The head that ``to_dict`` or a ``[[heads]]`` table describes.

    Raises:
        ConfigError: an unknown key, a missing one, or a value that ``HeadSpec`` refuses.
    """
    known = {f.name for f in fields(HeadSpec)}
    unknown = sorted(set(plain) - known)
    if unknown:
        raise ConfigError(
            f"[[heads]] has unknown key {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    missing = sorted({"name", "column"} - set(plain))
    if missing:
        raise ConfigError(f"[[heads]] {plain.get('name', '')!r} lacks {', '.join(missing)}")
    typed: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
    if typed.get("min_value") == "-inf":
        typed["min_value"] = -math.inf
    for key, (wanted, is_fine) in _VALUES.items():
        if key in typed and not is_fine(typed[key]):
            raise ConfigError(f"[[heads]] {typed['name']!r}: {key} = {plain[key]!r}, expected {wanted}")
    return HeadSpec(**typed)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and all(_is_number(v) for v in value))


_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("name", "column", "kind", "loss"), ("a string", _is_text)),
    "size": ("a whole number", lambda v: v is None or (isinstance(v, int) and not isinstance(v, bool))),
    "weight": ("a number", _is_number),
    "min_value": ('a number or "-inf"', _is_number),
    **dict.fromkeys(("edges", "counts", "typical"), ("a list of numbers", _are_numbers)),
}
"""Key of a ``[[heads]]`` table -> what its value must be, in words and as a test."""
