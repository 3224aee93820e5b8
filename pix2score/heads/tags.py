"""Heads of kind ``tags``: which of many tags an image has, each with its probability.

Shapes: N images, V tags of the vocabulary, L tags said of all images together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.heads.probabilities import finite
from pix2score.heads.spec import Calibration, Floats, Guess
from pix2score.heads.tag_labels import TAGS, TagLabels
from pix2score.heads.tag_sql import rows_of
from pix2score.storage.quoting import literal

GAMMA, CLIP = 4.0, 0.05
"""Of the asymmetric loss: how much less easy negatives weigh, and below which probability they weigh
nothing; the authors' (https://arxiv.org/abs/2009.14119)."""
MAX_WEIGHT = 10.0
NUM_SHOWN = 30
"""Tags that the report of a night draws."""
NUM_SAID, NUM_CAPTION = 10, 4
MIN_MOVED = 5
"""Images that a tag must have to be called new or vanished: fewer come and go by chance."""


@dataclass(frozen=True, slots=True)
class TagAnswer:
    """What one head says of N images.

    ``logits`` float32 [N, V], calibrated. The tags above their thresholds, at most ``top`` an image, most
    probable first: ``offsets`` int32 [N + 1] into ``ids`` int32 [L] and ``probs`` float32 [L].
    """

    logits: Floats
    offsets: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int32]
    probs: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class TagsHead(TagLabels):
    """A head that says which of many tags an image has."""

    @property
    def num_outputs(self) -> int:
        """V."""
        return len(self.names)

    def initial_bias(self) -> Floats | None:
        """Logits of the prevalences."""
        share = self.prevalences
        return np.log(share / (1 - share)).astype(np.float32)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """What a tag weighs in the loss ``frequency``, [V]: 1 for the most frequent, the rarer the more."""
        share = self.prevalences
        return np.asarray(np.minimum(np.sqrt(share.max() / share), MAX_WEIGHT))

    @property
    def entropy(self) -> float:
        """What the prevalences cost in cross-entropy, summed over tags: nats per image."""
        return float(_entropies(self.prevalences).sum())

    @property
    def null_cost(self) -> float:
        """What the prevalences cost in the head's loss, summed over tags."""
        share = self.prevalences
        if self.loss == "frequency":
            return float((self.weights * _entropies(share)).sum())
        if self.loss == "asymmetric":
            shifted = np.maximum(share - CLIP, 0)
            of_negative = -(shifted**GAMMA) * np.log1p(-shifted)
            return float((share * -np.log(share) + (1 - share) * of_negative).sum())
        return self.entropy

    # Answers

    def fields(self) -> list[pa.Field]:
        """``_tags`` and ``_probs``."""
        return [
            pa.field(f"{self.name}_tags", pa.list_(pa.string())),
            pa.field(f"{self.name}_probs", pa.list_(pa.float32())),
        ]

    def answer(self, outputs_NA: Floats, calibration: Calibration) -> TagAnswer:
        """Outputs are logits; ``calibration`` has slope, offset and thresholds."""
        logits = finite(outputs_NA) * calibration.get("slope", 1.0) + calibration.get("offset", 0.0)
        logits = np.clip(logits, -80, 80).astype(np.float32)
        row, tag = np.nonzero(logits >= threshold_logits(calibration))
        prob = probabilities(logits[row, tag])
        order = np.lexsort((tag, -prob, row))  # by image, then by probability, ties by the vocabulary
        row, tag, prob = row[order], tag[order], prob[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        kept = rank < self.top
        ends = np.bincount(row[kept], minlength=len(logits)).cumsum()
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        return TagAnswer(logits, offsets, tag[kept].astype(np.int32), prob[kept].astype(np.float32))

    def columns(self, answer: TagAnswer) -> dict[str, pa.Array]:
        """In the order of ``fields``."""
        offsets = pa.array(answer.offsets)
        names = pa.array(self.names, pa.string()).take(pa.array(answer.ids))
        return {
            f"{self.name}_tags": pa.ListArray.from_arrays(offsets, names),
            f"{self.name}_probs": pa.ListArray.from_arrays(offsets, pa.array(answer.probs, pa.float32())),
        }

    def guess_sql(self, least: float) -> Guess:
        """Tags of at least probability ``least``, as sure as the least sure; of the rarest one's class."""
        tags, probs = f"{self.name}_tags", f"{self.name}_probs"
        number = f"len(list_filter({probs}, lambda p: p >= {least!r}))"  # most probable first
        kept = f"{tags}[:{number}]"
        names = ", ".join(map(literal, self.names))
        places = f"list_transform({kept}, lambda tag: list_position([{names}], tag))"
        rarest = f"list_extract([{names}], list_max({places}))"
        label = kept if self.separator is None else f"array_to_string({kept}, {literal(self.separator)})"
        kind = pa.list_(pa.string()) if self.separator is None else pa.string()
        return Guess(label, kind, f"{probs}[{number}]", rarest)

    def measured(self, answer: TagAnswer) -> Floats:
        """Calibrated logits."""
        return answer.logits

    def plain(self, answer: TagAnswer, row: int) -> dict[str, Any]:
        """``tags`` with their ``probs``."""
        said = slice(int(answer.offsets[row]), int(answer.offsets[row + 1]))
        return {
            "tags": [self.names[i] for i in answer.ids[said]],
            "probs": [float(p) for p in answer.probs[said]],
        }

    def text(self, plain: Mapping[str, Any]) -> str:
        """The most probable tags with their probabilities."""
        return named(plain["tags"], plain["probs"], NUM_SAID)

    def served_facts(self, calibration: Calibration) -> dict[str, Any]:
        """Names of the outputs and their thresholds: a graph answers all probabilities."""
        thresholds = calibration.get("thresholds") or [0.5] * len(self.names)
        return {f"{self.name}_tags": list(self.names), f"{self.name}_thresholds": list(thresholds)}

    # The scores table

    @property
    def row_bytes(self) -> int:
        """Of ten tags: how many pass depends on the model."""
        return 24 * min(self.top, NUM_SAID)

    def bad_rows_sql(self) -> dict[str, str]:
        """Tags and probabilities go together, sorted, known, once each."""
        tags, probs = f"{self.name}_tags", f"{self.name}_probs"
        unknown = (
            f"EXISTS (SELECT 1 FROM (SELECT unnest({tags}) AS tag) WHERE tag IS NULL OR tag NOT IN "
            f"({rows_of(self.names)}))"
        )
        return {
            f"ok rows whose {self.name} has not a probability for each of at most {self.top} tags": (
                f"len({tags}) <> len({probs}) OR len({tags}) > {self.top} "
                f"OR len(list_filter({probs}, lambda p: p BETWEEN 0 AND 1)) <> len({probs})"
            ),
            f"ok rows whose {self.name} is not sorted by probability, or has a tag twice": (
                f"list_reverse_sort({probs}) <> {probs} OR len(list_distinct({tags})) <> len({tags})"
            ),
            f"ok rows whose {self.name} has a tag that is not in the model's vocabulary": unknown,
        }

    @property
    def night_columns(self) -> list[str]:
        """Both."""
        return [f"{self.name}_tags", f"{self.name}_probs"]

    @property
    def order_column(self) -> str | None:
        """None: tags have no highest and lowest."""
        return None

    def histogram(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """Rows that have each tag, [V]."""
        said = pc.list_flatten(rows.column(f"{self.name}_tags").combine_chunks())
        ids = pc.index_in(said, value_set=pa.array(self.names, pa.string())).drop_null()
        return np.bincount(ids.to_numpy(), minlength=len(self.names)).astype(np.int64)

    def summarised(self, histogram: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The vocabulary's first tags, and all others together."""
        return np.append(histogram[:NUM_SHOWN], histogram[NUM_SHOWN:].sum())

    def histogram_labels(self) -> list[str]:
        """Names of the first tags."""
        return [*self.names[:NUM_SHOWN], "others"]

    def moved(self, now: npt.NDArray[np.int64], before: npt.NDArray[np.int64]) -> list[str]:
        """New and vanished tags, and the most frequent against before."""
        lines = []
        for word, some, none in (("new", now, before), ("vanished", before, now)):
            found = np.flatnonzero((some >= MIN_MOVED) & (none == 0))
            order = found[np.argsort(-some[found], kind="stable")]
            if len(found):
                more = f" and {len(found) - NUM_SAID} more" if len(found) > NUM_SAID else ""
                listed = ", ".join(f"{self.names[i]} ({some[i]:,})" for i in order[:NUM_SAID])
                lines.append(f"{self.name}, {word} tags: {listed}{more}.")
        top = np.argsort(-now, kind="stable")[:NUM_SAID]
        shares = (
            f"{self.names[i]} {_percent(now[i], now)} (before {_percent(before[i], before)})"
            for i in top
            if now[i]
        )
        return [*lines, f"{self.name}, most frequent of all tags given: {', '.join(shares)}."]

    def caption(self, row: Mapping[str, Any]) -> str:
        """The most probable tags."""
        return named(row[f"{self.name}_tags"], row[f"{self.name}_probs"], NUM_CAPTION)


def probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of logits, in their own precision."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def threshold_logits(calibration: Calibration) -> Any:
    """Calibrated logits from which on a tag is said, [V] or one for all; 0 before any calibration."""
    found = calibration.get("thresholds")
    if found is None:
        return np.float32(0)
    share = np.clip(np.asarray(found, dtype=np.float64), 1e-9, 1 - 1e-9)
    return np.log(share / (1 - share)).astype(np.float32)


def named(tags: Any, probs: Any, most: int) -> str:
    """``sky 0.97, cloud 0.91, …``."""
    said = [f"{tag} {prob:.2f}" for tag, prob in zip(tags[:most], probs[:most], strict=True)]
    return ", ".join([*said, "…"] if len(tags) > most else said) or "no tag above its threshold"


def _percent(part: int, whole: npt.NDArray[np.int64]) -> str:
    return f"{part / max(1, int(whole.sum())):.1%}"


def _entropies(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Nats, [V]."""
    return np.asarray(-(share * np.log(share) + (1 - share) * np.log1p(-share)))


__all__ = ["TAGS", "TagAnswer", "TagsHead", "named", "probabilities", "threshold_logits"]
