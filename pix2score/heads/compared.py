"""Sets of compared images: how a row of a dataset holds one, and what of it is in a target.

A row of a set has its first image in column ``image`` and the rest in ``others``; which of them is first says
nothing. The label, and the target, of a head that compares is a list: weight, agreement of raters, and one
rank per image of the row.

Shapes: N rows, M further images of all rows together, K = ``MAX_IMAGES``, P pairs of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MAX_IMAGES = 16
"""Of one set: 120 pairs. More in one step say little more, and take the memory of many sets."""
OTHERS = "others"
"""Column of a plan and of a dataset: the images of a row beyond its first; null in a row of one image."""
FIRST_PAGE = -1_000_000_000
"""The key of a set's row is the id of its first image, and as page this minus its number: no image has such a
page."""
WEIGHT, AGREEMENT, FIRST_RANK = 0, 1, 2
"""Places in a target: what the set weighs (1 in the mean of the train split), the share of other raters'
verdicts on its pairs that agree with it (NaN without any), and then a rank per image (NaN: no image)."""
TARGET_SIZE = FIRST_RANK + MAX_IMAGES
LABEL = pa.list_(pa.float32())

Floats = npt.NDArray[np.float64]


def key_text(illust_id: int | str, page: int) -> str:
    """A key as people read it: id and page, or id and number of the set."""
    return f"{illust_id} set {FIRST_PAGE - page}" if page < FIRST_PAGE else f"{illust_id} p{page}"


def padded(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Lists of a label or target as [N, TARGET_SIZE], NaN where there is nothing."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    found = np.full((len(lists), TARGET_SIZE), np.nan, dtype=np.float32)
    found[np.arange(TARGET_SIZE) < lengths[:, None]] = lists.flatten().to_numpy(zero_copy_only=False)
    return found


def num_others(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Further images of each row of column ``others``, [N]."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)


def by_row(first_N: npt.NDArray[Any], others_M: npt.NDArray[Any], counts_N: npt.NDArray[Any]) -> Floats:
    """A number per image as [N, K]: those of a row's images side by side, NaN where there is none."""
    found = np.full((len(first_N), MAX_IMAGES), np.nan)
    found[:, 0] = first_N
    found[:, 1:][np.arange(MAX_IMAGES - 1) < counts_N[:, None]] = others_M
    return found


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of images that sets say something of: none of equal rank. Rows of one image have none.

    ``row`` int64 [P]; ``better`` and ``worse`` int64 [P]: places of the two images in their row; ``weight``
    float64 [P]: those of a row add up to the row's weight.
    """

    row: npt.NDArray[np.int64]
    better: npt.NDArray[np.int64]
    worse: npt.NDArray[np.int64]
    weight: Floats


def pairs_of(target_NT: npt.NDArray[Any]) -> Pairs:
    """The pairs of targets [N, TARGET_SIZE]."""
    ranks = target_NT[:, FIRST_RANK:]
    i, j = np.triu_indices(MAX_IMAGES, 1)
    ahead = np.sign(ranks[:, j] - ranks[:, i])  # 1: the first of the two is better; NaN: there are no two
    row, pair = np.nonzero(np.nan_to_num(ahead))
    is_first = ahead[row, pair] > 0
    num_of_row = np.bincount(row, minlength=len(target_NT))
    weight = target_NT[row, WEIGHT].astype(np.float64) / num_of_row[row]
    better, worse = np.where(is_first, i[pair], j[pair]), np.where(is_first, j[pair], i[pair])
    return Pairs(row, better, worse, weight)
