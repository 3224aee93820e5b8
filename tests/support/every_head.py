"""A fitted head of every kind, without any dataset."""

from __future__ import annotations

from pix2score.heads.binary import BinaryHead
from pix2score.heads.classes import ClassesHead
from pix2score.heads.distribution import DistributionHead
from pix2score.heads.preference import PreferenceHead
from pix2score.heads.spec import HeadSpec
from pix2score.heads.tags import TagsHead
from pix2score.heads.value import ValueHead
from tests.support.torch_helpers import COUNT_HEAD, LEVEL_HEAD

FITTED: dict[str, HeadSpec] = {
    "bins": COUNT_HEAD,
    "levels": LEVEL_HEAD,
    "binary": BinaryHead(name="liked", column="c", counts=(70, 30), positive=("good",)),
    "value": ValueHead(
        name="beauty", column="c", mean=0.3, std=0.6, quantiles=(-1.0, 0.0, 0.3, 0.5, 2.0), range=(-2, 3)
    ),
    "distribution": DistributionHead(name="votes", column="c", values=(1.0, 2.0, 3.0)),
    "classes": ClassesHead(name="sort", column="c", names=("cat", "dog", "bird"), counts=(5, 4, 3)),
    "tags": TagsHead(name="tag", column="c", tags=("sky", "cloud", "tree"), counts=(9, 5, 3), num_tagged=12),
    "preference": PreferenceHead(name="preferred"),
}
"""Kind -> a head of it."""
