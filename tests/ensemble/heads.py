"""A fitted head of every kind, and calibrations for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from pix2score.heads.binary import BinaryHead
from pix2score.heads.classes import ClassesHead
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.preference import PreferenceHead
from pix2score.heads.spec import HeadSpec
from pix2score.heads.tags import TagsHead
from pix2score.heads.value import ValueHead
from tests.support import votes

QUANTILES = tuple(np.linspace(-2, 8, 101).tolist())
CALIBRATIONS: dict[str, dict[str, Any]] = {
    "bins": {"temperature": 1.5},
    "levels": {"temperature": 0.7},
    "binary": {"slope": 0.8, "offset": 0.3, "threshold": 0.4},
    "value": {"slope": 0.9, "offset": 0.2, "residual_std": 0.5},
    "distribution": {"temperature": 1.3},
    "classes": {"temperature": 1.2},
    "tags": {"slope": 0.8, "offset": -0.2, "threshold": 0.5},
    "preference": {
        "temperature": 1.4,
        "mean": 0.1,
        "std": 2.0,
        "quantiles": np.linspace(-2, 2, 101).tolist(),
    },
}


_VALUE: dict[str, Any] = {"name": "beauty", "column": "b", "range": (0, 8), "mean": 3.0, "std": 2.0}
HEADS: list[HeadSpec] = [
    OrderedHead(name="bookmark", column="c", edges=(1, 2, 3), counts=(4, 3, 2, 1), typical=(0, 1, 2, 5)),
    OrderedHead(name="level", column="l", kind="levels", size=3, counts=(5, 3, 2)),
    BinaryHead(name="liked", column="liked", counts=(60, 40)),
    ValueHead(**_VALUE, quantiles=QUANTILES),
    ValueHead(**_VALUE, quantiles=QUANTILES, loss="expected"),
    votes.HEAD,
    ClassesHead(name="sort", column="s", names=("cat", "dog", "owl"), counts=(3, 5, 2)),
    TagsHead(name="tag", column="t", tags=("a", "b", "c"), counts=(3, 2, 2), num_tagged=5),
    PreferenceHead(name="better", sets=10, pairs=12),
]


def fitted() -> list[HeadSpec]:
    """Of every kind; of numbers both forms of outputs."""
    return HEADS
