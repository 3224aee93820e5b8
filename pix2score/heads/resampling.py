"""How often rows of rare bins, classes or tags come in an epoch: repeat factors, as of LVIS.

A class with share f of the labelled rows has the factor max(1, (t / f) ** exponent), a row that of its
rarest class; https://arxiv.org/abs/1908.03195 has them with an exponent of 0.5 and t = 0.001, for a thousand
classes. Here t follows from the head: the share that each of its bins or classes would have if they were
even, and of tags the median tag's.

Shapes: N rows, K bins, classes or tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.heads.binary import BinaryHead
from pix2score.heads.binary_labels import BINARY
from pix2score.heads.class_labels import CLASSES
from pix2score.heads.classes import ClassesHead
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.ordered_labels import BINS, LEVELS
from pix2score.heads.spec import MISSING, HeadSpec
from pix2score.heads.tags import TAGS, TagsHead

Array = npt.NDArray[np.float64]
MAX_FACTOR = 10.0
"""The rows of a class may not come more often: so few would be learnt by heart."""
BALANCED_LOSSES = ("class_weighted", "logit_adjusted", "tags_frequency")
"""Losses that make up for rare classes by themselves."""
_PARTS = 1000
"""Of a row, in counts of rows that come 1.3 times: they are whole numbers."""


class Resampler(Protocol):
    """What is asked of a kind whose rows may be resampled."""

    def shares(self, head: Any) -> Array:
        """Of the labelled train rows those of each class, [K]."""

    def even_share(self, share_K: Array) -> float:
        """The share below which a class is rare."""

    def of_rows(self, head: Any, column: Any, factor_K: Array) -> Array:
        """Factor of each row of a target column, [N]; 1 without a label."""

    def counted(self, head: Any, columns: Iterable[Any], factor_K: Array, num_rows: int) -> Resampled:
        """What comes in an epoch; ``columns``: all targets of the train split, read if they are needed."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """A head as the rows of a resampled epoch have it."""

    head: HeadSpec
    """With the counts of those rows."""
    num_rows: float
    """Rows of an epoch, expected."""


class _OneOf:
    """A row is of one class: the card's counts are all there is to know."""

    def shares(self, head: Any) -> Array:
        counts = _counts(head)
        return np.asarray(counts / max(1.0, counts.sum()))

    def even_share(self, share_K: Array) -> float:
        return 1 / max(1, int((share_K > 0).sum()))

    def of_rows(self, head: Any, column: Any, factor_K: Array) -> Array:
        target = head.targets(pa.chunked_array(column) if isinstance(column, pa.Array) else column)
        return np.where(target == MISSING, 1.0, factor_K[target])

    def counted(self, head: Any, columns: Iterable[Any], factor_K: Array, num_rows: int) -> Resampled:
        counts = _counts(head)
        # An empty class counts as one row wherever shares are made of counts.
        new = np.rint(np.maximum(counts, 1) * factor_K * _PARTS).astype(np.int64)
        return Resampled(replace(head, counts=tuple(new.tolist())), float(num_rows + counts @ (factor_K - 1)))


class _Several:
    """A row has several tags: which of them go together only the rows tell."""

    def shares(self, head: TagsHead) -> Array:
        return np.asarray(head.counts or (0,) * len(head.names), dtype=np.float64) / max(1, head.num_tagged)

    def even_share(self, share_K: Array) -> float:
        return float(np.median(share_K[share_K > 0])) if (share_K > 0).any() else 0.0

    def of_rows(self, head: TagsHead, column: Any, factor_K: Array) -> Array:
        return self._rows(column, factor_K)[0]

    def counted(self, head: TagsHead, columns: Iterable[Any], factor_K: Array, num_rows: int) -> Resampled:
        counts, num_tagged, more = np.zeros(len(factor_K)), 0.0, 0.0
        for column in columns:
            factor, row, ids = self._rows(column, factor_K)
            counts += np.bincount(ids, weights=factor[row], minlength=len(counts))
            num_tagged += float(factor[np.asarray(column.is_valid())].sum())
            more += float((factor - 1).sum())
        found = tuple(np.rint(counts).astype(np.int64).tolist())
        return Resampled(replace(head, counts=found, num_tagged=round(num_tagged)), num_rows + more)

    def _rows(
        self, column: Any, factor_K: Array
    ) -> tuple[Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Factor of each row; and of each of all their tags its row and its number."""
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        ids = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        row, factor = np.repeat(np.arange(len(lists)), lengths), np.ones(len(lists))
        np.maximum.at(factor, row, factor_K[ids])
        return factor, row, ids


RESAMPLERS: Mapping[str, Resampler] = {
    **dict.fromkeys((BINS, LEVELS, BINARY, CLASSES), _OneOf()),
    TAGS: _Several(),
}
"""Kinds with bins, classes or tags; of the others no row is rarer than another."""


def can_be_resampled(head: HeadSpec) -> bool:
    """Whether it has bins, classes or tags that may be rare."""
    return head.kind in RESAMPLERS


def is_balanced(head: HeadSpec) -> bool:
    """Whether its loss makes up for rare classes already."""
    weighs = isinstance(head, BinaryHead) and head.weight_of_yes != 1
    return weighs or head.loss_name in BALANCED_LOSSES


def repeat_factors(head: HeadSpec, exponent: float) -> Array:
    """Of each bin, class or tag, [K]; 1 for one without rows."""
    of_kind = RESAMPLERS[head.kind]
    share_K = of_kind.shares(head)
    rare_K = (share_K > 0) & (share_K < of_kind.even_share(share_K))
    factor_K = np.ones(len(share_K))
    factor_K[rare_K] = (of_kind.even_share(share_K) / share_K[rare_K]) ** exponent
    return np.minimum(factor_K, MAX_FACTOR)


def row_factors(head: HeadSpec, column: Any, factor_K: Array) -> Array:
    """Times that each row of a target column comes in an epoch, on average: [N]."""
    return RESAMPLERS[head.kind].of_rows(head, column, factor_K)


def resampled(head: HeadSpec, columns: Iterable[Any], factor_K: Array, num_rows: int) -> Resampled:
    """The head as the rows of an epoch have it, and how many these are.

    ``columns``: targets of the whole train split in parts, which only some kinds read; ``num_rows``: rows of
    the split.
    """
    return RESAMPLERS[head.kind].counted(head, columns, factor_K, num_rows)


def _counts(head: HeadSpec) -> Array:
    assert isinstance(head, OrderedHead | ClassesHead | BinaryHead)
    counts = (head.counts or (1, 1)) if isinstance(head, BinaryHead) else head.train_counts
    return np.asarray(counts, dtype=np.float64)
