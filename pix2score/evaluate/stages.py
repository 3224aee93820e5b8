"""The first stage of evaluation in workers: shard rows into pixels, and what a sample of them carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pix2score.cluster.alike import check_worker
from pix2score.dataset.rows import decode_shard
from pix2score.evaluate.alterations import sample_columns
from pix2score.evaluate.ridge_stage import ridge_answers
from pix2score.evaluate.sample import Sample, group_number, keys_of
from pix2score.heads.compared import OTHERS
from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.formulas import Floats


def decode_for_evaluation(
    rows: pa.Table,
    *,
    heads: Sequence[HeadSpec],
    preprocesses: Sequence[Preprocess],
    ridges: Mapping[str, Floats],
    sample: Sample,
) -> pa.Table:
    """Ray Data stage: shard rows in, pixels and altered copies out.

    Columns out: key, ``group`` (int64), targets, labels, ``pixels_<i>`` per preprocess and ``ridge_<head>``;
    with a head that compares ``others_<i>``, the pixels of the other images of rows that hold a set.

    And, null outside the sample, ``thumbnail`` (JPEG) and ``altered_<name>`` (pixels by the first
    preprocess).
    """
    check_worker()
    first, *others = [decode_shard(rows, heads=heads, preprocess=preprocess) for preprocess in preprocesses]
    keys = keys_of(rows)
    groups = zip(rows.column("group").to_pylist(), keys, strict=True)
    columns = {name: rows.column(name) for name in ("illust_id", "page")}
    columns["group"] = pa.array([group_number(group, key) for group, key in groups], pa.int64())
    columns |= {name: first.column(name) for name in first.column_names if name not in ("pixels", OTHERS)}
    columns |= {f"pixels_{i}": table.column("pixels") for i, table in enumerate((first, *others))}
    if OTHERS in first.column_names:
        columns |= {f"others_{i}": table.column(OTHERS) for i, table in enumerate((first, *others))}
    columns |= ridge_answers(rows, heads, ridges)
    images = rows.column("image").to_pylist()
    others_of = rows.column(OTHERS).to_pylist() if OTHERS in first.column_names else [None] * len(images)
    return pa.table(columns | sample_columns(images, others_of, keys, preprocesses[0], sample))
