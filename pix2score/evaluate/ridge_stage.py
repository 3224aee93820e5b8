"""The simple features of rows in workers: what the ridge regression learns from, and its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.cluster.alike import check_worker
from pix2score.dataset.rows import decode_shard, other_pixels
from pix2score.heads.compared import OTHERS, by_row, num_others
from pix2score.heads.spec import HeadSpec
from pix2score.images.columns import pixels_of
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.ridge import SIDE, Floats, answers, features
from pix2score.storage.arrow import fixed_lists, lists_of

RIDGE_PREPROCESS = Preprocess(size=SIDE)


def ridge_rows(rows: pa.Table, *, heads: Sequence[HeadSpec]) -> pa.Table:
    """Ray Data stage: shard rows in; ``features`` (fixed list float32) and targets out.

    With a head that compares ``others``: lists of the features of the other images of a row.
    """
    check_worker()
    decoded = decode_shard(rows, heads=heads, preprocess=RIDGE_PREPROCESS)
    small = features(pixels_of(decoded.column("pixels"), RIDGE_PREPROCESS)).astype(np.float32)
    columns: dict[str, Any] = {n: decoded.column(n) for n in (head.target_field().name for head in heads)}
    if OTHERS in decoded.column_names:
        others, counts = _other_features(rows)
        columns[OTHERS] = lists_of(others.astype(np.float32), counts)
    return pa.table({"features": fixed_lists(small), **columns})


def ridge_answers(
    rows: pa.Table, heads: Sequence[HeadSpec], ridges: Mapping[str, Floats]
) -> dict[str, pa.Array]:
    """``ridge_<head>`` of rows of a shard, of the heads that have weights."""
    if not ridges:
        return {}
    pixels = decode_shard(rows, heads=(), preprocess=RIDGE_PREPROCESS).column("pixels")
    small = features(pixels_of(pixels, RIDGE_PREPROCESS))
    found = {name: answers(weights, small) for name, weights in ridges.items()}
    for head in heads:
        if head.COMPARES and head.name in ridges:
            others, counts = _other_features(rows)
            of_others = answers(ridges[head.name], others)[:, 0]
            found[head.name] = by_row(found[head.name][:, 0], of_others, counts)
    return {f"ridge_{name}": fixed_lists(guess.astype(np.float32)) for name, guess in found.items()}


def _other_features(rows: pa.Table) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Simple features of the images of a shard's rows beyond the first, and how many each row has."""
    flat = pa.chunked_array([other_pixels(rows, RIDGE_PREPROCESS).flatten()])
    return features(pixels_of(flat, RIDGE_PREPROCESS)), num_others(rows.column(OTHERS))
