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
from pix2score.evaluate.ridge_stage import ridge_rows
from pix2score.heads.compared import OTHERS, num_others
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.formulas import Floats
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.ridge import HeadSums
from pix2score.storage.arrow import flat_lists, matrix


def fit_ridges(
    dataset: PreparedDataset, heads: Sequence[HeadSpec], num_rows: int, offer: Offer
) -> dict[str, Floats]:
    """Head -> weights [G, 1 + D] of the regression from simple features to ``KindNumbers.ridge_target``.

    Learnt from ``num_rows`` train images, which are mixed; at most as many of the validation split choose the
    penalty. A head without labels among them has no weights.
    """
    learnt = _sums(dataset, "train", heads, num_rows, offer)
    chosen = _sums(dataset, "val", heads, num_rows, offer)
    weights = {}
    for name, total in learnt.items():
        if total.num:
            penalty = total.best_penalty(chosen.get(name))
            weights[name] = total.solve([penalty]).reshape(-1, total.gram.shape[0])
    return weights


def _sums(
    dataset: PreparedDataset, split: str, heads: Sequence[HeadSpec], num_rows: int, offer: Offer
) -> dict[str, HeadSums]:
    sums: dict[str, HeadSums] = {}
    if num_rows and dataset.num_rows(split):
        rows = _features(dataset, split, heads, num_rows, offer)
        for table in rows.iter_batches(batch_format="pyarrow", batch_size=1024):
            _add(sums, heads, table)
    return sums


def _features(
    dataset: PreparedDataset, split: str, heads: Sequence[HeadSpec], num_rows: int, offer: Offer
) -> ray.data.Dataset:
    return (
        shards(dataset, split)
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
