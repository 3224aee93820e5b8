"""What heads of kind ``tags`` are given and learn: a vocabulary, and the lists of names that label images.

Shapes: N images, V tags of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pix2score.errors import ConfigError, DataError
from pix2score.heads.spec import (
    MISSING,
    Check,
    HeadSpec,
    LabelColumn,
    TrainLabels,
    are_numbers,
    are_texts,
    is_text,
    is_whole,
)
from pix2score.heads.tag_sql import as_text, names_of
from pix2score.heads.vocabulary import MAX_TAGS, read_vocabulary

TAGS = "tags"
DEFAULT_SIZE = 5_000
NUM_LISTED = 10
FEW_TAGS = "fewer_than_min_tags"


@dataclass(frozen=True, kw_only=True, slots=True)
class TagLabels(HeadSpec):
    """A head that says which of many tags an image has."""

    kind: str = TAGS
    loss: str = "auto"
    """auto: bce. asymmetric: easy negatives weigh less (Ridnik et al. 2021). frequency: a rare tag weighs
    more, at most 10 times."""
    separator: str | None = None
    """Between the tags of a column of text; a column of lists needs none."""
    size: int | None = None
    """Tags learnt at most, the most frequent of the train split; None: 5,000."""
    vocabulary: str | None = None
    """Text file with one tag per line, local or s3://bucket/key: exactly these tags, in this order."""
    min_images: int = 20
    """Tags with fewer images in the train split are not learnt."""
    min_tags: int = 1
    """Images with fewer tags count as not tagged; 0: an empty list says that an image has none."""
    top: int = 50
    """Tags that a row of scores has at most."""
    tags: tuple[str, ...] | None = None
    """The vocabulary, [V]; set by prepare."""
    counts: tuple[int, ...] | None = None
    """Train images of each tag, [V]; set by prepare."""
    num_tagged: int = 0
    """Train images that are tagged; set by prepare."""
    left_out: tuple[int, ...] | None = None
    """Labels, labels of tags below ``min_images``, those of tags beyond ``size``, and how many such tags
    there are of either; of the train split, set by prepare."""

    LOSSES: ClassVar[tuple[str, ...]] = ("bce", "asymmetric", "frequency")
    LABEL: ClassVar[str] = "a list of text, or text with a separator"
    CHECKS: ClassVar[Mapping[str, tuple[str, Check]]] = {
        **dict.fromkeys(
            ("size", "min_images", "min_tags", "top", "num_tagged"), ("a whole number", is_whole)
        ),
        **dict.fromkeys(("separator", "vocabulary"), ("text", lambda v: v is None or is_text(v))),
        **dict.fromkeys(("counts", "left_out"), ("a list of numbers", are_numbers)),
        "tags": ("a list of text", are_texts),
    }

    def __post_init__(self) -> None:
        HeadSpec.check(self)
        if self.size is not None and self.vocabulary is not None:
            raise ConfigError(f"head {self.name!r}: give size or vocabulary, not both")
        if self.separator == "":
            raise ConfigError(f"head {self.name!r}: separator is empty; give what stands between two tags")
        if self.size is not None and not 1 <= self.size <= MAX_TAGS:
            raise ConfigError(f"head {self.name!r}: size {self.size}; between 1 and {MAX_TAGS} are possible")
        for key, least in (("min_images", 1), ("min_tags", 0), ("top", 1)):
            value = getattr(self, key)
            if value is None or value < least:
                raise ConfigError(f"head {self.name!r}: {key} {value} must be at least {least}")

    @property
    def loss_name(self) -> str:
        """As ``train.step.losses`` has it: other kinds have a ``bce`` of another form."""
        return f"{TAGS}_{HeadSpec.loss_name.fget(self)}"  # type: ignore[attr-defined]

    @property
    def names(self) -> tuple[str, ...]:
        """The vocabulary, [V]."""
        assert self.tags is not None, f"the tags of head {self.name!r} are not learnt yet"
        return self.tags

    @property
    def prevalences(self) -> npt.NDArray[np.float64]:
        """Share of the tagged train images that have each tag, [V]; half an image more, so none is 0 or 1."""
        counts = np.asarray(self.counts or (0,) * len(self.names), dtype=np.float64)
        return np.asarray((counts + 0.5) / (max(self.num_tagged, int(counts.max(initial=0))) + 1))

    # Labels

    @classmethod
    def accepts(cls, column: pa.DataType) -> bool:
        """Lists of text, or text."""
        value = column.value_type if pt.is_list(column) or pt.is_large_list(column) else column
        return bool(pt.is_string(value) or pt.is_large_string(value) or pt.is_null(value))

    def label_type(self, columns: Sequence[LabelColumn]) -> pa.DataType:
        """list<string>. Raises ``ConfigError`` for text without a separator."""
        names_of(self.name, self.column, columns[0], self.separator)
        return pa.list_(pa.string())

    def clean_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: the names, none empty or twice, in their order; null below ``min_tags``."""
        found = names_of(self.name, self.column, columns[0], self.separator, self.tags or ())
        once = "list_filter(names, lambda tag, i: list_position(names, tag) = i)"
        distinct = f"list_transform([{found}], lambda names: {once})[1]"  # so ``found`` is made once a row
        return f"CASE WHEN len({distinct}) >= {self.min_tags} THEN {distinct} END"

    def given_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: the names, with commas."""
        return as_text(columns[0])

    def reason_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: fewer_than_min_tags."""
        return f"'{FEW_TAGS}'"

    def expected_label(self, reason: str) -> str:
        """What ``min_tags`` asks for."""
        return f": images with fewer than {self.min_tags} tags (min_tags) count as not tagged"

    def fit(self, labels: TrainLabels) -> Self:
        """With the vocabulary and its counts. Raises ``DataError`` where no tag is left."""
        (num_tagged,) = _row(labels, "SELECT count(*) FROM labels")
        if not num_tagged:
            raise DataError(
                f"head {self.name!r} has no label in the train split; column {self.column!r} is empty there"
            )
        if self.vocabulary is not None:
            return self._given(read_vocabulary(self.vocabulary, self.name), labels, num_tagged)
        counted = "(SELECT unnest(label) AS tag, count(*) AS n FROM labels GROUP BY 1)"
        size, rare = self.size or DEFAULT_SIZE, f"n < {self.min_images}"
        chosen = _counts(
            labels, f"SELECT tag, n FROM {counted} WHERE NOT {rare} ORDER BY n DESC, tag LIMIT {size}"
        )
        num_labels, num_rare, tags, rare_tags = _row(
            labels,
            f"SELECT coalesce(sum(n), 0), coalesce(sum(n) FILTER ({rare}), 0), count(*), "
            f"count(*) FILTER ({rare}) FROM {counted}",
        )
        if not chosen:
            listed = _counts(labels, f"SELECT tag, n FROM {counted} ORDER BY n DESC, tag LIMIT {NUM_LISTED}")
            raise DataError(
                f"head {self.name!r}: no tag of column {self.column!r} has min_images {self.min_images} "
                f"images in the train split; the most frequent: {_listed(listed) or 'none'}"
            )
        over = num_labels - num_rare - sum(chosen.values())
        left_out = (num_labels, num_rare, over, rare_tags, tags - rare_tags - len(chosen))
        return self._fitted(chosen, num_tagged, left_out)

    def _given(self, names: Sequence[str], labels: TrainLabels, num_tagged: int) -> Self:
        counted = "SELECT unnest(label) AS tag, count(*) AS n FROM labels GROUP BY 1"
        known, counts, others, num_others = set(names), dict.fromkeys(names, 0), 0, 0
        for tag, number in _pairs(labels, counted):
            if tag in known:
                counts[tag] = number
            else:
                others, num_others = others + 1, num_others + number
        if not any(counts.values()):
            top = _counts(labels, f"SELECT * FROM ({counted}) ORDER BY n DESC, tag LIMIT {NUM_LISTED}")
            raise DataError(
                f"head {self.name!r}: none of the {len(names)} tags of {self.vocabulary} occurs in the train "
                f"split; the most frequent there: {_listed(top)}"
            )
        total = num_others + sum(counts.values())
        return self._fitted(counts, num_tagged, (total, 0, num_others, 0, others))

    def _fitted(self, counts: Mapping[str, int], num_tagged: int, left_out: tuple[int, ...]) -> Self:
        learnt: dict[str, Any] = {"tags": tuple(counts), "counts": tuple(counts.values())}
        return replace(self, **learnt, num_tagged=num_tagged, left_out=left_out)

    def fit_warnings(self, asked: HeadSpec) -> list[str]:
        """Labels that the vocabulary drops, a size that is not reached, given tags that hardly occur."""
        labels, rare, over, rare_tags, over_tags = self.left_out or (0,) * 5
        found, of = [], f"of {labels} labels in the train split"
        if rare_tags:
            found.append(f"{rare_tags} tags with fewer than min_images {self.min_images} images: {rare} {of}")
        if over_tags:
            what = "beyond the size" if self.vocabulary is None else f"that are not in {self.vocabulary}"
            found.append(f"{over_tags} tags {what}: {over} {of}")
        lines = [f"head {self.name}: left out {line}" for line in found]
        if self.size is not None and self.size > len(self.names):
            lines.append(
                f"head {self.name}: size {self.size} asked for, but only {len(self.names)} tags have "
                f"min_images {self.min_images} images"
            )
        few = sum(number < self.min_images for number in self.counts or ())
        if few:
            lines.append(
                f"head {self.name}: {few} tags of the given vocabulary have fewer than min_images "
                f"{self.min_images} images; they are kept, and hardly learnt"
            )
        return lines

    def check_learnable(self) -> None:
        """Raise ``DataError`` where every tagged image has the same tags."""
        if not self.num_tagged or not any(0 < n < self.num_tagged for n in self.counts or ()):
            raise DataError(
                f"head {self.name!r}: every tag is on all of the {self.num_tagged} tagged training images or "
                "on none; there is nothing to learn"
            )

    def facts(self) -> int:
        """The number of its tags."""
        return len(self.names)

    # Targets

    def target_field(self) -> pa.Field:
        """``<h>_ids``: places in the vocabulary; null where not tagged, empty where it has none of them."""
        return pa.field(f"{self.name}_ids", pa.list_(pa.int16()))

    def encode(self, labels: pa.Array) -> pa.Array:
        """Ids of the labels' tags in their order, without those that are not in the vocabulary."""
        lengths = pc.list_value_length(labels).fill_null(0).to_numpy(zero_copy_only=False)
        ids = pc.index_in(labels.flatten(), value_set=pa.array(self.names, pa.string()))
        is_known = ids.is_valid().to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(labels)), lengths)[is_known]
        ends = np.bincount(row, minlength=len(labels)).cumsum()
        offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, ids.drop_null().cast(pa.int16()), mask=labels.is_null())

    def targets(self, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """int8 [N, V]: 1 with the tag, 0 without; ``MISSING`` in the whole row of an image not tagged.

        A byte for each: a batch of 256 images and 5,000 tags is 1.3 MB.
        """
        ids = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        dense = np.zeros((len(ids), len(self.names)), dtype=np.int8)
        lengths = pc.list_value_length(ids).fill_null(0).to_numpy(zero_copy_only=False)
        dense[np.repeat(np.arange(len(ids)), lengths), ids.flatten().to_numpy(zero_copy_only=False)] = 1
        dense[ids.is_null().to_numpy(zero_copy_only=False)] = MISSING
        return dense

    def label_values(self, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
        """[N]: how many tags the label has, in the vocabulary or not."""
        return np.asarray(pc.list_value_length(column).cast(pa.float64()).to_numpy(), dtype=np.float64)

    def difference_from(self, other: HeadSpec) -> str:
        """Another vocabulary."""
        if not isinstance(other, TagLabels):
            return f"{self.name} is of kind {self.kind} in the model, {other.kind} in the dataset"
        if self.tags == other.tags:
            return ""
        mine, theirs = set(self.names), set(other.names)
        only = [sorted(a - b)[:3] for a, b in ((mine, theirs), (theirs, mine))]
        return (
            f"{self.name} has {len(mine)} tags in the model, {len(theirs)} in the dataset; only in the model "
            f"{', '.join(only[0]) or 'none'}, only in the dataset {', '.join(only[1]) or 'none'}"
        )


def _pairs(labels: TrainLabels, sql: str) -> Iterator[tuple[str, int]]:
    for batch in labels(sql):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def _counts(labels: TrainLabels, sql: str) -> dict[str, int]:
    return dict(_pairs(labels, sql))


def _row(labels: TrainLabels, sql: str) -> list[int]:
    """The only row, whole numbers."""
    return [int(column[0].as_py()) for batch in labels(sql) if batch.num_rows for column in batch.columns]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{tag!r} {number}" for tag, number in counts.items())
