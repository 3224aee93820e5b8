"""Rows that hold sets of images go through the stages of evaluation, without Ray."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pix2score.dataset.card import dataset_schema
from pix2score.dataset.rows import decode_shard
from pix2score.evaluate.answers import AnswerRows
from pix2score.evaluate.baseline import _add
from pix2score.evaluate.gather import Evaluation
from pix2score.evaluate.ridge_stage import ridge_rows
from pix2score.evaluate.sample import Sample
from pix2score.evaluate.stages import decode_for_evaluation
from pix2score.heads.compared import FIRST_PAGE, LABEL, MAX_IMAGES
from pix2score.heads.preference import PreferenceHead
from pix2score.metrics.findings import Findings
from pix2score.metrics.ridge import HeadSums
from pix2score.model.folder import load_model
from pix2score.report.evaluation import evaluation_page
from pix2score.storage.arrow import matrix
from pix2score.train.rows import batch_of
from tests.support.torch_helpers import COUNT_HEAD, PREPROCESS, pixels, save_network, settled_model

LIKED = PreferenceHead(name="liked", sets=60, pairs=80)
HEADS = (COUNT_HEAD, LIKED)
NUM = 60
SIZES = [(1, 2, 3)[i % 3] for i in range(NUM)]
"""Images of each row; a row of one has a count, the others ranks."""
IMAGES = pixels(sum(SIZES), seed=8, size=48)
STARTS = np.concatenate([[0], np.cumsum(SIZES)])
CALIBRATION = {"temperature": 0.5, "mean": 0.1, "std": 0.2, "quantiles": np.linspace(-2, 2, 101).tolist()}


def png(image: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def shard() -> pa.Table:
    """Rows of a prepared shard."""
    images = [png(image) for image in IMAGES]
    of_row = [images[a:b] for a, b in zip(STARTS[:-1], STARTS[1:], strict=True)]
    are_sets = [len(some) > 1 for some in of_row]
    ranks = [[1, math.nan, *np.roll(np.arange(1, n + 1), i)] if n > 1 else None for i, n in enumerate(SIZES)]
    schema = dataset_schema(pa.int64(), HEADS, [("bookmark", pa.int64()), ("liked", LABEL)])
    columns = {
        "illust_id": range(NUM),
        "page": [FIRST_PAGE - i if is_set else 0 for i, is_set in enumerate(are_sets)],
        "group": [f"g{i}" for i in range(NUM)],
        "image": [some[0] for some in of_row],
        "others": [some[1:] if is_set else None for some, is_set in zip(of_row, are_sets, strict=True)],
        "bookmark_label": [None if is_set else 20 for is_set in are_sets],
        "bookmark_bin": [-1 if is_set else 1 for is_set in are_sets],
        "liked_label": ranks,
        "liked_ranks": ranks,
    }
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("saved"))
    model = settled_model(HEADS)
    save_network(folder, model, heads=HEADS, calibrations={"liked": CALIBRATION})
    return folder


@pytest.fixture(scope="module")
def rows(place: str) -> pa.Table:
    """Answered by the model, with the guesses of a ridge."""
    sums: dict[str, HeadSums] = {}
    _add(sums, HEADS, ridge_rows(shard(), heads=HEADS))
    ridges = {name: total.solve([3.0]) for name, total in sums.items()}
    sample = Sample(shown=1.0, altered=0.5)
    decoded = decode_for_evaluation(
        shard(), heads=HEADS, preprocesses=[PREPROCESS], ridges=ridges, sample=sample
    )
    return AnswerRows([place], [0], batch_size=16, device="cpu", num_threads=1)(decoded)


def test_a_batch_has_every_image_with_its_row() -> None:
    found = batch_of(decode_shard(shard(), heads=HEADS, preprocess=PREPROCESS), HEADS, PREPROCESS)
    assert found.others is not None
    assert (found.others.counts_B.numpy() + 1).tolist() == SIZES
    assert len(found.images) == len(IMAGES)
    order = [*STARTS[:-1], *(i for i in range(len(IMAGES)) if i not in set(STARTS))]
    means = found.images.double().mean((1, 2)).numpy()
    np.testing.assert_allclose(means, IMAGES.mean((1, 2))[order], atol=3)


def test_a_model_without_the_head_reads_the_first_images_alone() -> None:
    found = batch_of(decode_shard(shard(), heads=HEADS[:1], preprocess=PREPROCESS), HEADS[:1], PREPROCESS)
    assert found.others is None
    assert len(found.images) == NUM


def test_what_is_said_of_an_image_does_not_depend_on_the_row_that_it_is_in(
    place: str, rows: pa.Table
) -> None:
    said = matrix(rows.column("liked_outputs_0"))
    assert said.shape == (NUM, MAX_IMAGES)
    assert (~np.isnan(said)).sum(axis=1).tolist() == SIZES
    first = shard().slice(0, 1)
    (row,) = first.to_pylist()
    alone = pa.Table.from_pylist([{**row, "image": png(image)} for image in IMAGES], first.schema)
    decoded = decode_for_evaluation(alone, heads=HEADS, preprocesses=[PREPROCESS], ridges={}, sample=Sample())
    of_each = AnswerRows([place], [0], batch_size=16, device="cpu", num_threads=1)(decoded)
    np.testing.assert_allclose(
        said[~np.isnan(said)], matrix(of_each.column("liked_outputs_0"))[:, 0], atol=1e-5
    )
    assert "pixels_0" not in rows.column_names
    assert "others_0" not in rows.column_names


def test_numbers_and_page_are_of_sets_beside_those_of_rows_of_one_image(place: str, rows: pa.Table) -> None:
    card, _ = load_model(place)
    evaluation = Evaluation(card, HEADS)
    evaluation.add(rows)
    verdicts, details = evaluation.metrics(), evaluation.details()
    liked = verdicts["liked"]
    assert (liked.num_labelled, verdicts["bookmark"].num_labelled) == (40, 20)
    assert liked.notes["num_pairs"] == 20 + 20 * 3
    assert liked.ridge["pair_accuracy"] == 1.0  # it was fitted to these very pairs
    assert liked.constant["pair_accuracy"] == 0.5
    assert details["liked"].altered["jpeg_75"]["images"] > 10
    findings = Findings(model_version="m", dataset_id="d", split="test", metrics=verdicts, details=details)
    page = evaluation_page(findings, HEADS, evaluation.sampled()).decode()
    for words in ("Most surely right", "Most surely wrong", r"said (left|right) before", r"set \d+<"):
        assert re.search(words, page), words
    assert re.search(r"true (left before right|right before left|\d, \d, \d)<", page)


def test_the_picture_of_a_set_shows_its_images_side_by_side(rows: pa.Table) -> None:
    widths = [Image.open(io.BytesIO(data)).width for data in rows.column("thumbnail").to_pylist()]
    assert widths == [48 * n + 4 * (n - 1) for n in SIZES]


def test_a_padding_row_has_no_image_and_no_rank() -> None:
    padding = pa.table([pa.nulls(2, field.type) for field in shard().schema], names=shard().schema.names)
    found = batch_of(decode_shard(padding, heads=HEADS, preprocess=PREPROCESS), HEADS, PREPROCESS)
    assert found.others is None
    assert bool(found.targets["liked"].isnan().all())
