"""The ridge regression that an evaluation compares its model with, fitted to images of the train split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import ray

from pix2score.cluster.offer import Offer
from pix2score.cluster.task_sizes import MAX_TASK_ROWS
from pix2score.dataset.card import PreparedDataset
from pix2score.evaluate.pipeline import shards
from pix2score.evaluate.stages import ridge_rows
from pix2score.heads.compared import OTHERS, num_others
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.formulas import Floats
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.ridge import PENALTY, HeadSums
from pix2score.storage.arrow import flat_lists, matrix


def fit_ridges(
    dataset: PreparedDataset, heads: Sequence[HeadSpec], num_rows: int, offer: Offer
) -> dict[str, Floats]:
    """Head -> weights [G, 1 + D] of the regression from simple features to ``KindNumbers.ridge_target``.

    Learnt from ``num_rows`` train images, which are mixed. A head without labels among them has no weights.
    """
    if not num_rows or not dataset.num_rows("train"):
        return {}
    sums: dict[str, HeadSums] = {}
    for table in _features(dataset, heads, num_rows, offer).iter_batches(
        batch_format="pyarrow", batch_size=1024
    ):
        _add(sums, heads, table)
    return {
        name: total.solve([PENALTY]).reshape(-1, total.gram.shape[0])
        for name, total in sums.items()
        if total.num
    }


def _features(
    dataset: PreparedDataset, heads: Sequence[HeadSpec], num_rows: int, offer: Offer
) -> ray.data.Dataset:
    return (
        shards(dataset, "train")
        .limit(num_rows)
        .map_batches(
            ridge_rows,
            fn_kwargs={"heads": tuple(heads)},
            batch_format="pyarrow",
            batch_size=MAX_TASK_ROWS,
            **offer.decode_placement(),
        )
    )


def _add(sums: dict[str, HeadSums], heads: Sequence[HeadSpec], table: pa.Table) -> None:
    features = matrix(table.column("features")).astype(np.float64)
    others, counts = features[:0], np.zeros(len(features), dtype=np.int64)
    if OTHERS in table.column_names:
        others, counts = flat_lists(table.column(OTHERS)).astype(np.float64), num_others(table.column(OTHERS))
    for head in heads:
        targets = head.targets(table.column(head.target_field().name))
        found = numbers_of(head).ridge_rows(head, features, others, counts, targets)
        if found is not None:
            rows, wanted = found
            sums.setdefault(head.name, HeadSums.zeros(features.shape[1], wanted.shape[1:])).add(rows, wanted)
