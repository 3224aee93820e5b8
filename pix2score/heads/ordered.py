"""Heads whose bins are ordered (kinds ``bins`` and ``levels``): output columns, and what logits mean.

Shapes: N images, K bins of a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.heads.spec import HeadSpec
from pix2score.storage.arrow import fixed_lists

Floats = npt.NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)  # an expected value beyond it would be infinite in its column


def _ordered_fields(head: HeadSpec) -> list[pa.Field]:
    return [
        pa.field(f"{head.name}_bin", pa.int16()),
        pa.field(f"{head.name}_probs", pa.list_(pa.float32(), head.num_bins)),
        pa.field(f"{head.name}_score", pa.float32()),
        pa.field(f"{head.name}_expected", pa.float32()),
    ]


_FIELDS_BY_KIND = {"bins": _ordered_fields, "levels": _ordered_fields}


def head_fields(head: HeadSpec) -> list[pa.Field]:
    """Output columns of one head, all nullable: a failed row has none of them."""
    return _FIELDS_BY_KIND[head.kind](head)


@dataclass(frozen=True, slots=True)
class HeadPrediction:
    """What one head says of N images.

    ``probs`` float32 [N, K], calibrated; ``bin`` int16 [N], their argmax; ``score`` float32 [N] in [0, 1],
    the expected quantile; ``expected`` float32 [N] in the head's own unit.
    """

    probs: Floats
    bin: npt.NDArray[np.int16]
    score: Floats
    expected: Floats


def log_softmax(logits_NK: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithms of the probabilities that logits stand for, [N, K]."""
    shifted = logits_NK - logits_NK.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _answer_ordered(head: HeadSpec, logits_NK: Floats, temperature: float) -> HeadPrediction:
    scaled = np.nan_to_num(logits_NK.astype(np.float64), posinf=0.0, neginf=0.0) / temperature
    probs = np.exp(log_softmax(scaled))
    probs_f32 = probs.astype(np.float32)
    expected = (probs @ np.asarray(head.typical_values, dtype=np.float64)).clip(-_LARGEST, _LARGEST)
    return HeadPrediction(
        probs=probs_f32,
        bin=probs_f32.argmax(axis=1).astype(np.int16),
        score=(probs @ head.ranks).clip(0, 1).astype(np.float32),
        expected=expected.astype(np.float32),
    )


_ANSWER_BY_KIND = {"bins": _answer_ordered, "levels": _answer_ordered}


def answer(head: HeadSpec, logits_NK: Floats, temperature: float) -> HeadPrediction:
    """What the logits of a head mean. Non-finite logits give finite nonsense: the caller fails those rows."""
    return _ANSWER_BY_KIND[head.kind](head, logits_NK, temperature)


def head_columns(head: HeadSpec, prediction: HeadPrediction) -> dict[str, pa.Array]:
    """Arrow columns of one head, in the order of ``head_fields``."""
    probs = fixed_lists(prediction.probs)
    return {
        f"{head.name}_bin": pa.array(prediction.bin),
        f"{head.name}_probs": probs,
        f"{head.name}_score": pa.array(prediction.score),
        f"{head.name}_expected": pa.array(prediction.expected),
    }
