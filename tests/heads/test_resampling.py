"""Repeat factors: rows of rare classes come more often, by how rare the head's counts say they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pix2score.heads.binary import BinaryHead
from pix2score.heads.classes import ClassesHead
from pix2score.heads.resampling import (
    MAX_FACTOR,
    RESAMPLERS,
    is_balanced,
    repeat_factors,
    resampled,
    row_factors,
)
from pix2score.heads.spec import HeadSpec
from pix2score.heads.tags import TagsHead
from tests.support.every_head import FITTED
from tests.support.torch_helpers import COUNT_HEAD

LIKED = BinaryHead(name="liked", column="c", counts=(90, 10))
SORT = ClassesHead(name="sort", column="c", names=("cat", "dog", "bird"), counts=(8, 0, 2))
TAG = TagsHead(
    name="tag", column="c", tags=("sky", "cloud", "tree", "owl"), counts=(800, 400, 100, 25), num_tagged=1000
)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (COUNT_HEAD, [1, 1, 1.25**0.5, 2.5**0.5]),  # counts 40, 30, 20, 10; t is a quarter
        (LIKED, [1, 5**0.5]),
        (SORT, [1, 1, 2.5**0.5]),  # t is a half: a class without rows is none
        (TAG, [1, 1, 2.5**0.5, 10**0.5]),  # the median tag has a quarter of the images
    ],
)
def test_a_class_below_an_even_share_has_the_root_of_what_it_lacks(
    head: HeadSpec, expected: list[float]
) -> None:
    np.testing.assert_allclose(repeat_factors(head, 0.5), expected)


def test_an_exponent_of_one_makes_classes_even_and_no_class_comes_more_than_ten_times() -> None:
    np.testing.assert_allclose(repeat_factors(COUNT_HEAD, 1.0) * [40, 30, 20, 10], [40, 30, 25, 25])
    assert repeat_factors(replace(LIKED, counts=(10**6, 1)), 0.5).max() == MAX_FACTOR


def test_a_row_has_the_factor_of_its_class_and_of_the_rarest_of_its_tags() -> None:
    factors = np.array([1.0, 2.0, 3.0, 4.0])
    bins = pa.chunked_array([pa.array([3, -1, 0, None, 2], pa.int16())])
    np.testing.assert_allclose(row_factors(COUNT_HEAD, bins, factors), [4, 1, 1, 1, 3])
    tags = pa.chunked_array([pa.array([[0, 2, 1], None], pa.list_(pa.int16())), [[], [3, 0], [0]]])
    np.testing.assert_allclose(row_factors(TAG, tags, factors), [3, 1, 1, 4, 1])


def test_of_classes_the_counts_tell_what_comes_in_an_epoch() -> None:
    factors = np.array([1.0, 1.5, 2.0, 3.0])
    found = resampled(COUNT_HEAD, [], factors, 120)  # 20 rows have no label
    assert found.num_rows == 20 + 40 + 45 + 40 + 30
    counts = np.array(replace(COUNT_HEAD, counts=found.head.counts).train_counts)  # type: ignore[attr-defined]
    np.testing.assert_allclose(counts / counts.sum(), np.array([40, 45, 40, 30]) / 155)


def test_of_tags_the_rows_tell_which_go_together() -> None:
    factors = np.array([1.0, 1.0, 2.0, 4.0])
    parts = [
        pa.array([[0, 3], [0], None], pa.list_(pa.int16())),
        pa.array([[2, 0], []], pa.list_(pa.int16())),
    ]
    found = resampled(TAG, parts, factors, 5)
    assert found.num_rows == 4 + 1 + 1 + 2 + 1
    assert isinstance(found.head, TagsHead)
    assert (found.head.counts, found.head.num_tagged) == ((4 + 1 + 2, 0, 2, 4), 4 + 1 + 2 + 1)


def test_kinds_with_classes_can_be_resampled_and_the_others_not() -> None:
    assert RESAMPLERS.keys() == {"bins", "levels", "binary", "classes", "tags"}
    for kind in RESAMPLERS:
        assert len(repeat_factors(FITTED[kind], 0.5)) in (FITTED[kind].num_outputs, 2)


def test_a_loss_that_makes_up_for_rare_classes_is_known() -> None:
    assert [is_balanced(replace(COUNT_HEAD, loss=loss)) for loss in ("ordinal", "class_weighted")] == [
        False,
        True,
    ]
    assert is_balanced(replace(LIKED, positive_weight="balanced"))
    assert is_balanced(replace(TAG, loss="frequency"))
    assert not is_balanced(LIKED)
